"""A Markov decision process as three tables, checked when it is made."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

_SUM_TOLERANCE = 1e-9


@dataclass(frozen=True, eq=False)
class TabularMDP:
    """States and actions by number.

    transitions: [S, A, S], probabilities of the next state. rewards: [S, A], expected reward of an action. start: [S],
    probabilities of the first state. discount: in [0, 1). terminal: [S], states in which an episode is over; they stay
    where they are and pay nothing.
    Raises ValueError where a table is not what it must be, naming the first bad entry.
    """

    transitions: Floats
    rewards: Floats
    start: Floats
    discount: float
    terminal: Bools

    def __post_init__(self) -> None:
        shape = self.transitions.shape
        if len(shape) != 3 or shape[0] != shape[2] or 0 in shape:
            raise ValueError(f"transitions must be of shape [S, A, S], got {list(shape)}")
        for name, table, wanted in (
            ("rewards", self.rewards, shape[:2]),
            ("start", self.start, shape[:1]),
            ("terminal", self.terminal, shape[:1]),
        ):
            if table.shape != wanted:
                raise ValueError(f"{name} must be of shape {list(wanted)}, got {list(table.shape)}")
        if not 0 <= self.discount < 1:
            raise ValueError(f"discount must be at least 0 and below 1, got {self.discount}")
        if not np.isfinite(self.rewards).all():
            state, action = np.argwhere(~np.isfinite(self.rewards))[0]
            raise ValueError(f"rewards must be finite, got {self.rewards[state, action]} in state {state}")
        _check_sums("start", self.start[None, None])
        _check_sums("transitions", self.transitions)
        for state in np.flatnonzero(self.terminal):
            if (self.transitions[state, :, state] != 1).any() or self.rewards[state].any():
                raise ValueError(f"terminal states must stay where they are and pay nothing, got state {state}")

    @property
    def states(self) -> int:
        """How many states."""
        return len(self.transitions)

    @property
    def actions(self) -> int:
        """How many actions, the same in every state."""
        return len(self.transitions[0])

    def first_state(self, uniform: float) -> int:
        """The state that a number in [0, 1) draws from `start`."""
        return _draw(self._starts, uniform)

    def next_state(self, state: int, action: int, uniform: float) -> int:
        """The state that a number in [0, 1) draws from `transitions[state, action]`."""
        return _draw(self._outcomes[state][action], uniform)

    @cached_property
    def _starts(self) -> tuple[list[float], list[int]]:
        return _outcomes(self.start)

    @cached_property
    def _outcomes(self) -> list[list[tuple[list[float], list[int]]]]:
        return [[_outcomes(row) for row in rows] for rows in self.transitions]


def _check_sums(name: str, table: Floats) -> None:
    bad = np.argwhere(~((table >= 0).all(axis=-1) & (np.abs(table.sum(axis=-1) - 1) <= _SUM_TOLERANCE)))
    if len(bad):
        state, action = bad[0]
        where = f" in state {state}, action {action}" if name == "transitions" else ""
        raise ValueError(f"{name} must be probabilities that sum to 1, got {table[state, action].sum():g}{where}")


def _outcomes(row: Floats) -> tuple[list[float], list[int]]:
    """Running sums and states of the outcomes that can happen."""
    possible = np.flatnonzero(row)
    return np.cumsum(row[possible]).tolist(), possible.tolist()


def _draw(outcomes: tuple[Sequence[float], Sequence[int]], uniform: float) -> int:
    sums, states = outcomes
    # The last sum may miss 1 by rounding.
    return states[min(bisect_right(sums, uniform), len(states) - 1)]
