"""Evaluation of reward models: right solutions against many wrong ones, and what following a model's score comes to."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from thinkrl.benchmarks.metrics import Scores
from thinkrl.benchmarks.one_to_many import (
    best_of_n_curve,
    one_to_many,
    pearson,
    pearson_interval,
)
from thinkrl.companions.companion import CompanionSource, CompanionStart
from thinkrl.config.component import ConfigError
from thinkrl.data.comparisons import Comparison, ComparisonSource
from thinkrl.data.responses import GivenResponse
from thinkrl.grading.extraction import AnswerExtractor
from thinkrl.grading.grader import Grader
from thinkrl.grading.verdict import Verdict
from thinkrl.rewards.majority_vote import as_one
from thinkrl.rollouts.prompt import Prompt
from thinkrl.rollouts.store import FinishReason, Rollouts
from thinkrl.sampling.sampler import SamplingSpec
from thinkrl.stages.artifacts import FromStage, Kind
from thinkrl.stages.context import StageContext
from thinkrl.stages.scoring import make_rollouts
from thinkrl.stages.stage import Stage
from thinkrl.tracking.recorder import Stopwatch

_TOKENS_PER_RESPONSE = 40
"""Scoring a response takes about as long as sampling so many tokens."""
_WORTH = {Verdict.CORRECT.value: 1.0, Verdict.WRONG.value: 0.0}


@dataclass(frozen=True, kw_only=True)
class EvaluateRewardModels(Stage):
    """Measures each of several reward models, and over all of them how far a benchmark tells what following them brings
    (RewardMATH, arXiv 2410.01729).

    Of each model and each benchmark: `MODEL/BENCHMARK/strict`, the share of problems whose right solutions all have
    higher scores than every wrong one; `tolerant`, or as high; `reciprocal_rank`; `unscored` solutions. With `choices`:
    `MODEL/best_of_N`, the share of right ones among responses with the highest of N scores; `MODEL/proxy_N`, that
    score; `MODEL/overoptimisation`, the last best_of_N less the highest. In the last row, over the models:
    `correlation/BENCHMARK`, Pearson's r of `strict` with the last best_of_N, with a bootstrap interval, and
    `robustness/BENCHMARK`, the same with `overoptimisation`; `mean/BENCHMARK` and `spread/BENCHMARK` of `strict`.
    """

    makes: ClassVar[tuple[Kind, ...]] = ()

    benchmarks: Mapping[str, ComparisonSource]
    """What solutions are compared, by name."""
    companions: Mapping[str, CompanionSource]
    """The models, by name: each supplies one number for each response, such as a `RewardModel` or a judge."""
    choices: FromStage | None = None
    """The stage that sampled responses to choose among, several to a prompt; null chooses none."""
    sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256)
    """How many of them are chosen among, the first of each prompt; sizes above what every prompt has are left out."""
    extractor: AnswerExtractor = field(default_factory=AnswerExtractor)
    """Finds the answers, which vote where several responses have the highest score."""
    same: Grader | None = None
    """Which answers count as one, such as 1/2 and 0.5; null compares strings."""

    def __post_init__(self) -> None:
        if not self.benchmarks or not self.companions:
            raise ValueError("benchmarks and companions must name at least one each")
        for name, source in self.companions.items():
            shapes = [signal.shape for signal in source.supplies()]
            if shapes != ["number"]:
                raise ValueError(
                    f"companions.{name} must supply one number for each response, got {shapes or 'nothing'}"
                )
        if not self.sizes or sorted(set(self.sizes)) != list(self.sizes) or self.sizes[0] < 1:
            raise ValueError(f"sizes must rise from 1 or more, got {list(self.sizes)}")

    def needs(self) -> tuple[tuple[str, Kind], ...]:
        """The stages that trained the models, and the one that sampled."""
        needed = super().needs()
        return (*needed, *(((self.choices.stage, "traces"),) if self.choices else ()))

    def check(self) -> None:
        """Reads the benchmarks, and looks for the models."""
        for source in self.benchmarks.values():
            source.comparisons()
        for companion in self.companions.values():
            companion.check()

    def plan(self) -> str:
        """What will be done, with its sizes."""
        chosen = f", and on choices among responses of {self.choices.stage}" if self.choices else ""
        return f"measure {len(self.companions)} reward models on {', '.join(self.benchmarks)}{chosen}"

    def work(self) -> float:
        """Solutions scored; those that an earlier stage is to make do not count."""
        count = sum(
            len(one.chosen) + len(one.rejected) for source in self.benchmarks.values() for one in source.comparisons()
        )
        return float(len(self.companions) * count * _TOKENS_PER_RESPONSE)

    def run(self, context: StageContext) -> Mapping[str, Path]:
        """One step a model; the rows of the log have what was found."""
        if context.ranks.size > 1:
            raise ConfigError(f"stage '{context.name}' measures reward models, which learner.processes=1 only can")
        state = context.resume(len(self.companions))
        saved: Any = state.values.get("found", [])
        found: list[dict[str, float]] = list(saved)
        read = {name: source.comparisons() for name, source in self.benchmarks.items()}
        pool = self._pool(context)
        for step, (name, source) in enumerate(list(self.companions.items())[state.step :], start=state.step + 1):
            watch = Stopwatch()
            with watch("signals"), ExitStack() as closing:
                measured = self._measure(name, source, read, pool, context, closing)
            found.append(measured)
            row = {f"{name}/{metric}": value for metric, value in measured.items()}
            if step == len(self.companions):
                row |= self._over_models(found)
            context.finish_step(step, len(self.companions), row, watch, every=1, found=found)
        return {}

    def _measure(
        self,
        name: str,
        source: CompanionSource,
        read: Mapping[str, Sequence[Comparison]],
        pool: "_Choices | None",
        context: StageContext,
        closing: ExitStack,
    ) -> dict[str, float]:
        """Everything about one model."""
        nobody: Any = None  # the responses are there already, and no policy is asked for any
        start = CompanionStart(
            policy=nobody, model=context.model, weights=context.weights, total_steps=1, seed=context.seed,
            sampler=nobody, spec=SamplingSpec(), stage=context.name, folder=context.folder / name, closing=closing,
        )  # fmt: skip
        model = source.open(start)
        (signal,) = source.supplies()

        def scores(rollouts: Rollouts) -> Scores:
            return np.asarray(model.signals(rollouts)[signal.name], dtype=np.float64)

        found: dict[str, float] = {}
        for benchmark, comparisons in read.items():
            values = scores(_solutions(comparisons))
            rows = [one_to_many(*sides) for sides in _sides(comparisons, values)]
            found |= {f"{benchmark}/{metric}": float(np.mean([row[metric] for row in rows])) for metric in rows[0]}
            found[f"{benchmark}/unscored"] = float(np.mean(np.isnan(values)))
        if pool is not None:
            followed = np.concatenate([scores(part) for part in pool.parts])
            found |= best_of_n_curve(followed, pool.right, pool.answers, pool.groups, self.sizes)
        return found

    def _pool(self, context: StageContext) -> "_Choices | None":
        if self.choices is None:
            return None
        stored = list(context.stored_rollouts(self.choices.stage))
        parts = [one.rollouts for one in stored]
        groups: list[list[int]] = []
        first = 0
        for part in parts:
            groups += [[first + int(row) for row in rows] for rows in part.rows_by_group().values()]
            first += len(part)
        right = np.asarray([_WORTH.get(str(verdict), np.nan) for one in stored for verdict in one.columns["verdict"]])
        answers = [self.extractor.extract(text) for part in parts for text in part.texts]
        if self.same is not None:
            answers = [form or None for form in as_one([a or "" for a in answers], self.same, groups)]
        judged = [[row for row in rows if not np.isnan(right[row])] for rows in groups]
        judged = [rows for rows in judged if rows]
        if not judged:
            raise context.empty(f"stage '{self.choices.stage}' sampled no response with a verdict")
        return _Choices(parts, judged, right, answers)

    def _over_models(self, found: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """How far each benchmark tells what following the models brings."""
        row: dict[str, float] = {}
        for benchmark in self.benchmarks:
            strict = np.asarray([one[f"{benchmark}/strict"] for one in found])
            row |= {f"mean/{benchmark}": float(strict.mean()), f"spread/{benchmark}": float(strict.std())}
            if "overoptimisation" in found[0]:
                gold, robust = (np.asarray([one[key] for one in found]) for key in ("gold", "overoptimisation"))
                interval = pearson_interval(strict, gold)
                row |= {
                    f"correlation/{benchmark}": pearson(strict, gold),
                    f"correlation/{benchmark}/low": interval.low,
                    f"correlation/{benchmark}/high": interval.high,
                    f"robustness/{benchmark}": pearson(strict, robust),
                }
        return row


@dataclass(frozen=True, eq=False)
class _Choices:
    """Responses to choose among, in the parts that were stored. groups: rows of each prompt that have a verdict, over
    all parts; right, answers: of every row."""

    parts: Sequence[Rollouts]
    groups: Sequence[Sequence[int]]
    right: Scores
    answers: Sequence[str | None]


def _solutions(comparisons: Sequence[Comparison]) -> Rollouts:
    """The solutions of all comparisons as responses, right ones first, one token each."""
    given = [
        GivenResponse(
            where=one.comparison_id,
            prompt=Prompt(one.comparison_id, one.messages, one.metadata.get("reference"), one.subset, one.metadata),
            response_id=f"{one.comparison_id}/{place}",
            given_ids=(one.comparison_id, place),
            text=text,
            finish_reason=FinishReason.STOP,
            token_count=None,
            signals={},
        )
        for one in comparisons
        for place, text in enumerate((*one.chosen, *one.rejected))
    ]
    return make_rollouts(given, {}, None)[0]


def _sides(comparisons: Sequence[Comparison], scores: Scores) -> list[tuple[list[float], list[float]]]:
    """The scores of the right and of the wrong solutions of each comparison."""
    found, first = [], 0
    for one in comparisons:
        middle, stop = first + len(one.chosen), first + len(one.chosen) + len(one.rejected)
        found.append((scores[first:middle].tolist(), scores[middle:stop].tolist()))
        first = stop
    return found
