"""Supervised fine-tuning on traces: the cold start, and learning from what was kept."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from thinkrl.config.component import Epochs, Steps
from thinkrl.data.chat import ChatRenderer
from thinkrl.data.traces import Trace, TraceSource
from thinkrl.learning.learner import Example, LearnerSource
from thinkrl.rollouts.streams import generator
from thinkrl.stages.artifacts import FromStage, Kind
from thinkrl.stages.context import StageContext
from thinkrl.stages.stage import Stage
from thinkrl.tracking.recorder import Stopwatch

_TOKENS_PER_TRACE = 130
"""Learning from a short trace takes as long as sampling about this many tokens (measured with quickstart)."""


@dataclass(frozen=True, kw_only=True)
class SFT(Stage):
    """Cross-entropy on the responses of traces; prompts, and what of a response is given, carry no loss."""

    makes: ClassVar[tuple[Kind, ...]] = ("model",)

    traces: TraceSource | FromStage
    """Where the traces come from: a data source, or an earlier stage by name."""
    learner: LearnerSource
    """Optimizer and batching."""
    epochs: Epochs = 1
    """Passes over the traces; each pass has its own order."""
    batch_size: int = 16
    """Traces per optimizer step; the last step of a pass may hold fewer."""
    max_steps: Steps = 1_000_000
    """Ends the stage early after this many steps."""
    checkpoint_every: int = 50
    """Steps between checkpoints."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "max_steps", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def needs(self) -> tuple[tuple[str, Kind], ...]:
        """The stage whose traces are read, if any."""
        return ((self.traces.stage, "traces"),) if isinstance(self.traces, FromStage) else ()

    def check(self) -> None:
        """Looks for what the learner needs, and reads the traces, unless an earlier stage is to make them."""
        self.learner.check()
        if not isinstance(self.traces, FromStage):
            self.traces.traces()

    def plan(self) -> str:
        """What will be done, with its sizes."""
        source = f"stage {self.traces.stage}" if isinstance(self.traces, FromStage) else type(self.traces).__name__
        return f"SFT on traces from {source}: {self.epochs} epochs in batches of {self.batch_size}"

    def work(self) -> float:
        """Traces seen; those an earlier stage is to make count as one batch."""
        count = self.batch_size if isinstance(self.traces, FromStage) else len(self.traces.traces())
        return min(self.epochs * count, self.max_steps * self.batch_size) * _TOKENS_PER_TRACE

    def run(self, context: StageContext) -> Mapping[str, Path]:
        """Trains and saves the model."""
        policy = context.load_policy(self.model_from, for_training=self.learner.needs_masters)
        renderer = ChatRenderer(policy.tokenizer)
        examples = [_example(trace, renderer) for trace in context.load_traces(self.traces)]
        if not examples:
            raise context.empty("there are no traces to learn from")
        batches = -(-len(examples) // self.batch_size)
        total = min(self.epochs * batches, self.max_steps)
        learner = self.learner.open(policy, total_steps=total, with_reference=False)
        for step in range(context.resume(total, learner).step + 1, total + 1):
            watch = Stopwatch()
            epoch, batch = divmod(step - 1, batches)
            order = generator(context.seed, context.name, "epoch", epoch).permutation(len(examples))
            chosen = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            with watch("update"):
                report = learner.supervise([examples[int(index)] for index in chosen])
            row = {**report.row(), "epoch": epoch, "traces": len(chosen)}
            context.finish_step(step, total, row, watch, every=self.checkpoint_every, learner=learner)
        return {"model": context.save_policy(policy, learner)}


def _example(trace: Trace, renderer: ChatRenderer) -> Example:
    ids, given = renderer.response_parts(trace.response, trace.given, end=True)
    return Example(renderer.prompt_ids(trace.prompt.messages), ids, given if trace.given else None)
