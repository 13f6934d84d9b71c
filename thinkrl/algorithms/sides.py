"""A batch of several sides whose losses are added: each side is a batch of its own under one optimizer step."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from thinkrl.algorithms.types import NO_SIGNALS, AdvantageEstimator, Advantages, Signals
from thinkrl.rollouts.ragged import Ragged
from thinkrl.rollouts.signals import Signal, reads_tokens, signals_of
from thinkrl.rollouts.store import Rollouts


@dataclass(frozen=True)
class SidesAdded:
    """Advantages of `advantage`, with token weights w_t = T / T_side(t), T counting sampled tokens that carry loss.

    Under token aggregation the loss (1/T) sum_t w_t l_t is then sum over sides of (1/T_side) sum_t l_t: a token mean
    for originals plus one for rewritten questions (Co-Reward, arXiv 2508.00410), however long either side's responses
    are. Counts are those of the whole batch.
    """

    advantage: AdvantageEstimator
    """Makes the advantages."""
    key: str = "side"
    """Key of the prompts' metadata that tells the sides apart; prompts without it are one side."""

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
        sides = [str(rollouts.prompt(row).metadata.get(self.key)) for row in range(len(rollouts))]
        counts = np.where(found.kept, rollouts.sampled_counts, 0)
        _, side = np.unique(sides, return_inverse=True)
        per_side = np.bincount(side, weights=counts)
        weights = (counts.sum() / np.maximum(per_side, 1))[side][rollouts.token_ids.row_ids]
        if found.weights is not None:
            weights = weights * found.weights.values
        return replace(found, weights=rollouts.token_ids.with_values(weights))
