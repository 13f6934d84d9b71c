"""Advantages brought to mean 0 and deviation 1 over the batch."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from thinkrl.algorithms.types import NO_SIGNALS, AdvantageEstimator, Advantages, Signals
from thinkrl.rollouts.ragged import Ragged
from thinkrl.rollouts.signals import Signal, reads_tokens, signals_of
from thinkrl.rollouts.store import Rollouts


@dataclass(frozen=True)
class Whitened:
    """A'_t = (A_t - mean) / sqrt(var + epsilon), over the sampled tokens of all kept responses of the batch.

    As PPO (arXiv 1707.06347) and REINFORCE++ (arXiv 2501.03262) are run. What a critic should have predicted is left as
    it is. Where all advantages are equal, they are 0.
    """

    advantage: AdvantageEstimator
    """Makes the advantages."""
    over: Literal["tokens", "responses"] = "tokens"
    """What has a vote in mean and variance: each token, so that long responses weigh more, or each response by the mean
    of its tokens."""
    center: bool = True
    """Whether the mean is taken off."""
    scale: bool = True
    """Whether the deviation is divided by."""
    variance: Literal["population", "sample"] = "sample"
    """Divides squared deviations by n (population) or n - 1 (sample)."""
    epsilon: float = 1e-8
    """Added to the variance."""

    def __post_init__(self) -> None:
        if not self.epsilon >= 0:
            raise ValueError(f"epsilon must be 0 or more, got {self.epsilon}")

    @property
    def reads_tokens(self) -> bool:
        """Whether tokens are counted."""
        return self.over == "tokens" or reads_tokens(self.advantage)

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
        """See `AdvantageEstimator`."""
        found = self.advantage.advantages(totals, rollouts, token_rewards, signals)
        column = found.values.values
        counted = rollouts.sampled & found.kept[rollouts.token_ids.row_ids] & ~np.isnan(column)
        votes = column[counted]
        if self.over == "responses":
            means = found.per_response()
            votes = means[~np.isnan(means)]
        mean, scale = self._moments(votes)
        whitened = np.where(counted, (column - mean) / scale, np.nan)
        metrics = {**found.metrics, "advantage/mean": mean, "advantage/scale": scale}
        return replace(found, values=found.values.with_values(whitened), metrics=metrics)

    def _moments(self, votes: NDArray[np.float64]) -> tuple[float, float]:
        """What is taken off and what is divided by."""
        if not len(votes):
            return 0.0, 1.0
        flat = float(np.ptp(votes)) == 0.0
        # A rounded mean of equal numbers may differ from them in the last bit.
        mean = float(votes[0]) if flat else float(np.mean(votes))
        least = 1 if self.variance == "sample" else 0
        variance = 0.0 if flat or len(votes) <= least else float(np.var(votes, ddof=least))
        scale = float(np.sqrt(variance + self.epsilon)) if self.scale and not flat else 1.0
        return (mean if self.center else 0.0), scale
