"""Did the response end, or was it cut off?"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from thinkrl.rewards.term import RewardContext, RewardTerm, Scores
from thinkrl.rollouts.store import FinishReason, Rollouts


@dataclass(frozen=True)
class Finished(RewardTerm):
    """1 where the response ended with a stop token, 0 where it was cut off at its longest."""

    reads_tokens: ClassVar[bool] = False

    def score(self, rollouts: Rollouts, context: RewardContext) -> Scores:
        """0 or 1 per response."""
        ended = [reason is FinishReason.STOP for reason in rollouts.finish_reasons]
        return Scores(np.asarray(ended, dtype=np.float64), notes=tuple("" if end else "cut off" for end in ended))
