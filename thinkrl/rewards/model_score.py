"""What does a reward model say?"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from thinkrl.rewards.term import RewardContext, RewardTerm, Scores
from thinkrl.rollouts.signals import Signal
from thinkrl.rollouts.store import Rollouts


def score_signal(name: str) -> Signal:
    """The signal that a reward model supplies under `name`."""
    return Signal(name, "score that the reward model gives the response, before any squashing")


@dataclass(frozen=True)
class ModelScore(RewardTerm):
    """s, the score of a reward model as it is; sigmoid(s), the probability that it takes the response to be right; or 1
    where that is above 1/2, else 0 (the last two: Cooper, arXiv 2508.05613).

    A companion supplies it in a run (`thinkrl.companions.reward_model`), the file in `thinkrl score`.
    """

    reads_tokens: ClassVar[bool] = False

    signal: str = "model_score"
    """Name of the signal; reward models that are used together have one each."""
    squash: Literal["none", "sigmoid", "verdict"] = "none"
    """What is made of the score: nothing, the probability, or 1 and 0."""

    def signals(self) -> tuple[Signal, ...]:
        """The reward model's score."""
        return (score_signal(self.signal),)

    def score(self, rollouts: Rollouts, context: RewardContext) -> Scores:
        """One value per response, NaN where the reward model has none."""
        values = np.asarray(context.signals[self.signal], dtype=np.float64)
        if self.squash == "sigmoid":
            # tanh does not overflow where exp(-s) would.
            values = 0.5 * (1.0 + np.tanh(0.5 * values))
        elif self.squash == "verdict":
            values = np.where(np.isnan(values), values, (values > 0.0).astype(np.float64))
        return Scores(values)
