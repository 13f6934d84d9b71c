"""Scores of answers at rising budgets: priors over budgets, returns, and two baselines (arXiv 2505.13438).

Scores q are [g, m]: g thoughts of one prompt, m budgets b_1 < ... < b_m, in tokens. Segment s of a thought is what it
writes after budget b_s-1 and up to b_s (b_0 = 0); NaN marks a thought whose score at some budget is not known.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Prior = Literal["uniform", "linear", "last"]
Baseline = Literal["budget_relative", "earlier", "group", "none"]
Array = NDArray[np.float64]


def budget_prior(budgets: Array, kind: Prior, each_earlier: float = 0.0) -> Array:
    """p [m] over the budgets [m]: 1/m each; in proportion to the budget; or the last alone, but for `each_earlier`."""
    m = len(budgets)
    if kind == "uniform":
        return np.full(m, 1.0 / m)
    if kind == "linear":
        return np.asarray(budgets / budgets.sum())
    prior = np.full(m, each_earlier)
    prior[-1] = 1.0 - each_earlier * (m - 1)
    return prior


def later_returns(scores: Array, prior: Array) -> Array:
    """R_s = sum_{j >= s} p_j q_j, [g, m]: what the budgets that segment s can still change pay."""
    return _from_the_end(scores * prior)


def earlier_baseline(scores: Array, prior: Array) -> Array:
    """V1_s = (sum_{j >= s} p_j) * sum_{j < s} 2^j q_j / sum_{j < s} 2^j, [g, m]: how well the same thought did before
    segment s, later budgets counting double; 0 for the first segment."""
    doubling = 2.0 ** np.arange(scores.shape[1])
    before = np.cumsum(scores * doubling, axis=1)[:, :-1] / np.cumsum(doubling)[:-1]
    before = np.concatenate([np.zeros((len(scores), 1)), before], axis=1)
    return np.asarray(_from_the_end(prior[None, :]) * before)


def group_baseline(scores: Array, prior: Array) -> Array:
    """V2_s = the mean over thoughts of R_s, [m]; thoughts that are not known do not count."""
    returns = later_returns(scores, prior)
    known = returns[~np.isnan(returns).any(axis=1)]
    return known.mean(axis=0) if len(known) else np.full(scores.shape[1], np.nan)


def thinking_advantages(scores: Array, budgets: Array, prior: Array, baseline: Baseline) -> Array:
    """R_s - V_s, [g, m], with V_s = w V1_s + (1 - w) V2_s and w = b_s-1 / b_m, the share of the largest budget at which
    the segment begins (s/m of equal budgets); `earlier` takes V1 alone, `group` V2, as GRPO would, `none` 0."""
    returns = later_returns(scores, prior)
    if baseline == "none":
        return returns
    if baseline == "group":
        return returns - group_baseline(scores, prior)
    if baseline == "earlier":
        return returns - earlier_baseline(scores, prior)
    weight = np.concatenate([[0.0], budgets[:-1]]) / budgets[-1]
    expected = weight * earlier_baseline(scores, prior) + (1.0 - weight) * group_baseline(scores, prior)
    return np.asarray(returns - expected)


def _from_the_end(values: Array) -> Array:
    """Sums of each entry and those after it in its row."""
    sums: Array = np.cumsum(values[:, ::-1], axis=1)[:, ::-1]
    return sums
