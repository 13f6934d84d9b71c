"""A reward that knows nothing: what a method gains under it, it does not gain from reward."""

import hashlib
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from thinkrl.rewards.term import RewardContext, RewardTerm, Scores
from thinkrl.rollouts.store import Rollouts


@dataclass(frozen=True)
class RandomReward(RewardTerm):
    """1 with `probability`, else 0, drawn from the response id: the same response always scores the same.

    The control of "Spurious Rewards" (arXiv 2506.10947).
    """

    reads_tokens: ClassVar[bool] = False

    probability: float = 0.5
    """Chance of a 1."""
    seed: int = 0
    """Another seed gives other draws."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.probability <= 1.0:
            raise ValueError(f"probability must be in [0, 1], got {self.probability}")

    def score(self, rollouts: Rollouts, context: RewardContext) -> Scores:
        """One draw per response."""
        return Scores(np.asarray([float(self._draw(name) < self.probability) for name in rollouts.response_ids]))

    def _draw(self, response_id: str) -> float:
        digest = hashlib.blake2b(f"{self.seed}:{response_id}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") / 2.0**64
