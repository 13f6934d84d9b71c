"""Advantages where answers are forced at several budgets of one thinking: one policy, two parts, trained apart."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from thinkrl.algorithms.advantages import centred, return_to_go
from thinkrl.algorithms.budgets import Array, Baseline, Prior, budget_prior, later_returns, thinking_advantages
from thinkrl.algorithms.types import NO_SIGNALS, Advantages, Signals
from thinkrl.rollouts.cuts import Cut
from thinkrl.rollouts.ragged import Ragged
from thinkrl.rollouts.signals import CUT, Signal
from thinkrl.rollouts.store import Rollouts


@dataclass(frozen=True)
class BudgetRelativeAdvantage:
    """BRPO, the estimator of AnytimeReasoner (arXiv 2505.13438). Reads `Rollouts.cuts` and one reward an answer.

    Thinking: its tokens between two budgets get R_s - V_s of `algorithms.budgets.thinking_advantages`, where q at a
    budget is the mean reward of the answers there. Answers: u - the mean of all answers at the same cut of the same
    thinking; where no budget has two answers, u - the mean over the prompt's thoughts at that budget.

    Nothing is divided by a deviation. An answer without a reward (NaN) is in no mean and carries no loss; thinking that
    has no reward at some budget moves no baseline, and its advantage is 0.
    """

    reads_tokens: ClassVar[bool] = True

    prior: Prior = "uniform"
    """Weights of the budgets in the return: alike, in proportion to their tokens, or the last one alone."""
    each_earlier: float = 0.0
    """With prior `last`, what each earlier budget keeps (0.01 in the released code)."""
    baseline: Baseline = "budget_relative"
    """What is subtracted from a segment's return: both baselines mixed, `earlier` or `group` alone, or nothing."""
    thinking: bool = True
    """Whether thinking is learned from."""
    answers: Literal["all", "last"] = "all"
    """Whether answers at all budgets are learned from, or those at the largest one alone."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.each_earlier < 1.0:
            raise ValueError(f"each_earlier must be at least 0 and below 1, got {self.each_earlier}")
        if self.each_earlier and self.prior != "last":
            raise ValueError(f"each_earlier must be 0 where prior is {self.prior!r}, got {self.each_earlier}")

    def signals(self) -> tuple[Signal, ...]:
        """Where responses leave their thinking."""
        return (CUT,)

    def advantages(
        self,
        totals: NDArray[np.float64],
        rollouts: Rollouts,
        token_rewards: Ragged | None = None,
        signals: Signals = NO_SIGNALS,
    ) -> Advantages:
        """Advantages of n answers from `totals` [n]; see `AdvantageEstimator`. Values are NaN at given tokens.

        Raises ValueError where a response has no cut, or where thoughts of a prompt differ in their budgets.
        """
        totals = np.asarray(totals, dtype=np.float64)
        if totals.shape != (len(rollouts),):
            raise ValueError(f"totals must have one entry for each of {len(rollouts)} responses, got {totals.shape}")
        cuts = _all_cut(rollouts)
        drawn = rollouts.origins.with_values(rollouts.sampled)
        thoughts = self._thoughts(totals, rollouts, cuts, drawn)
        answers = _answer_advantages(totals, rollouts, cuts)
        kept = ~np.isnan(totals)
        values, weights = [], []
        for row, cut in enumerate(cuts):
            thought = thoughts[int(rollouts.group_index[row]), cut.thinking]
            sampled = drawn[row]
            thinks = np.arange(len(sampled)) < cut.kept
            answered = 0.0 if np.isnan(answers[row]) else answers[row]
            values.append(np.where(sampled, np.where(thinks, thought.at_tokens(sampled), answered), np.nan))
            learned = self.answers == "all" or cut.budget == thought.budgets[-1]
            weights.append(np.where(thinks, float(self.thinking), float(learned)))
            # Thinking is learned from though the answer that it stands with has no reward.
            kept[row] |= thought.known and bool(np.any(sampled & thinks))
        column = Ragged.from_rows(values, np.float64)
        if token_rewards is not None:
            column = column.with_values(column.values + return_to_go(token_rewards, rollouts).values)
        plain = self.thinking and self.answers == "all"
        return Advantages(
            column, kept, None if plain else Ragged.from_rows(weights, np.float64), _variances(list(thoughts.values()))
        )

    def _thoughts(
        self, totals: NDArray[np.float64], rollouts: Rollouts, cuts: Sequence[Cut], drawn: Ragged
    ) -> "dict[tuple[int, str], _Thought]":
        """Every thinking by group and id, with what its segments are worth; `drawn` says which tokens are sampled."""
        found = {}
        for rows in rollouts.rows_by_group().values():
            members: dict[str, list[int]] = defaultdict(list)
            for row in rows.tolist():
                members[cuts[row].thinking].append(row)
            budgets = _common_budgets(list(members.values()), cuts)
            scores = np.asarray([_scores(own, budgets, totals, cuts) for own in members.values()])
            prior = budget_prior(budgets, self.prior, self.each_earlier)
            returns = later_returns(scores, prior)
            worth = thinking_advantages(scores, budgets, prior, self.baseline)
            for index, (name, own) in enumerate(members.items()):
                tokens = max(int(np.sum(drawn[row][: cuts[row].kept])) for row in own)
                found[int(rollouts.group_index[own[0]]), name] = _Thought(budgets, worth[index], returns[index], tokens)
        return found


@dataclass(frozen=True, eq=False)
class _Thought:
    """One thinking: the budgets [m] of its answers, advantage and return of each segment [m] (NaN where a score is not
    known), and how many tokens of it carry loss."""

    budgets: Array
    advantages: Array
    returns: Array
    tokens: int

    @property
    def known(self) -> bool:
        """Whether every budget has a score."""
        return bool(np.all(np.isfinite(self.advantages)))

    @property
    def starts(self) -> Array:
        """After how many tokens each segment begins, [m]."""
        return np.concatenate([[0.0], self.budgets[:-1]])

    def at_tokens(self, sampled: NDArray[np.bool_]) -> Array:
        """The advantage of the segment that each token is in, [t], by the number of the sampled token."""
        segment = np.searchsorted(self.budgets, np.cumsum(sampled), side="left")
        found: Array = self.advantages[np.minimum(segment, len(self.budgets) - 1)]
        return found if self.known else np.zeros(len(sampled))


def _all_cut(rollouts: Rollouts) -> list[Cut]:
    cuts = [cut for cut in rollouts.cuts if cut is not None]
    if len(cuts) != len(rollouts):
        raise ValueError(
            f"every response must be an answer at a cut of its thinking, got {len(cuts)} of {len(rollouts)}; an"
            " environment that answers at budgets makes such responses"
        )
    return cuts


def _common_budgets(thoughts: Sequence[Sequence[int]], cuts: Sequence[Cut]) -> Array:
    """The budgets of a prompt's thoughts, rising, [m]."""
    sets = [sorted({cuts[row].budget for row in rows}) for rows in thoughts]
    if any(budgets != sets[0] for budgets in sets):
        other = next(budgets for budgets in sets if budgets != sets[0])
        raise ValueError(f"all thoughts of a prompt must be answered at the same budgets, got {sets[0]} and {other}")
    return np.asarray(sets[0], dtype=np.float64)


def _scores(rows: Sequence[int], budgets: Array, totals: NDArray[np.float64], cuts: Sequence[Cut]) -> list[float]:
    """Mean reward of one thought's answers at each budget, [m]; NaN where none has a reward."""
    found = []
    for budget in budgets:
        rewards = [totals[row] for row in rows if cuts[row].budget == budget and not np.isnan(totals[row])]
        found.append(float(np.mean(rewards)) if rewards else float("nan"))
    return found


def _answer_advantages(totals: NDArray[np.float64], rollouts: Rollouts, cuts: Sequence[Cut]) -> Array:
    """What each answer earned beyond its pool's mean, [n]; NaN without a reward."""
    groups = rollouts.group_index.tolist()
    most = max(Counter((g, cut.thinking, cut.budget) for g, cut in zip(groups, cuts, strict=True)).values(), default=0)
    pools: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for row, (group, cut) in enumerate(zip(groups, cuts, strict=True)):
        pools[(group, cut.budget) if most < 2 else (group, cut.thinking, cut.kept)].append(row)
    found = np.full(len(totals), np.nan)
    for rows in pools.values():
        known = [row for row in rows if not np.isnan(totals[row])]
        found[known] = centred(totals[known], "mean")
    return found


def _variances(thoughts: Sequence[_Thought]) -> dict[str, float]:
    """Var(advantage) / Var(return) over the segments that thinking reached, in the first half of the largest budget and
    in the second; what a good baseline lowers. Absent where returns do not vary."""
    found = {}
    known = [thought for thought in thoughts if thought.known]
    for name, late in (("early", False), ("late", True)):
        advantages, returns = [], []
        for thought in known:
            chosen = (thought.starts < thought.tokens) & ((thought.starts >= thought.budgets[-1] / 2) == late)
            advantages += thought.advantages[chosen].tolist()
            returns += thought.returns[chosen].tolist()
        if len(returns) > 1 and np.ptp(returns) > 0:
            found[f"advantage/{name}_variance"] = float(np.var(advantages) / np.var(returns))
    return found
