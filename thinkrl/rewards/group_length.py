"""How long is a response beside the others of its group?"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thinkrl.rewards.term import RewardContext, RewardTerm, Scores
from thinkrl.rollouts.store import Rollouts


@dataclass(frozen=True)
class LengthAmongPassed(RewardTerm):
    """sigmoid((L - mean) / std) for a passed response, mean and population std over the group's passed ones; else 0.

    With a negative weight it is the length penalty of "Training language models to reason efficiently" (arXiv
    2502.04463), which GRPO-lambda (arXiv 2505.18086) takes up: between 0 and 1, and 1/2 where all are equally long.
    """

    of: str = "correctness"
    """The term that says which responses passed."""
    passes: float = 1.0
    """Least value of `of` that passes."""
    least_std: float = 1e-4
    """Least standard deviation, in tokens."""

    def __post_init__(self) -> None:
        if not self.least_std > 0.0:
            raise ValueError(f"least_std must be above 0, got {self.least_std}")

    def reads_terms(self) -> tuple[str, ...]:
        """The term that says who passed."""
        return (self.of,)

    def score(self, rollouts: Rollouts, context: RewardContext) -> Scores:
        """A value in [0, 1) per response."""
        passed = context.scores[self.of].values >= self.passes
        lengths = rollouts.sampled_counts.astype(np.float64)
        values = np.zeros(len(rollouts))
        for rows in rollouts.rows_by_group().values():
            right = rows[passed[rows]]
            if len(right):
                off = lengths[right] - lengths[right].mean()
                values[right] = sigmoid(off / max(float(lengths[right].std()), self.least_std))
        return Scores(values)


@dataclass(frozen=True)
class LengthRange(RewardTerm):
    """s = 0.5 - (L - shortest) / (longest - shortest) over the group, at most 0 for a response that did not pass.

    The length reward of Kimi k1.5 (arXiv 2501.12599, section 2.3.3); 0 where all are equally long.
    """

    of: str = "correctness"
    """The term that says which responses passed."""
    passes: float = 1.0
    """Least value of `of` that passes."""

    def reads_terms(self) -> tuple[str, ...]:
        """The term that says who passed."""
        return (self.of,)

    def score(self, rollouts: Rollouts, context: RewardContext) -> Scores:
        """A value in [-0.5, 0.5] per response."""
        passed = context.scores[self.of].values >= self.passes
        lengths = rollouts.sampled_counts.astype(np.float64)
        values = np.zeros(len(rollouts))
        for rows in rollouts.rows_by_group().values():
            span = float(np.ptp(lengths[rows]))
            if span:
                values[rows] = 0.5 - (lengths[rows] - lengths[rows].min()) / span
        return Scores(np.where(passed, values, np.minimum(values, 0.0)))


def sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / (1 + e^-v), without overflow."""
    small = np.exp(-np.abs(values))
    return np.where(values >= 0.0, 1.0, small) / (1.0 + small)
