"""Advantages from the rewards of a group: what a response earned beyond what its prompt usually earns."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from thinkrl.algorithms.types import NO_SIGNALS, Advantages, Signals
from thinkrl.rollouts.ragged import Ragged
from thinkrl.rollouts.store import Rollouts

Pool = Literal["group", "batch"]


@dataclass(frozen=True)
class GroupAdvantage:
    """A_i = (r_i - b_i) / s, one value for every sampled token of response i.

    GRPO (arXiv 2402.03300, section 4.1.2): b the group's mean, s its standard deviation + epsilon.
    Dr. GRPO (arXiv 2503.20783): b the group's mean, s = 1.
    RLOO (arXiv 2402.14740): b_i the mean of the group's other responses, s = 1.
    REINFORCE: b = 0, s = 1.

    Responses without a total (NaN) move no baseline and carry no loss. A response that is alone in
    its pool has nothing to be compared with, so its centred advantage is 0; so is every advantage in
    a pool of equal totals. Token rewards, where there are any, are added as return to go, uncentred.
    """

    reads_tokens: ClassVar[bool] = False

    center: Literal["none", "mean", "leave_one_out"] = "mean"
    """Baseline that is subtracted from the total."""
    scale: Literal["none", "std"] = "std"
    """What the centred total is divided by."""
    std: Literal["population", "sample"] = "sample"
    """Divides squared deviations by n (population) or n - 1 (sample)."""
    epsilon: float = 1e-6
    """Added to the standard deviation, in units of reward."""
    center_over: Pool = "group"
    """Whose totals the baseline is taken from."""
    scale_over: Pool = "group"
    """Whose totals the standard deviation is taken from."""

    def __post_init__(self) -> None:
        if not self.epsilon >= 0:
            raise ValueError(f"epsilon must be 0 or more, got {self.epsilon}")
        if self.scale == "std" and self.center == "none":
            # An uncentred total over the deviation of a nearly flat pool grows without bound.
            raise ValueError("scale must be 'none' when center is 'none', got 'std'")

    def advantages(
        self,
        totals: NDArray[np.float64],
        rollouts: Rollouts,
        token_rewards: Ragged | None = None,
        signals: Signals = NO_SIGNALS,
    ) -> Advantages:
        """Advantages of n responses.

        Args:
            totals: reward of each response, [n]; NaN excludes the response. Infinite totals raise ValueError.
            rollouts: the responses, in the same order; groups are read from `group_index`.
            token_rewards: rewards per token, aligned with `rollouts.token_ids`; NaN and given tokens count 0.
            signals: none are read.

        Returns:
            values float64, NaN at given tokens and in excluded responses.
        """
        totals = np.asarray(totals, dtype=np.float64)
        if totals.shape != (len(rollouts),):
            raise ValueError(f"totals must have one entry for each of {len(rollouts)} responses, got {totals.shape}")
        if np.any(np.isinf(totals)):
            raise ValueError(f"totals must be finite or NaN, got {totals[np.isinf(totals)][0]}")
        kept = ~np.isnan(totals)
        scores = self._scores(totals, kept, rollouts.group_index)
        values = np.where(rollouts.sampled, scores[rollouts.token_ids.row_ids], np.nan)
        if token_rewards is not None:
            values = values + return_to_go(token_rewards, rollouts).values
        return Advantages(rollouts.token_ids.with_values(values), kept, metrics=_pool_metrics(totals, kept, rollouts))

    def _scores(
        self, totals: NDArray[np.float64], kept: NDArray[np.bool_], groups: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """One advantage per response, [n]; NaN where not kept."""
        batch = np.zeros_like(groups)
        scores = totals.copy()
        for rows in _pools(kept, groups if self.center_over == "group" else batch):
            scores[rows] = centred(totals[rows], self.center)
        if self.scale == "std":
            for rows in _pools(kept, groups if self.scale_over == "group" else batch):
                scores[rows] /= deviation(totals[rows], self.std) + self.epsilon or 1.0
        return scores


def centred(totals: NDArray[np.float64], center: Literal["none", "mean", "leave_one_out"]) -> NDArray[np.float64]:
    """Totals [n] less their baseline; exactly 0 where all are equal or only one is there."""
    if center == "none":
        return totals
    n = len(totals)
    if n < 2 or np.ptp(totals) == 0:  # a rounded mean of equal totals may differ from them in the last bit
        return np.zeros(n)
    deviations = totals - np.mean(totals)
    # r_i - mean of the others = n / (n - 1) * (r_i - mean of all)
    return deviations * (n / (n - 1)) if center == "leave_one_out" else deviations


def deviation(totals: NDArray[np.float64], std: Literal["population", "sample"]) -> float:
    """Standard deviation of totals [n]; 0 where all are equal or only one is there."""
    if len(totals) < 2 or np.ptp(totals) == 0:
        return 0.0
    return float(np.std(totals, ddof=1 if std == "sample" else 0))


def return_to_go(token_rewards: Ragged, rollouts: Rollouts) -> Ragged:
    """Sum of the rewards of a sampled token and the sampled tokens after it in its response; NaN at given tokens."""
    if not np.array_equal(token_rewards.offsets, rollouts.token_ids.offsets):
        raise ValueError("token_rewards and token_ids differ in row lengths")
    counted = rollouts.sampled & ~np.isnan(token_rewards.values)
    rewards = token_rewards.with_values(np.where(counted, token_rewards.values, 0.0).astype(np.float64))
    sums = [np.cumsum(row[::-1])[::-1] for row in rewards]
    flat = np.concatenate(sums) if sums else np.zeros(0)
    return rewards.with_values(np.where(rollouts.sampled, flat, np.nan))


def _pools(kept: NDArray[np.bool_], pool_ids: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Rows of the kept responses of each pool."""
    return [np.flatnonzero(kept & (pool_ids == pool)) for pool in np.unique(pool_ids[kept])]


def _pool_metrics(totals: NDArray[np.float64], kept: NDArray[np.bool_], rollouts: Rollouts) -> dict[str, float]:
    """Fractions of groups that teach nothing, and of responses left out."""
    groups = len(np.unique(rollouts.group_index))
    pools = _pools(kept, rollouts.group_index)
    flat = sum(len(rows) > 1 and np.ptp(totals[rows]) == 0 for rows in pools)
    return {
        "advantage/flat_groups": flat / max(groups, 1),
        "advantage/single_groups": sum(len(rows) == 1 for rows in pools) / max(groups, 1),
        "advantage/excluded_responses": float(np.sum(~kept)) / max(len(kept), 1),
    }
