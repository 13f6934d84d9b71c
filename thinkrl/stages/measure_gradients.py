"""A probe: what learning from responses would ask of every layer, for responses that think more or less."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from thinkrl.config.component import BatchPrompts
from thinkrl.data.chat import ChatRenderer
from thinkrl.data.plain_text import PlainRenderer
from thinkrl.data.source import DataError
from thinkrl.data.traces import Trace, TraceSource
from thinkrl.models.policy import Policy
from thinkrl.probes.gradient_spectra import PROJECTIONS, Projection, response_gradient
from thinkrl.rollouts.streams import generator
from thinkrl.stages.artifacts import FromStage, Kind
from thinkrl.stages.context import StageContext
from thinkrl.stages.gradient_summary import IRRELEVANT, figure, metrics, summary
from thinkrl.stages.stage import Stage
from thinkrl.tracking.json_values import dump_json
from thinkrl.tracking.recorder import Stopwatch
from thinkrl.tracking.tables import read_table, write_table

_TOKENS_PER_RESPONSE = 1000
"""Measuring a response takes about as long as sampling so many tokens."""


@dataclass(frozen=True, kw_only=True)
class MeasureGradients(Stage):
    """Gradients of the mean loss of one response at a time, at the attention projections of every layer: their singular
    values, the curves of these over the layers, how uneven the curves are, and how far those of responses to other
    prompts are from them (arXiv 2410.23743). Nothing is trained.

    Writes gradients/*.parquet (a row a gradient), spectra.json (curves and numbers) and spectra.svg (the figure).
    """

    makes: ClassVar[tuple[Kind, ...]] = ()

    levels: Mapping[str, TraceSource | FromStage]
    """Responses by name, such as none, short, detailed: each with the same prompts in the same order."""
    samples: BatchPrompts = 100
    """Prompts measured, drawn by the seed."""
    irrelevant: bool = True
    """Measures each level with the responses of other prompts, too."""
    prompts_per_step: BatchPrompts = 4
    """Prompts between two checkpoints."""
    projections: tuple[Projection, ...] = PROJECTIONS
    """Of q, k, v, o: which are kept."""
    text: Literal["chat", "plain"] = "chat"
    """`chat` renders prompts with the template; `plain` writes prompt, newline, response, as for base models."""
    end: bool = False
    """Whether the response's end token is learned, too."""
    max_tokens: int = 1024
    """Longer texts are cut at their end; a response of which nothing is left is not measured."""

    def __post_init__(self) -> None:
        for name, least in (("samples", 1 + self.irrelevant), ("prompts_per_step", 1), ("max_tokens", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name, value in (("levels", self.levels), ("projections", self.projections)):
            if not value or len(set(value)) < len(value):
                raise ValueError(f"{name} must be different ones, at least one, got {list(value)}")
        if any("/" in name for name in self.levels):
            raise ValueError(f"levels must have names without '/', got {list(self.levels)}")

    def needs(self) -> tuple[tuple[str, Kind], ...]:
        """The stages whose traces are read, if any."""
        return tuple((level.stage, "traces") for level in self.levels.values() if isinstance(level, FromStage))

    def check(self) -> None:
        """Reads the traces, unless an earlier stage is to make them."""
        self._same_prompts({k: v.traces() for k, v in self.levels.items() if not isinstance(v, FromStage)})

    def plan(self) -> str:
        """What will be done, with its sizes."""
        kinds = f"{len(self.levels)} levels{', right and irrelevant' if self.irrelevant else ''}"
        return f"measure gradients layer by layer: {self.samples} prompts, {kinds}"

    def work(self) -> float:
        """Responses measured."""
        return float(self.samples * len(self.levels) * (1 + self.irrelevant) * _TOKENS_PER_RESPONSE)

    def run(self, context: StageContext) -> Mapping[str, Path]:
        """Measures some prompts a step; what is logged is of all so far."""
        total = -(-self.samples // self.prompts_per_step)
        done = context.resume(total).step
        path = partial("{}/gradients/{:06d}.parquet".format, context.folder)
        rows = [row for step in range(1, done + 1) for row in read_table(Path(path(step)))]
        policy = context.load_policy(self.model_from)
        levels = self._same_prompts({name: context.load_traces(source) for name, source in self.levels.items()})
        chosen = generator(context.seed, context.name, "prompts").permutation(len(next(iter(levels.values()))))
        chosen = chosen[: self.samples]
        for step in range(done + 1, total + 1):
            watch = Stopwatch()
            places = range((step - 1) * self.prompts_per_step, min(step * self.prompts_per_step, self.samples))
            with watch("update"):
                found = [row for place in places for row in self._measure(policy, levels, chosen, place)]
            if context.ranks.first:
                write_table(Path(path(step)), found)
            rows += found
            context.finish_step(step, total, metrics(rows), watch, every=1)
        context.write_text(context.folder / "spectra.json", dump_json(summary(rows)) + "\n")
        context.write_text(context.folder / "spectra.svg", figure(rows, policy.name))
        return {}

    def _measure(
        self, policy: Policy, levels: Mapping[str, Sequence[Trace]], chosen: Any, place: int
    ) -> list[dict[str, Any]]:
        """Rows of the prompt at `place` of `chosen`, with its own responses and with those of the next one."""
        renderer = ChatRenderer(policy.tokenizer) if self.text == "chat" else PlainRenderer(policy.tokenizer)
        rows = []
        for name, traces in levels.items():
            prompt = traces[int(chosen[place])].prompt
            for kind in range(1 + self.irrelevant):
                trace = traces[int(chosen[(place + kind) % len(chosen)])]
                start = renderer.prompt_ids(prompt.messages)
                response, given = renderer.response_parts(trace.response, trace.given, self.end)
                ids = np.concatenate([start, response])[: self.max_tokens]
                learned = np.concatenate([np.zeros(len(start), np.bool_), ~given])[: self.max_tokens]
                if not learned[1:].any():
                    continue
                found = response_gradient(policy.module, ids, learned, self.projections)
                about = {"responses": name + kind * IRRELEVANT, "prompt_id": prompt.prompt_id, "tokens": found.tokens}
                rows += [
                    {**about, "loss": found.loss, "projection": which, "layer": layer, **asdict(one)}
                    for (which, layer), one in found.spectra.items()
                ]
        return rows

    def _same_prompts(self, levels: Mapping[str, Sequence[Trace]]) -> Mapping[str, Sequence[Trace]]:
        """`levels`, when all of them have responses to as many prompts, and enough."""
        counts = {name: len(traces) for name, traces in levels.items()}
        if len(set(counts.values())) > 1 or min(counts.values(), default=self.samples) < self.samples:
            told = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise DataError(f"levels must answer the same prompts, at least {self.samples} of them, got {told}")
        return levels
