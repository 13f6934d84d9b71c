"""Accuracy, pass@k and majority votes over k samples a prompt, with intervals over prompts.

Scores are [n prompts, k samples]: 1 correct, 0 wrong, NaN where there is no verdict (ungradable
reference, checker timed out). NaN is left out and counted by the caller, never read as 0.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import comb, nan, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from thinkrl.rollouts.streams import generator

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A confidence interval; `low` and `high` are NaN when there is nothing to measure."""

    low: float
    high: float
    level: float = 0.95


def prompt_means(scores: Scores) -> Scores:
    """Mean over the samples of each prompt that have a verdict, [n]; NaN for a prompt with none."""
    counts = np.sum(~np.isnan(scores), axis=1)
    sums = np.nansum(scores, axis=1)
    means: Scores = np.divide(sums, counts, out=np.full(len(scores), np.nan), where=counts > 0)
    return means


def accuracy(scores: Scores) -> float:
    """Mean over prompts of the mean over their samples; NaN when no prompt has a verdict."""
    means = prompt_means(scores)
    kept = means[~np.isnan(means)]
    return float(kept.mean()) if len(kept) else nan


def pass_probability(samples: int, correct: int, k: int) -> Fraction:
    """The chance that k of `samples` drawn without replacement hold a correct one, exactly.

    1 - C(n - c, k) / C(n, k), the unbiased estimator of pass@k (Chen et al. 2021, arXiv 2107.03374, eq. 1).
    Raises ValueError unless 0 <= correct <= samples and 1 <= k <= samples.
    """
    if not 0 <= correct <= samples:
        raise ValueError(f"correct must be between 0 and {samples}, got {correct}")
    if not 1 <= k <= samples:
        raise ValueError(f"k must be between 1 and {samples}, got {k}")
    return 1 - Fraction(comb(samples - correct, k), comb(samples, k))


def pass_at_k(scores: Scores, k: int) -> float:
    """Mean pass@k over the prompts that have at least k verdicts; NaN when none has."""
    chances = [
        pass_probability(len(row), int(row.sum()), k) for row in (r[~np.isnan(r)] for r in scores) if len(row) >= k
    ]
    return float(sum(chances, Fraction(0)) / len(chances)) if chances else nan


def majority_score(answers: Sequence[str | None], scores: Sequence[float]) -> float:
    """Whether the most frequent answer of one prompt is correct (self-consistency, arXiv 2203.11171).

    Answers vote as text. Missing answers and those without a verdict do not vote. Between answers
    with equally many votes the score is their mean. 0 when nobody votes, NaN when no answer has a verdict.
    """
    if all(np.isnan(score) for score in scores):
        return nan
    ballots = [(answer, score) for answer, score in zip(answers, scores, strict=True) if not np.isnan(score)]
    votes = Counter(answer for answer, _ in ballots if answer is not None)
    if not votes:
        return 0.0
    most = max(votes.values())
    winners = [answer for answer, count in votes.items() if count == most]
    # Equal texts can differ in verdict only when a checker is not a function of the text; their mean is fair then.
    shares = [np.mean([score for answer, score in ballots if answer == winner]) for winner in winners]
    return float(np.mean(shares))


def majority_at_k(answers: Sequence[Sequence[str | None]], scores: Scores) -> float:
    """Mean of `majority_score` over prompts, all k samples voting; NaN when no prompt has a verdict."""
    values = np.asarray([majority_score(row, list(marks)) for row, marks in zip(answers, scores, strict=True)])
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if len(kept) else nan


def overthought(scores: Scores) -> float:
    """The share of responses [n, k, cuts] whose last answer scores less than an earlier one (arXiv 2505.13438); NaN
    when no response has a verdict at every cut."""
    rows = scores.reshape(-1, scores.shape[-1])
    known = rows[~np.isnan(rows).any(axis=1)]
    return float(np.mean(known.max(axis=1) > known[:, -1])) if len(known) else nan


def bootstrap_interval(values: Scores, seed: int, level: float = 0.95, draws: int = 10_000) -> Interval:
    """Percentile bootstrap of the mean of `values` [n]; prompts are resampled, NaN left out."""
    kept = values[~np.isnan(values)]
    if len(kept) == 0:
        return Interval(nan, nan, level)
    stream = generator("bootstrap", seed)
    # At most a few million indices at a time.
    size = max(1, 2_000_000 // len(kept))
    means = [
        kept[stream.integers(0, len(kept), (min(size, draws - start), len(kept)))].mean(axis=1)
        for start in range(0, draws, size)
    ]
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), level)


def wilson_interval(successes: int, trials: int, level: float = 0.95) -> Interval:
    """Score interval of a proportion (Wilson 1927); never of zero width, also at 0 and at 1."""
    if not 0 <= successes <= trials:
        raise ValueError(f"successes must be between 0 and {trials}, got {successes}")
    if trials == 0:
        return Interval(nan, nan, level)
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    # At the ends the bounds are exactly 0 and 1; rounding would leave a speck.
    low = centre - half if successes else 0.0
    high = centre + half if successes < trials else 1.0
    return Interval(low, high, level)


def accuracy_interval(scores: Scores, seed: int, level: float = 0.95) -> Interval:
    """Wilson's interval when every prompt's mean is 0 or 1, as with one sample; else the bootstrap over prompts.

    The samples of a prompt are not independent trials, so only prompts count.
    """
    means = prompt_means(scores)
    kept = means[~np.isnan(means)]
    if np.all((kept == 0) | (kept == 1)):
        return wilson_interval(int(kept.sum()), len(kept), level)
    return bootstrap_interval(kept, seed, level)


@dataclass(frozen=True)
class PairedDifference:
    """How much higher b scores than a on the same n prompts."""

    difference: float
    interval: Interval
    prompts: int


def paired_difference(a: Scores, b: Scores, seed: int = 0, level: float = 0.95) -> PairedDifference:
    """b - a over prompts that both have a verdict for; rows of `a` and `b` [n, k] are the same prompts.

    The interval resamples prompts, which keeps what a prompt's difficulty has in common.
    """
    if len(a) != len(b):
        raise ValueError(f"a and b must have the same prompts, got {len(a)} and {len(b)}")
    differences = prompt_means(b) - prompt_means(a)
    kept = differences[~np.isnan(differences)]
    mean = float(kept.mean()) if len(kept) else nan
    return PairedDifference(mean, bootstrap_interval(kept, seed, level), len(kept))
