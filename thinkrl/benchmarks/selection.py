"""How well a score tells right responses from wrong ones: best of n, weighted votes, one right among wrong ones."""

from collections.abc import Sequence
from math import comb, nan

import numpy as np

from thinkrl.benchmarks.metrics import Scores, majority_score


def best_of_n(values: Scores, right: Scores) -> float:
    """Whether the response with the greatest value is right, 1 or 0; of equal values the first counts.

    Args:
        values: of the n responses to one prompt, [n]; a response without one (NaN) is below all others.
        right: 1 or 0 for each, [n]; NaN where there is no verdict, which leaves the response out. NaN when all are.
    """
    judged = ~np.isnan(right)
    if not judged.any():
        return nan
    return float(right[judged][int(np.argmax(np.nan_to_num(values[judged], nan=-np.inf)))])


def weighted_vote(answers: Sequence[str | None], values: Scores, right: Scores) -> float:
    """Whether the answer with the greatest sum of values is right; a response without a value or an answer has no vote.

    This is self-consistency (arXiv 2203.11171) with weights; dividing them by their sum would change nothing.
    Between equal sums the answer seen first counts. 0 without a vote, NaN without a verdict.
    """
    if np.all(np.isnan(right)):
        return nan
    sums: dict[str, float] = {}
    worth: dict[str, float] = {}
    for answer, value, verdict in zip(answers, values, right, strict=True):
        if answer is not None and not np.isnan(value) and not np.isnan(verdict):
            sums[answer] = sums.get(answer, 0.0) + float(value)
            worth.setdefault(answer, float(verdict))
    return worth[max(sums, key=sums.__getitem__)] if sums else 0.0


def pick_rate(values: Scores, right: Scores, wrong: int) -> float:
    """The chance that a right response has a greater value than each of `wrong` wrong ones, all drawn at random; [n].

    With 9 it is the measure of RewardMATH. Equal values count as lost, and no value (NaN) is below all others. It is
    exact: the mean over right responses of C(b, w) / C(m, w), where b of m wrong ones are below. NaN where there is no
    right response or there are fewer than `wrong` wrong ones.
    """
    known = np.nan_to_num(values, nan=-np.inf)
    good, bad = known[right == 1.0], known[right == 0.0]
    if len(good) == 0 or len(bad) < wrong:
        return nan
    sets = comb(len(bad), wrong)
    return float(np.mean([comb(int(np.sum(bad < value)), wrong) / sets for value in good]))


def selection_metrics(
    values: Sequence[Scores], right: Sequence[Scores], answers: Sequence[Sequence[str | None]], wrong: int
) -> dict[str, float]:
    """Means over prompts of what selection by `values` reaches, beside majority votes and a response at random."""
    rows = list(zip(values, right, answers, strict=True))
    return {
        "selection/best_of_n": _mean([best_of_n(v, r) for v, r, _ in rows]),
        "selection/weighted_vote": _mean([weighted_vote(a, v, r) for v, r, a in rows]),
        "selection/majority_vote": _mean([majority_score(a, list(r)) for _, r, a in rows]),
        "selection/random": _mean([_mean(list(r)) for _, r, _ in rows]),
        "selection/pick": _mean(picks := [pick_rate(v, r, wrong) for v, r, _ in rows]),
        "selection/pick_random": 1.0 / (wrong + 1),
        "selection/pick_prompts": float(np.sum(~np.isnan(picks))),
    }


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else nan
