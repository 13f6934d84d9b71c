"""Episodes of a tabular process, and returns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from thinkrl.tabular.mdp import Floats


@dataclass(eq=False)
class Episode:
    """Steps in order. rewards: what the learner was paid. probabilities: of every action, when it acted, [T][A]."""

    states: list[int]
    actions: list[int]
    rewards: list[float]
    probabilities: list[list[float]]

    def as_json(self) -> dict[str, Any]:
        """JSON values, exact."""
        return dict(vars(self))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Episode":
        """What `as_json` wrote."""
        return cls(**values)


def returns_to_go(rewards: Sequence[float] | Floats, discount: float) -> Floats:
    """Discounted return from each step on, [T]."""
    found, later = np.zeros(len(rewards)), 0.0
    for place in range(len(rewards) - 1, -1, -1):
        later = float(rewards[place]) + discount * later
        found[place] = later
    return found
