"""Advantages of tokens from what is still to be earned: discounted returns, and generalised advantage estimation."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from thinkrl.algorithms.advantages import centred
from thinkrl.algorithms.types import NO_SIGNALS, Advantages, Signals
from thinkrl.rollouts.ragged import Ragged
from thinkrl.rollouts.signals import Signal
from thinkrl.rollouts.store import Rollouts

VALUES = Signal(
    "values", "what a critic expects is still to be earned when a token is drawn, in units of reward", "token"
)
"""What a critic supplies, and what it should have predicted (`Advantages.targets`)."""


@dataclass(frozen=True)
class ReturnToGo:
    """A_t = sum_{k >= t} gamma^(k-t) r_k over the sampled tokens of a response, REINFORCE++ (arXiv 2501.03262).

    The total of the response is earned at its last sampled token, on top of token rewards. With `center` mean, the
    group's mean total is taken off first (REINFORCE++-baseline). The method whitens what comes of it: `Whitened`.
    """

    gamma: float = 1.0
    """Discount of a reward by each sampled token before it."""
    center: Literal["none", "mean", "leave_one_out"] = "none"
    """Baseline that is subtracted from the total, of the responses in the group."""

    def __post_init__(self) -> None:
        _check_share(self.gamma, "gamma")

    def advantages(
        self,
        totals: NDArray[np.float64],
        rollouts: Rollouts,
        token_rewards: Ragged | None = None,
        signals: Signals = NO_SIGNALS,
    ) -> Advantages:
        """Advantages of n responses; values float64, NaN at given tokens and in excluded responses."""
        kept = _kept(totals, rollouts)
        scores = np.asarray(totals, dtype=np.float64).copy()
        for group in np.unique(rollouts.group_index[kept]):
            rows = np.flatnonzero(kept & (rollouts.group_index == group))
            scores[rows] = centred(scores[rows], self.center)
        rewards = earned(scores, rollouts, token_rewards)
        sums = [discounted_sums(row, self.gamma) for row in rewards]
        return Advantages(_spread(sums, rollouts), kept)


@dataclass(frozen=True)
class GeneralisedAdvantage:
    """A_t = sum_{k >= t} (gamma lambda)^(k-t) delta_k, delta_t = r_t + gamma V_{t+1} - V_t (arXiv 1506.02438, eq. 16).

    Over the sampled tokens of a response: given tokens between them are passed over, and what follows the last is
    worth 0, as when an episode ends. The total is earned at the last sampled token, on top of token rewards. lambda = 1
    is the return less the value, lambda = 0 is delta_t. The critic should have said A_t + V_t.
    """

    gamma: float = 1.0
    """Discount of a reward by each sampled token before it."""
    trace: float = 1.0
    """lambda: 0 trusts the critic for all but the next token, 1 for nothing but the baseline."""

    def __post_init__(self) -> None:
        _check_share(self.gamma, "gamma")
        _check_share(self.trace, "trace")

    def signals(self) -> tuple[Signal, ...]:
        """The critic's values."""
        return (VALUES,)

    def advantages(
        self,
        totals: NDArray[np.float64],
        rollouts: Rollouts,
        token_rewards: Ragged | None = None,
        signals: Signals = NO_SIGNALS,
    ) -> Advantages:
        """Advantages of n responses; values float64, NaN at given tokens and in excluded responses.

        Raises ValueError where a sampled token of a kept response has no value.
        """
        kept = _kept(totals, rollouts)
        column: Ragged = signals[VALUES.name]
        if not np.array_equal(column.offsets, rollouts.token_ids.offsets):
            raise ValueError("the signal values and token_ids differ in row lengths")
        if not np.all(np.isfinite(column.values[rollouts.sampled & kept[rollouts.token_ids.row_ids]])):
            raise ValueError("the signal values must be finite at every sampled token of a kept response")
        sampled = rollouts.origins.with_values(rollouts.sampled)
        advantages, returns = [], []
        for row, rewards in enumerate(earned(totals, rollouts, token_rewards)):
            values = column[row][sampled[row]].astype(np.float64)
            deltas = rewards + self.gamma * np.append(values[1:], 0.0)[: len(values)] - values
            advantages.append(discounted_sums(deltas, self.gamma * self.trace))
            returns.append(advantages[-1] + values)
        targets = {VALUES.name: _spread(returns, rollouts)}
        return Advantages(_spread(advantages, rollouts), kept, targets=targets)


def earned(totals: NDArray[np.float64], rollouts: Rollouts, token_rewards: Ragged | None) -> list[NDArray[np.float64]]:
    """The reward at each sampled token of each response, [k]: token rewards (NaN counts 0), and the total at the last.

    All NaN in a response without a total.
    """
    if token_rewards is not None and not np.array_equal(token_rewards.offsets, rollouts.token_ids.offsets):
        raise ValueError("token_rewards and token_ids differ in row lengths")
    sampled = rollouts.origins.with_values(rollouts.sampled)
    rows = []
    for row, total in enumerate(np.asarray(totals, dtype=np.float64)):
        rewards = np.zeros(int(sampled[row].sum()))
        if token_rewards is not None:
            rewards += np.nan_to_num(token_rewards[row][sampled[row]].astype(np.float64), nan=0.0)
        if len(rewards):
            rewards[-1] += total
        rows.append(rewards if not np.isnan(total) else np.full(len(rewards), np.nan))
    return rows


def discounted_sums(rewards: NDArray[np.float64], discount: float) -> NDArray[np.float64]:
    """s_t = sum_{k >= t} discount^(k-t) r_k, [k]."""
    if discount == 1.0:
        return np.cumsum(rewards[::-1])[::-1]
    sums, later = np.zeros(len(rewards)), 0.0
    for place in range(len(rewards) - 1, -1, -1):
        later = rewards[place] + discount * later
        sums[place] = later
    return sums


def _spread(rows: list[NDArray[np.float64]], rollouts: Rollouts) -> Ragged:
    """Numbers of the sampled tokens of each response, at their places; NaN at given ones."""
    values = np.full(len(rollouts.token_ids.values), np.nan)
    values[rollouts.sampled] = np.concatenate(rows) if rows else np.zeros(0)
    return rollouts.token_ids.with_values(values)


def _kept(totals: NDArray[np.float64], rollouts: Rollouts) -> NDArray[np.bool_]:
    """Which responses have a total; ValueError for totals of another number, or infinite ones."""
    totals = np.asarray(totals, dtype=np.float64)
    if totals.shape != (len(rollouts),):
        raise ValueError(f"totals must have one entry for each of {len(rollouts)} responses, got {totals.shape}")
    if np.any(np.isinf(totals)):
        raise ValueError(f"totals must be finite or NaN, got {totals[np.isinf(totals)][0]}")
    return ~np.isnan(totals)


def _check_share(value: float, name: str) -> None:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} must be between 0 and 1, got {value}")
