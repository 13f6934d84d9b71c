"""Which responses of a group are learned from, once their advantages are known."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from thinkrl.algorithms.types import NO_SIGNALS, AdvantageEstimator, Advantages, Signals
from thinkrl.rollouts.ragged import Ragged
from thinkrl.rollouts.signals import Signal, reads_tokens, signals_of
from thinkrl.rollouts.store import Rollouts
from thinkrl.rollouts.streams import stream_key


@dataclass(frozen=True)
class RandomOfEachOutcome:
    """Advantages of `advantage`, from whole groups; then as many random right as wrong responses stay in a group.

    A response is right where its reward is above 0. Groups in which all are right, or none is, leave the loss whole
    (OREAL, arXiv 2502.06781, keeps one response of each outcome). What is drawn depends on the seed and the response
    ids alone, so neither the order of responses nor a resumed run changes it.
    """

    advantage: AdvantageEstimator
    """Makes the advantages, of all responses."""
    each: int = 1
    """Responses of either outcome that stay in a group; fewer of both where a group has fewer of one."""
    seed: int = 0
    """Another seed gives other draws."""

    def __post_init__(self) -> None:
        if self.each < 1:
            raise ValueError(f"each must be at least 1, got {self.each}")

    @property
    def reads_tokens(self) -> bool:
        """Whether the estimator counts tokens."""
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
        """See `AdvantageEstimator`; what the estimator leaves out stays out."""
        found = self.advantage.advantages(totals, rollouts, token_rewards, signals)
        kept = np.zeros(len(rollouts), dtype=np.bool_)
        groups = rollouts.rows_by_group().values()
        mixed = 0
        for rows in groups:
            rows = rows[found.kept[rows]]
            positive = totals[rows] > 0
            count = min(self.each, int(positive.sum()), int((~positive).sum()))
            mixed += count > 0
            for outcome in (positive, ~positive):
                kept[self._drawn(rows[outcome], rollouts)[:count]] = True
        metrics = {
            "selection/mixed_groups": mixed / max(len(groups), 1),
            "selection/kept_responses": float(kept.sum()) / max(len(kept), 1),
        }
        return replace(found, kept=kept, metrics={**found.metrics, **metrics})

    def _drawn(self, rows: NDArray[np.int64], rollouts: Rollouts) -> list[int]:
        """The rows in a random order of their own."""
        return sorted(map(int, rows), key=lambda row: stream_key("selection", self.seed, rollouts.response_ids[row]))
