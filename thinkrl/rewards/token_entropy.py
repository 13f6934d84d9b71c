"""How unsure was the policy of what it wrote?"""

from dataclasses import dataclass

import numpy as np

from thinkrl.rewards.term import RewardContext, RewardTerm, Scores
from thinkrl.rollouts.signals import ENTROPIES, Signal
from thinkrl.rollouts.store import Rollouts


@dataclass(frozen=True)
class MeanTokenEntropy(RewardTerm):
    """H(y) = (1/T) sum_t H_t, the mean entropy in nats of the distributions that the sampled tokens were drawn from.

    With a negative weight it is the reward of entropy minimisation (RENT, arXiv 2505.22660), which knows no answer.
    """

    def signals(self) -> tuple[Signal, ...]:
        """Token entropies, which the sampler supplies."""
        return (ENTROPIES,)

    def score(self, rollouts: Rollouts, context: RewardContext) -> Scores:
        """A value of 0 or more per response, NaN where an entropy is not known or nothing was sampled."""
        drawn = rollouts.entropies.with_values(np.where(rollouts.sampled, rollouts.entropies.values, 0.0))
        counts = rollouts.sampled_counts
        return Scores(np.where(counts > 0, drawn.sums() / np.maximum(counts, 1), np.nan))
