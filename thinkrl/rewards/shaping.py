"""Shaping: what turns a term's values into what is paid, seeing the whole batch."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from thinkrl.rewards.term import RewardContext
from thinkrl.rollouts.store import Rollouts


class Shaping(Protocol):
    """A frozen dataclass that maps one term's values to new ones. NaN means no number and stays NaN."""

    def shape(self, values: NDArray[np.float64], rollouts: Rollouts, context: RewardContext) -> NDArray[np.float64]:
        """New values [n] from `values` [n], in row order."""
        ...


@dataclass(frozen=True)
class Clip:
    """min(max(v, low), high)."""

    reads_tokens: ClassVar[bool] = False

    low: float = -1.0
    """Least value paid."""
    high: float = 1.0
    """Greatest value paid."""

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise ValueError(f"low must be at most high, got {self.low} and {self.high}")

    def shape(self, values: NDArray[np.float64], rollouts: Rollouts, context: RewardContext) -> NDArray[np.float64]:
        """Values inside [low, high]."""
        return np.clip(values, self.low, self.high)


@dataclass(frozen=True)
class GroupNormalise:
    """(v - mean) / (std + epsilon) over the responses of a group that have a number.

    The standard deviation is the population's, so that a group of one gives 0.
    """

    reads_tokens: ClassVar[bool] = False

    epsilon: float = 1e-6
    """Added to the standard deviation."""
    scale: bool = True
    """Whether to divide by the standard deviation; otherwise values are only centred."""

    def __post_init__(self) -> None:
        if not self.epsilon > 0.0:
            raise ValueError(f"epsilon must be above 0, got {self.epsilon}")

    def shape(self, values: NDArray[np.float64], rollouts: Rollouts, context: RewardContext) -> NDArray[np.float64]:
        """Values with mean 0 in every group."""
        shaped = values.copy()
        for rows in rollouts.rows_by_group().values():
            known = rows[~np.isnan(values[rows])]
            if len(known):
                centred = values[known] - values[known].mean()
                shaped[known] = centred / (values[known].std() + self.epsilon) if self.scale else centred
        return shaped


@dataclass(frozen=True)
class GroupPassRateWeight:
    """v * (floor + (1 - floor) * 4 p (1 - p)), p the share of the group at or above `threshold`.

    Groups that are neither always right nor always wrong weigh most; p (1 - p) is the variance of
    a pass, 1/4 at most. Responses without a number are in no group's p.
    """

    reads_tokens: ClassVar[bool] = False

    threshold: float = 0.5
    """From which value on a response counts as passed."""
    floor: float = 0.0
    """Weight of a group that always or never passes."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.floor <= 1.0:
            raise ValueError(f"floor must be in [0, 1], got {self.floor}")

    def shape(self, values: NDArray[np.float64], rollouts: Rollouts, context: RewardContext) -> NDArray[np.float64]:
        """Values times their group's weight."""
        shaped = values.copy()
        for rows in rollouts.rows_by_group().values():
            known = rows[~np.isnan(values[rows])]
            if len(known):
                rate = float(np.mean(values[known] >= self.threshold))
                shaped[known] = values[known] * (self.floor + (1.0 - self.floor) * 4.0 * rate * (1.0 - rate))
        return shaped


@dataclass(frozen=True)
class Truncated:
    """v up to L_T sampled tokens, `beyond` for every longer response: what a smaller context would pay."""

    target_tokens: int
    """L_T."""
    beyond: float = 0.0
    """Value of a longer response."""

    def __post_init__(self) -> None:
        if self.target_tokens < 1:
            raise ValueError(f"target_tokens must be at least 1, got {self.target_tokens}")

    def shape(self, values: NDArray[np.float64], rollouts: Rollouts, context: RewardContext) -> NDArray[np.float64]:
        """Values with those of longer responses replaced."""
        beyond = (rollouts.sampled_counts > self.target_tokens) & ~np.isnan(values)
        return np.where(beyond, self.beyond, values)


@dataclass(frozen=True)
class LengthBudget:
    """v * min(1, B / tokens) for v > 0, with the group's budget B = slack * mean length of its passing responses.

    A response is paid in full up to the budget its own group shows to be enough, and less beyond.
    Groups without a passing response are left alone.
    """

    slack: float = 1.0
    """Budget as a multiple of the mean length of the group's passing responses."""
    threshold: float = 0.5
    """From which value on a response counts as passed."""

    def __post_init__(self) -> None:
        if not self.slack > 0.0:
            raise ValueError(f"slack must be above 0, got {self.slack}")

    def shape(self, values: NDArray[np.float64], rollouts: Rollouts, context: RewardContext) -> NDArray[np.float64]:
        """Positive values scaled down where the response is longer than its group's budget."""
        shaped = values.copy()
        lengths = rollouts.sampled_counts.astype(np.float64)
        for rows in rollouts.rows_by_group().values():
            passing = rows[values[rows] >= self.threshold]
            paid = rows[values[rows] > 0.0]
            if len(passing):
                budget = self.slack * lengths[passing].mean()
                shaped[paid] = values[paid] * np.minimum(1.0, budget / np.maximum(lengths[paid], 1.0))
        return shaped


@dataclass(frozen=True)
class LowValueBonus:
    """min(v + a b, most) where v < tau, else v; b is the value of the term `by`.

    The calibration of "On the Noisy Rewards in Learning to Reason" (arXiv 2505.22653): where a reward model is not
    convinced, a little of a reward for patterns of thinking (`PhraseReward`) makes up for the good responses that it
    misses. Where v is below `most`, which is at least tau, none is lowered.
    """

    reads_tokens: ClassVar[bool] = False

    by: str
    """The term that is added; one with weight 0 counts for nothing else."""
    below: float = 0.5
    """tau, below which values are raised; one at tau is not."""
    scale: float = 0.1
    """a."""
    most: float = 1.0
    """Greatest value that raising leads to."""

    def __post_init__(self) -> None:
        if not self.below <= self.most:
            raise ValueError(f"most must be at least below, got {self.most} and {self.below}")

    def reads_terms(self) -> tuple[str, ...]:
        """The term that is added."""
        return (self.by,)

    def shape(self, values: NDArray[np.float64], rollouts: Rollouts, context: RewardContext) -> NDArray[np.float64]:
        """Low values raised; a response for which `by` has no number keeps its value."""
        added = self.scale * np.nan_to_num(context.scores[self.by].values)
        return np.where(values < self.below, np.minimum(values + added, self.most), values)
