"""Two runs, or two sets of seeds, on the same held-out prompts: what differs, with an interval."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from thinkrl.benchmarks.result import ProtocolMismatch
from thinkrl.config.component import ConfigError
from thinkrl.reproduction.readings import FinishedRun
from thinkrl.reproduction.statistics import Estimate, over_seeds_and_prompts
from thinkrl.reproduction.verdicts import aligned

VALIDATION = "validation"
"""Evaluations whose names begin so ask prompts to choose by, and not those of the test."""


@dataclass(frozen=True)
class Difference:
    """A metric of both sides, and second - first, paired by prompt (and by seed). prompts: with a value on both."""

    metric: str
    first: float
    second: float
    estimate: Estimate
    prompts: int


@dataclass(frozen=True)
class Compared:
    """Two sides, compared. stages: the evaluation of each. pairs: the seeds that were paired.

    differing: fields in which the protocols differ, where that was forced. alone: prompts that one side only was asked.
    """

    stages: tuple[str, str]
    pairs: tuple[tuple[int | None, int | None], ...]
    protocols: tuple[str, str]
    differences: tuple[Difference, ...]
    differing: tuple[str, ...]
    alone: int

    def as_json(self) -> dict[str, Any]:
        """JSON values; null where there is no number."""
        return {
            "format": 1,
            "stages": list(self.stages),
            "seeds": [list(pair) for pair in self.pairs],
            "protocols": list(self.protocols),
            "differing": list(self.differing),
            "prompts_of_one_side": self.alone,
            "metrics": {
                one.metric: {
                    "first": _number(one.first),
                    "second": _number(one.second),
                    "difference": _number(one.estimate.value),
                    "low": _number(one.estimate.low),
                    "high": _number(one.estimate.high),
                    "per_seed": [_number(value) for value in one.estimate.per_seed],
                    "prompts": one.prompts,
                }
                for one in self.differences
            },
        }


def compare_runs(
    first: Sequence[FinishedRun],
    second: Sequence[FinishedRun],
    of_stages: tuple[str | None, str | None] = (None, None),
    force: bool = False,
) -> Compared:
    """Second - first, on the prompts that all runs were asked.

    One run a side is one pair whatever its seed; otherwise runs with the same seed are paired. of_stages: the
    evaluation read of each side; None takes the last one on test prompts. Raises ProtocolMismatch where they were
    measured under different protocols and `force` is off, ConfigError without a common prompt or seed.
    """
    pairs = _pairs(first, second)
    sides = ([pair[0] for pair in pairs], [pair[1] for pair in pairs])
    stages = (of_stages[0] or _last_test(sides[0][0]), of_stages[1] or _last_test(sides[1][0]))
    results = [[run.result(stage) for run in side] for side, stage in zip(sides, stages, strict=True)]
    protocols = [result.protocol for side in results for result in side]
    differing = tuple(dict.fromkeys(name for other in protocols[1:] for name in protocols[0].differences(other)))
    if differing and not force:
        raise ProtocolMismatch(
            f"the runs were measured under different protocols ({', '.join(dict.fromkeys(p.hash for p in protocols))});"
            f" these fields differ: {', '.join(differing)}. --force compares them all the same"
        )
    everyone = [set(result.prompt_ids) for side in results for result in side]
    found = [metric for metric in results[0][0].measures if metric in results[1][0].measures]
    return Compared(
        stages=(stages[0], stages[1]),
        pairs=tuple((_seed(a), _seed(b)) for a, b in pairs),
        protocols=(results[0][0].protocol.hash, results[1][0].protocol.hash),
        differences=tuple(_difference(metric, sides, stages) for metric in found),
        differing=differing,
        alone=len(everyone[0].union(*everyone) - everyone[0].intersection(*everyone)),
    )


def _pairs(first: Sequence[FinishedRun], second: Sequence[FinishedRun]) -> list[tuple[FinishedRun, FinishedRun]]:
    if len(first) == len(second) == 1:
        return [(first[0], second[0])]
    one, other = _by_seed(first), _by_seed(second)
    common = [seed for seed in one if seed in other]
    if not common:
        raise ConfigError(f"the sides have no seed in common: {sorted(one)} and {sorted(other)}")
    return [(one[seed], other[seed]) for seed in common]


def _by_seed(runs: Sequence[FinishedRun]) -> Mapping[int, FinishedRun]:
    found: dict[int, FinishedRun] = {}
    for run in runs:
        seed = _seed(run)
        if seed is None or seed in found:
            raise ConfigError(f"{run.path}: one side must be runs with different seeds, and seed {seed} is there twice")
        found[seed] = run
    return dict(sorted(found.items()))


def _seed(run: FinishedRun) -> int | None:
    seed = run.record.get("seed")
    return seed if isinstance(seed, int) else None


def _last_test(run: FinishedRun) -> str:
    """The last evaluation on test prompts, else the last one. ConfigError without any."""
    run.result(None)
    names = list(run.results)
    return next((name for name in reversed(names) if not name.startswith(VALIDATION)), names[-1])


def _difference(metric: str, sides: tuple[list[FinishedRun], list[FinishedRun]], stages: tuple[str, str]) -> Difference:
    a, b = aligned([[run.per_prompt(metric, stage) for run in side] for side, stage in zip(sides, stages, strict=True)])
    known = ~(np.isnan(a) | np.isnan(b))
    means = [float(side[known].mean()) if known.any() else float("nan") for side in (a, b)]
    estimate = over_seeds_and_prompts(b, a, "difference")
    return Difference(metric, means[0], means[1], estimate, int(known.any(axis=0).sum()))


def _number(value: float) -> float | None:
    return None if value != value else value
