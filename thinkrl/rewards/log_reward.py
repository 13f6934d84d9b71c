"""The logarithm of a reward that is made of others, for objectives that draw in proportion to it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from thinkrl.rewards.term import RewardContext, RewardTerm, Scores
from thinkrl.rollouts.store import Rollouts


@dataclass(frozen=True)
class LogReward(RewardTerm):
    """log R with R = sum over `of` of weight * term, and at least `floor`, so that nothing has a reward of 0.

    The terms are in the reward with weight 0, so that each is logged and none is paid twice; the weight of this one is
    beta (Flow of Reasoning, arXiv 2406.05673). NaN where one of the terms has no number.
    """

    reads_tokens: ClassVar[bool] = False

    of: Mapping[str, float]
    """Weights of the terms that R is made of, by name."""
    floor: float = 1e-8
    """Least R."""

    def __post_init__(self) -> None:
        if not self.of:
            raise ValueError("of must name at least one term, got none")
        if not self.floor > 0:
            raise ValueError(f"floor must be above 0, got {self.floor}")

    def reads_terms(self) -> tuple[str, ...]:
        """The terms that R is made of."""
        return tuple(self.of)

    def score(self, rollouts: Rollouts, context: RewardContext) -> Scores:
        """One value per response, in nats."""
        total = np.zeros(len(rollouts), dtype=np.float64)
        for name, weight in self.of.items():
            if weight:
                total = total + weight * context.scores[name].values
        return Scores(np.log(np.where(np.isnan(total), np.nan, np.maximum(total, self.floor))))
