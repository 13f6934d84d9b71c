"""Small worlds of the reward design papers, as exact tables. Cells of a grid are numbered row by row from below."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import numpy as np

from thinkrl.tabular.mdp import Floats, TabularMDP


@dataclass(frozen=True, kw_only=True)
class World(ABC):
    """A task, and the features in which a designer may write rewards for it."""

    @abstractmethod
    def mdp(self) -> TabularMDP:
        """The tables."""

    def features(self) -> Floats:
        """[S, A, K]: rewards that a designer bound to a structure can give are these times K weights. Here, one weight
        for each state and action."""
        mdp = self.mdp()
        return np.eye(mdp.states * mdp.actions).reshape(mdp.states, mdp.actions, -1)


def check_chance(name: str, value: float) -> None:
    """Raises ValueError unless `value` is in [0, 1)."""
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be at least 0 and below 1, got {value}")


UP, LEFT, DOWN, RIGHT = range(4)
_SIDE = 7
_CELLS = _SIDE * _SIDE
_GOAL = _CELLS - 1
_WALL = (0, 2, 3, 4, 6)
"""Cells along each of the two walls; those left out are gates."""
_BELOW_GOAL = 42
_BLOCKS = (0, 3, 4, 21, 28, 24, 31, 25, 32)
"""Lower left cells of the 3x3 blocks of which features are made."""


@dataclass(frozen=True, kw_only=True)
class Room(World):
    """Four rooms, 7 x 7 cells and an end (50 states); up, left, down, right. `right` in the upper right cell is paid;
    the lower left cell has an exit that pays nothing. As in the released codes, `down` in the upper right cell leads to
    the upper left one (state 42).
    """

    form: Literal["exprd", "expadard", "explors"] = "exprd"
    """Whose code: `exprd`, a slip goes to any other neighbour, and `up` leaves the goal as well; `expadard`, it goes to
    what any action would do, and never happens in the lower left and the goal; `explors`, the same everywhere, and the
    goal is not left by `right`, which pays each time."""
    goal_reward: float = 10.0
    """Paid for `right` in the goal."""
    discount: float = 0.95
    """Discount of a step."""
    slip: float = 0.1
    """Probability that an action does something else."""
    detour_reward: float = 0.0
    """Paid for `up` in state 1, a distraction."""

    def __post_init__(self) -> None:
        check_chance("slip", self.slip)
        check_chance("discount", self.discount)

    def mdp(self) -> TabularMDP:
        """The tables."""
        meant = np.array([[self._target(cell, action) for action in range(4)] for cell in range(_CELLS)])
        transitions = np.zeros((_CELLS + 1, 4, _CELLS + 1))
        for cell, targets in enumerate(meant):
            for action, target in enumerate(targets):
                transitions[cell, action] = self._outcome(cell, target, targets)
        transitions[_CELLS, :, _CELLS] = 1.0
        rewards = np.zeros((_CELLS + 1, 4))
        rewards[_GOAL, RIGHT] = self.goal_reward
        rewards[1, UP] += self.detour_reward
        start, end = np.eye(_CELLS + 1)[_SIDE + 1], np.eye(_CELLS + 1)[_CELLS] > 0
        return TabularMDP(transitions, rewards, start, self.discount, end)

    def features(self) -> Floats:
        """Nine 3 x 3 blocks and the goal, for each action: 40 weights."""
        blocks = np.zeros((_CELLS + 1, len(_BLOCKS) + 1))
        for number, corner in enumerate(_BLOCKS):
            blocks[[corner + _SIDE * row + column for row in range(3) for column in range(3)], number] = 1.0
        blocks[_GOAL, -1] = 1.0
        return np.asarray(np.einsum("sk,ab->sabk", blocks, np.eye(4)).reshape(_CELLS + 1, 4, -1))

    def _target(self, cell: int, action: int) -> int:
        """Where an action leads that does not slip."""
        x, y = cell % _SIDE, cell // _SIDE
        if cell == 0 and action in (LEFT, DOWN):
            return _CELLS
        if cell == _GOAL and action in (UP, RIGHT):
            ends = {"exprd": (UP, RIGHT), "expadard": (RIGHT,), "explors": ()}[self.form]
            return _CELLS if action in ends else cell
        if cell == _GOAL and action == DOWN:
            return _BELOW_GOAL
        free = {
            UP: y < _SIDE - 1 and not (y == 2 and x in _WALL),
            DOWN: y > 0 and not (y == 3 and x in _WALL),
            LEFT: x > 0 and not (x == 3 and y in _WALL),
            RIGHT: x < _SIDE - 1 and not (x == 2 and y in _WALL),
        }
        return cell + {UP: _SIDE, DOWN: -_SIDE, LEFT: -1, RIGHT: 1}[action] if free[action] else cell

    def _outcome(self, cell: int, target: int, targets: np.ndarray) -> Floats:
        """Probabilities of where one lands."""
        row = np.zeros(_CELLS + 1)
        if self.form == "expadard" and cell in (0, _GOAL):
            row[target] = 1.0
            return row
        row[target] += 1 - self.slip
        slips = [*targets] if self.form != "exprd" else sorted({*targets} - {cell, target})
        for slipped in slips:
            row[slipped] += self.slip / len(slips)
        return row


_PLACES, _KEY_AT = 10, 1
PICK = 2


@dataclass(frozen=True, kw_only=True)
class LineKey(World):
    """Ten places in a row, without a key and then with it, and an end (21 states); left (0), right (1), pick (2).

    The key lies at place 1; `right` at the last place with the key is paid and ends; falling off the left end without
    the key ends unpaid. As in the code released with EXPADARD, picking the key moves one to place 0.
    """

    goal_reward: float = 10.0
    """Paid for the door with the key."""
    discount: float = 0.95
    """Discount of a step."""
    slip: float = 0.1
    """Probability that a step goes the other way; picking never slips."""

    def __post_init__(self) -> None:
        check_chance("slip", self.slip)
        check_chance("discount", self.discount)

    def mdp(self) -> TabularMDP:
        """The tables."""
        end, door = 2 * _PLACES, 2 * _PLACES - 1
        transitions = np.zeros((end + 1, 3, end + 1))
        for state in range(end):
            place, key = state % _PLACES, state >= _PLACES
            left = state - 1 if place else (state if key else end)
            right = state + 1 if place < _PLACES - 1 else state
            for action, (meant, other) in enumerate(((left, right), (right, left))):
                transitions[state, action, meant] += 1 - self.slip
                transitions[state, action, other] += self.slip
            transitions[state, PICK, _PLACES if place == _KEY_AT and not key else state] = 1.0
        # Off the left end one falls for certain; the door opens for certain, and by a slip as well.
        transitions[0, 0] = np.eye(end + 1)[end]
        transitions[door, 1] = np.eye(end + 1)[end]
        transitions[door, 0] = (1 - self.slip) * np.eye(end + 1)[door - 1] + self.slip * np.eye(end + 1)[end]
        transitions[end, :, end] = 1.0
        rewards = np.zeros((end + 1, 3))
        rewards[door, 1] = self.goal_reward
        start = np.eye(end + 1)[_PLACES // 2]
        return TabularMDP(transitions, rewards, start, self.discount, np.eye(end + 1)[end] > 0)

    def features(self) -> Floats:
        """The leaves of a tree for each action: without the key elsewhere, at the door, at the key; with it elsewhere,
        at the door: 15 weights."""
        leaves = np.zeros((2 * _PLACES + 1, 5))
        for state in range(2 * _PLACES):
            place, key = state % _PLACES, state >= _PLACES
            at_door = place == _PLACES - 1
            leaves[state, (3 + at_door) if key else (1 if at_door else 2 if place == _KEY_AT else 0)] = 1.0
        return np.asarray(np.einsum("sk,ab->sabk", leaves, np.eye(3)).reshape(2 * _PLACES + 1, 3, -1))


@dataclass(frozen=True, kw_only=True)
class Chain(World):
    """A line with the start in its middle; left (0), right (1). `right` at the right end is paid each time and stays
    there; falling off the left end is the end."""

    left: int = 40
    """Places left of the start."""
    right: int = 20
    """Steps from the start to the right end."""
    goal_reward: float = 1.0
    """Paid for `right` at the right end, each time."""
    discount: float = 0.99
    """Discount of a step."""
    slip: float = 0.05
    """Probability that the action is drawn anew."""
    detour_reward: float = 0.0
    """Paid for `left`, 15 places left of the start: a distraction."""

    def __post_init__(self) -> None:
        check_chance("slip", self.slip)
        check_chance("discount", self.discount)
        if self.left < 15 or self.right < 1:
            raise ValueError(f"left must be at least 15 and right at least 1, got {self.left} and {self.right}")

    def mdp(self) -> TabularMDP:
        """The tables."""
        end = self.left + self.right + 1
        goal = end - 1
        transitions = np.zeros((end + 1, 2, end + 1))
        for state in range(end):
            targets = (state - 1 if state else end, min(state + 1, goal))
            for action in range(2):
                transitions[state, action, targets[action]] += 1 - self.slip
                for target in targets:
                    transitions[state, action, target] += self.slip / 2
        transitions[end, :, end] = 1.0
        rewards = np.zeros((end + 1, 2))
        rewards[goal, 1] = self.goal_reward
        rewards[self.left - 15, 0] += self.detour_reward
        start = np.eye(end + 1)[self.left]
        return TabularMDP(transitions, rewards, start, self.discount, np.eye(end + 1)[end] > 0)
