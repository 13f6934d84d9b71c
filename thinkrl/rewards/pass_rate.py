"""How often a prompt's own group is right: bands of difficulty, and the groups that the policy is surest of."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from thinkrl.rollouts.store import Rollouts


def group_pass_rates(passed: NDArray[np.bool_], rollouts: Rollouts) -> NDArray[np.float64]:
    """The share of passed responses of each group, [groups]; NaN for a group without a response."""
    count = len(rollouts.groups)
    sizes = np.bincount(rollouts.group_index, minlength=count)
    hits = np.bincount(rollouts.group_index, weights=passed, minlength=count)
    return np.where(sizes > 0, hits / np.maximum(sizes, 1), math.nan)


def top_groups(rates: NDArray[np.float64], share: float) -> NDArray[np.bool_]:
    """The ceil(share * m) of m groups with the highest rate, [groups]; ties go to the earlier group."""
    # What rounding adds to a whole product must not make one group more.
    count = math.ceil(share * len(rates) - 1e-9)
    chosen = np.zeros(len(rates), dtype=np.bool_)
    chosen[np.argsort(-np.nan_to_num(rates, nan=-1.0), kind="stable")[:count]] = True
    return chosen


@dataclass(frozen=True)
class PassRateBands:
    """Bands of difficulty by the pass rate of a group: hard below the first threshold, then medium, then easy.

    LASER-D (arXiv 2505.15612) and TRAAC take thirds.
    """

    thresholds: tuple[float, ...] = (1 / 3, 2 / 3)
    """Where one band ends and the next begins, as rising pass rates."""
    names: tuple[str, ...] = ("hard", "medium", "easy")
    """The bands from low to high rates, one more than thresholds."""

    def __post_init__(self) -> None:
        if len(self.names) != len(self.thresholds) + 1 or len(set(self.names)) != len(self.names):
            raise ValueError(f"names must be {len(self.thresholds) + 1} different words, got {list(self.names)}")
        if list(self.thresholds) != sorted(set(self.thresholds)):
            raise ValueError(f"thresholds must rise, got {list(self.thresholds)}")

    def band(self, rate: float, on_threshold: Literal["upper", "lower"] = "upper") -> str:
        """The band of a pass rate; a rate on a threshold goes to the band above or below it."""
        side: Literal["right", "left"] = "right" if on_threshold == "upper" else "left"
        return self.names[int(np.searchsorted(self.thresholds, rate, side))]


THIRDS = PassRateBands()
"""Below one third right is hard, from two thirds on easy."""
