"""Advantages in which an episode counts once, however many of its turns are responses of their own."""

from collections import defaultdict
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from thinkrl.algorithms.advantages import return_to_go
from thinkrl.algorithms.types import NO_SIGNALS, AdvantageEstimator, Advantages, Signals
from thinkrl.rollouts.ragged import Ragged
from thinkrl.rollouts.signals import EPISODE, Signal, signals_of
from thinkrl.rollouts.store import Rollouts


@dataclass(frozen=True)
class PerEpisode:
    """Gives each turn the advantage of its episode, which the estimator finds among the episodes of the group.

    Without it every turn is a response like any other, as in the released code of RLVER (arXiv 2507.03112): a group
    holds all turns of all episodes of a scenario, and long episodes weigh more in mean and deviation. The total of an
    episode is the mean of its turns' totals, which are equal where the reward is that of the whole episode.
    """

    reads_tokens: ClassVar[bool] = False

    advantage: AdvantageEstimator
    """Compares the episodes of a group; it reads totals alone."""

    def __post_init__(self) -> None:
        if signals_of(self.advantage):
            names = ", ".join(signal.name for signal in signals_of(self.advantage))
            raise ValueError(f"advantage must read no signals where episodes are compared, got one that reads {names}")

    def signals(self) -> tuple[Signal, ...]:
        """Which episode a response belongs to."""
        return (EPISODE,)

    def advantages(
        self,
        totals: NDArray[np.float64],
        rollouts: Rollouts,
        token_rewards: Ragged | None = None,
        signals: Signals = NO_SIGNALS,
    ) -> Advantages:
        """Advantages of n responses; see `AdvantageEstimator`. Token rewards are added as return to go, uncentred.

        Raises ValueError where a response has no episode.
        """
        totals = np.asarray(totals, dtype=np.float64)
        if totals.shape != (len(rollouts),):
            raise ValueError(f"totals must have one entry for each of {len(rollouts)} responses, got {totals.shape}")
        members = self._members(rollouts)
        first = [rows[0] for rows in members]
        found = self.advantage.advantages(np.asarray([_mean(totals[rows]) for rows in members]), rollouts.select(first))
        per_row = np.full(len(rollouts), np.nan)
        for rows, value in zip(members, found.per_response(), strict=True):
            per_row[rows] = value
        kept = ~np.isnan(totals)
        at_tokens = rollouts.token_ids.row_ids
        column = np.where(rollouts.sampled & kept[at_tokens], per_row[at_tokens], np.nan)
        if token_rewards is not None:
            column = column + return_to_go(token_rewards, rollouts).values
        metrics = {**found.metrics, "advantage/episodes": float(len(members))}
        return Advantages(rollouts.token_ids.with_values(column), kept, metrics=metrics)

    def _members(self, rollouts: Rollouts) -> list[list[int]]:
        """Rows of each episode, in the order in which episodes begin."""
        found: dict[tuple[int, str], list[int]] = defaultdict(list)
        for row, episode in enumerate(rollouts.episodes or (None,) * len(rollouts)):
            if episode is None:
                name = rollouts.response_ids[row]
                raise ValueError(f"response {name!r} must have an episode: the environment gives none")
            found[int(rollouts.group_index[row]), episode.episode].append(row)
        return list(found.values())


def _mean(totals: NDArray[np.float64]) -> float:
    """Mean of the totals there are, exactly the one that all are where they are equal; NaN without any."""
    known = totals[~np.isnan(totals)]
    if not len(known):
        return float("nan")
    return float(known[0]) if np.ptp(known) == 0 else float(np.mean(known))
