"""One right response against many wrong ones (RewardMATH, arXiv 2410.01729): ranks, sweeps of pairs, step scores."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from thinkrl.benchmarks.metrics import Interval, Scores
from thinkrl.rollouts.streams import generator

StepRule = Literal["min", "max", "prod", "geometric_mean", "mean", "mean_logit", "mean_odd", "last"]
_EDGE = 1e-6
"""Probabilities are kept this far from 0 and 1 where odds are taken, which are not defined there."""


def ranked_first(chosen: Sequence[float], rejected: Sequence[float], tolerant: bool = False) -> float:
    """1 where every chosen score is above every rejected one, else 0; `tolerant`: or as high."""
    low, high = min(chosen), max(rejected)
    return float(low >= high if tolerant else low > high)


def reciprocal_rank(chosen: Sequence[float], rejected: Sequence[float]) -> float:
    """1 / rank of the best chosen among all, rejected ones first where scores are equal."""
    best = max(chosen)
    return 1.0 / (1 + sum(score >= best for score in rejected))


def sweep(wins: Sequence[bool | None]) -> dict[str, float]:
    """Of one chosen against n rejected, pair by pair, None where there was no verdict: `strict`, 1 where all were won;
    `reciprocal_rank`, 1 / (1 + pairs that were not won)."""
    lost = sum(win is not True for win in wins)
    return {"strict": float(lost == 0), "reciprocal_rank": 1.0 / (1 + lost)}


def aggregate_steps(probabilities: Sequence[float], rule: StepRule) -> float:
    """One score of the probabilities that a process reward model gives the steps of a solution; NaN without steps.

    mean_logit: sigmoid of the mean of log(p / (1 - p)); mean_odd: mean of p / (1 - p).
    """
    p = np.asarray(probabilities, dtype=np.float64)
    if not len(p):
        return math.nan
    inside = np.clip(p, _EDGE, 1 - _EDGE)
    odds = inside / (1 - inside)
    rules: Mapping[StepRule, float] = {
        "min": float(p.min()),
        "max": float(p.max()),
        "prod": float(p.prod()),
        "geometric_mean": float(p.prod() ** (1 / len(p))),
        "mean": float(p.mean()),
        "mean_logit": float(1 / (1 + np.exp(-np.mean(np.log(odds))))),
        "mean_odd": float(odds.mean()),
        "last": float(p[-1]),
    }
    return rules[rule]


def best_of_n_divergence(n: int) -> float:
    """KL(best of n || policy) = log n - (n - 1) / n, in nats (where no two scores are equal)."""
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    return math.log(n) - (n - 1) / n


def best_of_n(scores: Sequence[float], answers: Sequence[str | None], correct: Sequence[float], n: int) -> float:
    """Whether the sample with the highest score among the first n is right; among equals, the answer given most often,
    the first of several."""
    top = max(scores[:n])
    tied = [place for place in range(min(n, len(scores))) if scores[place] == top]
    votes = [sum(answers[other] == answers[place] for other in tied) for place in tied]
    return float(correct[tied[votes.index(max(votes))]])


def overoptimisation(gold: Sequence[float]) -> float:
    """gold(last) - max gold: 0 where the true reward never falls as the proxy is followed, below 0 where it does."""
    return float(gold[-1] - max(gold))


def one_to_many(chosen: Sequence[float], rejected: Sequence[float]) -> dict[str, float]:
    """`strict`, `tolerant` (of ties) and `reciprocal_rank` of one problem.

    A response without a score (NaN) stands below all that have one; a problem whose chosen one has none is lost.
    """
    lost = any(math.isnan(score) for score in chosen)
    good, bad = ([-math.inf if math.isnan(score) else score for score in side] for side in (chosen, rejected))
    return {
        "strict": ranked_first(good, bad) * (not lost),
        "tolerant": ranked_first(good, bad, tolerant=True) * (not lost),
        "reciprocal_rank": reciprocal_rank(good, bad),
    }


def pearson(x: Scores, y: Scores) -> float:
    """Pearson's r of [m] and [m]; 0 where either does not vary, as what tells nothing apart predicts nothing."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(np.corrcoef(x, y)[0, 1])


def pearson_interval(x: Scores, y: Scores, seed: int = 0, level: float = 0.95, draws: int = 2000) -> Interval:
    """Percentile bootstrap of `pearson`: the pairs are resampled."""
    stream = generator("pearson", seed)
    picks = stream.integers(0, len(x), (draws, len(x)))
    found = [pearson(x[pick], y[pick]) for pick in picks]
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), level)


def best_of_n_curve(
    scores: Scores,
    right: Scores,
    answers: Sequence[str | None],
    groups: Sequence[Sequence[int]],
    sizes: Sequence[int],
) -> dict[str, float]:
    """What choosing by a score comes to, the more is chosen from: the true reward against the divergence.

    Of each size n that every prompt has: `best_of_n`, the mean of `right`; `proxy_n`, that of the score chosen by; and
    `kl_n`, what choosing costs. `gold` is the last best_of_n, `overoptimisation` how far it lies below the highest.

    Args:
        scores: of every response, NaN without one, which stands below all others.
        right: 1 or 0 of each response in `groups`.
        groups: rows of the responses to each prompt, in the order in which they were sampled; none is empty.
        sizes: rising.
    """
    known = np.nan_to_num(scores, nan=-np.inf)
    found: dict[str, float] = {}
    gold = []
    for n in [n for n in sizes if n <= min(map(len, groups))] or [1]:
        chosen = [
            best_of_n(known[rows].tolist(), [answers[row] for row in rows], right[rows].tolist(), n)
            for rows in map(list, groups)
        ]
        gold.append(float(np.mean(chosen)))
        found |= {f"best_of_{n}": gold[-1], f"kl_{n}": best_of_n_divergence(n)}
        tops = np.asarray([known[list(rows[:n])].max() for rows in groups])
        if np.isfinite(tops).any():
            found[f"proxy_{n}"] = float(tops[np.isfinite(tops)].mean())
    return found | {"gold": gold[-1], "overoptimisation": overoptimisation(gold)}
