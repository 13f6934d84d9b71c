"""Demonstrations played through the tools of an environment, handed on as the traces of a cold start."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from thinkrl.config.component import PromptCount
from thinkrl.data.demonstrations import Demonstration, DemonstrationSource
from thinkrl.environments.played import play
from thinkrl.environments.tool_use import ToolUse
from thinkrl.rollouts.calls import call_metrics
from thinkrl.stages.artifacts import Kind
from thinkrl.stages.context import StageContext
from thinkrl.stages.stage import Stage
from thinkrl.tracking.recorder import Stopwatch

_TOKENS_PER_DEMONSTRATION = 20
"""Running a short program takes as long as sampling about this many tokens."""


@dataclass(frozen=True, kw_only=True)
class Demonstrate(Stage):
    """Writes down what a policy should write, turn by turn, with what the tools really say between: their words are
    given in the traces, and carry no loss."""

    makes: ClassVar[tuple[Kind, ...]] = ("traces",)

    demonstrations: DemonstrationSource
    """What the policy should write."""
    environment: ToolUse
    """The tools, and how calls and answers are written."""
    count: PromptCount = 1_000_000
    """At most this many demonstrations, from the start."""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count must be at least 1, got {self.count}")

    def check(self) -> None:
        """Reads the demonstrations."""
        self._chosen()

    def plan(self) -> str:
        """What will be done, with its sizes."""
        tools = ", ".join(self.environment.tools) or "no tools"
        return f"play {len(self._chosen())} demonstrations through {tools}"

    def work(self) -> float:
        """Programs run, about as long as they take."""
        return float(len(self._chosen()) * _TOKENS_PER_DEMONSTRATION)

    def run(self, context: StageContext) -> Mapping[str, Path]:
        """Asks the tools, and writes the traces."""
        path = context.folder / "traces.jsonl"
        if context.resume(total=1).step == 0:
            policy, watch = context.load_policy(self.model_from), Stopwatch()
            with watch("sample"):
                # Of several processes each asks: there is nothing random in it.
                played = play(self._chosen(), self.environment, policy.tokenizer)
            context.write_traces([one.trace for one in played])
            row = {"traces": float(len(played)), **call_metrics([one.calls for one in played])}
            context.finish_step(1, 1, row, watch, every=1)
        return {"traces": path}

    def _chosen(self) -> Sequence[Demonstration]:
        return list(self.demonstrations.demonstrations())[: self.count]
