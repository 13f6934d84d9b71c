"""A batch of several sides whose losses are added: each side is a batch of its own under one optimizer step."""

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from thinkrl.algorithms.types import NO_SIGNALS, AdvantageEstimator, Advantages, Signals
from thinkrl.rollouts.ragged import Ragged
from thinkrl.rollouts.signals import Signal, reads_tokens, signals_of
from thinkrl.rollouts.store import Rollouts


@dataclass(frozen=True, eq=False)
class Split:
    """The side of each response, a number, and the factor of its side's loss; both [n]."""

    side: NDArray[np.int64]
    factor: NDArray[np.float64]


class SideRule(Protocol):
    """A frozen dataclass that tells the sides apart."""

    def split(self, totals: NDArray[np.float64], rollouts: Rollouts) -> Split:
        """The side of each response, by its reward (`totals` [n]) and its prompt."""
        ...


@dataclass(frozen=True)
class MetadataSides:
    """Responses to prompts of one kind are a side, and all sides count alike."""

    key: str = "side"
    """Key of the prompts' metadata that tells the sides apart; prompts without it are one side."""

    def split(self, totals: NDArray[np.float64], rollouts: Rollouts) -> Split:
        """Sides by the text of the value under `key`."""
        kinds = [str(rollouts.prompt(row).metadata.get(self.key)) for row in range(len(rollouts))]
        _, side = np.unique(kinds, return_inverse=True)
        return Split(side.astype(np.int64), np.ones(len(rollouts)))


@dataclass(frozen=True)
class OutcomeSides:
    """Responses with a reward above 0 are one side, all others the other."""

    positive: float = 1.0
    """Factor of the loss of responses with a reward above 0."""
    negative: float = 1.0
    """Factor of the loss of all others."""

    def __post_init__(self) -> None:
        for name in ("positive", "negative"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")

    def split(self, totals: NDArray[np.float64], rollouts: Rollouts) -> Split:
        """Side 1 where the total is above 0, else side 0."""
        positive = totals > 0
        return Split(positive.astype(np.int64), np.where(positive, self.positive, self.negative))


@dataclass(frozen=True)
class SidesAdded:
    """Advantages of `advantage`, with token weights w_t = f_side T / T_side(t), T counting sampled tokens with a loss.

    Under token aggregation the loss (1/T) sum_t w_t l_t is then sum over sides of (f_side / T_side) sum_t l_t: a token
    mean for originals plus one for rewritten questions (Co-Reward, arXiv 2508.00410), or one for right answers plus
    half of one for wrong answers (OREAL, arXiv 2502.06781), however long either side's responses are. Counts are those
    of the whole batch.
    """

    advantage: AdvantageEstimator
    """Makes the advantages."""
    sides: SideRule = MetadataSides()
    """Tells the sides apart, and says how much each counts."""

    @property
    def reads_tokens(self) -> bool:
        """Whether the estimator counts tokens: weights move no advantage."""
        return reads_tokens(self.advantage)

    def signals(self) -> tuple[Signal, ...]:
        """What the estimator reads of models."""
        return signals_of(self.advantage)

    def advantages(
        self,
        totals: NDArray[np.float64],
        rollouts: Rollouts,
        token_rewards: Ragged | None = None,
        signals: Signals = NO_SIGNALS,
    ) -> Advantages:
        """See `AdvantageEstimator`; weights that the estimator gives are kept as factors."""
        found = self.advantage.advantages(totals, rollouts, token_rewards, signals)
        split = self.sides.split(totals, rollouts)
        counts = np.where(found.kept, rollouts.sampled_counts, 0)
        per_side = np.bincount(split.side, weights=counts)
        weights = (split.factor * (counts.sum() / np.maximum(per_side, 1))[split.side])[rollouts.token_ids.row_ids]
        if found.weights is not None:
            weights = weights * found.weights.values
        return replace(found, weights=rollouts.token_ids.with_values(weights))
