"""EXPRD: a sparse reward that keeps what is optimal and shows it within few steps (arXiv 2503.21949)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from thinkrl.config.component import UserError
from thinkrl.tabular.designer import Design, Designer, Task
from thinkrl.tabular.linear import check_solver, maximise
from thinkrl.tabular.mdp import Floats
from thinkrl.tabular.values import lead

HORIZONS = (1, 4, 8, 16, 32)
_TIE = 1e-7
"""Objectives that differ by less are equal: the solver holds constraints to no more."""


def informativeness(task: Task, rewards: Floats, horizons: Sequence[int] = HORIZONS) -> float:
    """I(R): minus the mean, over horizons and states, of what the least clear wrong action lacks to the original gap.

    0 is best. One optimal policy is followed, the first optimal action in each state.
    """
    best = task.optimum
    mdp, each = task.mdp, np.arange(task.mdp.states)
    later, lacking = np.zeros(mdp.states), 0.0
    for horizon in range(max(horizons) + 1):
        q = rewards + mdp.discount * mdp.transitions @ later
        later = q[each, best.policy]
        if horizon in horizons:
            lacks = np.where(best.best, -np.inf, best.gaps[:, None] - (later[:, None] - q)).max(axis=1)
            lacking += float(np.maximum(0.0, lacks).mean())
    return -lacking / len(horizons)


@dataclass(frozen=True, kw_only=True)
class SparseReward(Designer):
    """Maximises I(R) over rewards within `bound`, 0 outside the chosen states, subject to

    Q_R(s, pi*(s)) - Q_R(s, a) >= gap(s) / (1 + margin) for wrong actions a, >= 0 for optimal ones.

    The states are the goals and `extra` more, each the one that gains most given those before (the first of equals).
    """

    extra: int = 5
    """States beside the goals; every state where the original reward is not 0 is a goal."""
    states: tuple[int, ...] | None = None
    """These, in place of a search."""
    bound: float = 10.0
    """Greatest absolute reward."""
    horizons: tuple[int, ...] = HORIZONS
    """Steps within which wrong actions should show."""
    margin: float = 1e-5
    """Share by which gaps may fall short of the original ones, so that rounding does not rule out every reward."""

    def __post_init__(self) -> None:
        if self.extra < 0:
            raise ValueError(f"extra must be at least 0, got {self.extra}")
        if not self.bound > 0:
            raise ValueError(f"bound must be above 0, got {self.bound}")
        if not self.horizons or min(self.horizons) < 0:
            raise ValueError(f"horizons must be at least one number, none below 0, got {list(self.horizons)}")
        if self.margin < 0:
            raise ValueError(f"margin must be at least 0, got {self.margin}")

    def check(self) -> None:
        """Looks for the solver."""
        check_solver()

    def begin(self, task: Task) -> Design:
        """Searches and solves. Raises UserError where no reward on the states keeps what is optimal."""
        programme = _Programme(task, self)
        if self.states is not None:
            chosen = list(self.states)
            wrong = [state for state in chosen if not 0 <= state < task.mdp.states]
            if wrong:
                raise UserError(f"designer.states must be below {task.mdp.states}, got {wrong}")
        else:
            chosen = self.search(task)
        found = programme.solve(chosen)
        if found is None:
            raise UserError(
                f"no reward of at most {self.bound:g} on states {chosen} keeps what is optimal; more states, or a"
                " greater bound, may"
            )
        return Design.begin(found[1])

    def search(self, task: Task) -> list[int]:
        """The goals, then the states in the order chosen."""
        programme = _Programme(task, self)
        chosen = np.flatnonzero(task.mdp.rewards.any(axis=1)).tolist()
        for _ in range(self.extra):
            left = [state for state in np.flatnonzero(~task.mdp.terminal).tolist() if state not in chosen]
            gains = {state: found[0] for state in left if (found := programme.solve([*chosen, state])) is not None}
            if not gains:
                break
            # States of equal gain must not be told apart by the solver's last digits.
            most = max(gains.values())
            chosen.append(next(state for state, gain in gains.items() if gain >= most - _TIE))
        return chosen


class _Programme:
    """The linear programme over rewards on some states; what does not depend on them is computed once."""

    def __init__(self, task: Task, designer: SparseReward) -> None:
        best = task.optimum
        self._shape = (task.mdp.states, task.mdp.actions)
        self._bound, self._count = designer.bound, len(designer.horizons) * task.mdp.states
        gaps = best.gaps / (1 + designer.margin)
        wrong = ~best.best
        self._kept, least = task.invariance
        self._least = least / (1 + designer.margin)
        shown = np.stack([lead(task.mdp, best.policy, horizon) for horizon in designer.horizons])
        # One row for each horizon, state and wrong action; `_of` numbers their pairs of horizon and state.
        horizon, state, action = np.nonzero(np.broadcast_to(wrong, (len(shown), *self._shape)))
        self._rows, self._wanted = shown[horizon, state, action], gaps[state]
        self._of = np.unique(horizon * task.mdp.states + state, return_inverse=True)[1]

    def solve(self, states: Sequence[int]) -> tuple[float, Floats] | None:
        """The greatest objective with rewards on `states` alone, and a reward [S, A] that has it; None without any."""
        from scipy.sparse import csr_matrix, hstack, vstack

        size = len(states) * self._shape[1]
        kept = self._kept[:, states].reshape(-1, size)
        rows = self._rows[:, states].reshape(-1, size)
        pairs = int(self._of.max()) + 1
        lacks = csr_matrix((np.ones(len(self._of)), (np.arange(len(self._of)), self._of)), (len(self._of), pairs))
        none = csr_matrix((len(kept), pairs))
        most = vstack([hstack([-csr_matrix(kept), none]), hstack([-csr_matrix(rows), -lacks])])
        gain = np.concatenate([np.zeros(size), -np.ones(pairs)])
        found = maximise(gain, most, -np.concatenate([self._least, self._wanted]), self._bound, above_zero=pairs)
        if found is None:
            return None
        rewards = np.zeros(self._shape)
        rewards[list(states)] = found[1][:size].reshape(-1, self._shape[1])
        return found[0] / self._count, rewards
