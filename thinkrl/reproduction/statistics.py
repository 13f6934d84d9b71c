"""Intervals of a comparison over seeds and held-out prompts, and the verdict that follows from one."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan, nan, sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from thinkrl.rollouts.streams import generator

Verdict = Literal["reproduced", "not reproduced", "inconclusive"]
Comparison = Literal["difference", "ratio"]
Values = NDArray[np.float64]
DRAWS = 10_000

_T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""97.5% quantiles of Student's t with 1 to 10 degrees of freedom."""
_NORMAL_QUANTILE = 1.96


@dataclass(frozen=True)
class Estimate:
    """A comparison with its 95% interval. `per_seed`: the same of each seed alone."""

    value: float
    low: float
    high: float
    per_seed: tuple[float, ...]


def over_seeds_and_prompts(method: Values, baseline: Values, compare: Comparison) -> Estimate:
    """Compares means of [seeds, prompts] measured on the same prompts with the same seeds.

    Seeds and prompts are both drawn anew, independently of each other, and every seed's value of a drawn
    prompt is taken (Owen 2007, the pigeonhole bootstrap): prompts are common to all seeds. It tends to be
    too wide rather than too narrow, except that three seeds cannot show how rare a bad one is. NaN (no
    verdict in either arm) is left out of both.
    """
    if method.shape != baseline.shape:
        raise ValueError(f"method and baseline must be of one shape, got {method.shape} and {baseline.shape}")
    known = ~(np.isnan(method) | np.isnan(baseline))
    sides = np.stack([np.where(known, side, 0.0) for side in (method, baseline)])
    per_seed = tuple(
        _compared(sides[:, row].sum(axis=1) / max(known[row].sum(), 1), compare) for row in range(len(known))
    )
    if not known.any():
        return Estimate(nan, nan, nan, per_seed)
    seeds, prompts = known.shape
    stream = generator("reproduction", seeds, prompts)
    drawn = np.full(DRAWS, nan)
    for draw in range(DRAWS):
        rows = np.bincount(stream.integers(0, seeds, seeds), minlength=seeds)
        columns = np.bincount(stream.integers(0, prompts, prompts), minlength=prompts)
        weights = rows[:, None] * columns[None, :] * known
        if weights.any():
            drawn[draw] = _compared((sides * weights).sum(axis=(1, 2)) / weights.sum(), compare)
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return Estimate(_compared(sides.sum(axis=(1, 2)) / known.sum(), compare), float(low), float(high), per_seed)


def over_seeds(method: Sequence[float], baseline: Sequence[float], compare: Comparison) -> Estimate:
    """Compares one number a seed: mean of the seeds' comparisons, with Student's interval (none for one seed)."""
    per_seed = [_compared(np.asarray(pair), compare) for pair in zip(method, baseline, strict=True)]
    return Estimate(*student_interval(per_seed), tuple(per_seed))


def student_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean of one number a seed, with the bounds of its 95% interval; these are NaN for fewer than two."""
    mean = float(np.mean(values)) if len(values) else nan
    if len(values) < 2 or isnan(mean):
        return mean, nan, nan
    quantile = _T_QUANTILES[len(values) - 2] if len(values) - 2 < len(_T_QUANTILES) else _NORMAL_QUANTILE
    half = quantile * float(np.std(values, ddof=1)) / sqrt(len(values))
    return mean, mean - half, mean + half


def decide(estimate: Estimate, at_least: float | None, at_most: float | None) -> Verdict:
    """Reproduced when the whole interval satisfies the bound, not reproduced when none of it does."""
    if isnan(estimate.low) or isnan(estimate.high):
        return "inconclusive"
    if at_least is not None:
        low, high = estimate.low - at_least, estimate.high - at_least
    elif at_most is not None:
        low, high = at_most - estimate.high, at_most - estimate.low
    else:
        raise ValueError("at_least or at_most must be given, got neither")
    if low >= 0:
        return "reproduced"
    return "not reproduced" if high < 0 else "inconclusive"


def overall(verdicts: Sequence[Verdict]) -> Verdict:
    """A claim is as good as its worst check."""
    for worst in ("not reproduced", "inconclusive"):
        if worst in verdicts:
            return worst
    return "reproduced" if verdicts else "inconclusive"


def _compared(sides: Values, compare: Comparison) -> float:
    """Of two numbers, method first."""
    method, baseline = sides.tolist()
    if compare == "difference":
        return float(method - baseline)
    return float(method / baseline) if baseline else nan
