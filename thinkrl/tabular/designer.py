"""The contract of those who design a training reward for a tabular task, and the two that only compute."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from thinkrl.tabular.episodes import Episode
from thinkrl.tabular.mdp import Floats, TabularMDP
from thinkrl.tabular.values import Optimum, lead, optimum
from thinkrl.tabular.worlds import World


@dataclass(frozen=True, eq=False)
class Task:
    """What a designer knows: the process, what is optimal in it, and features [S, A, K] to write rewards in."""

    mdp: TabularMDP
    optimum: Optimum
    features: Floats

    @classmethod
    def of(cls, world: World) -> "Task":
        """Solves a world."""
        mdp = world.mdp()
        return cls(mdp, optimum(mdp), world.features())

    @cached_property
    def invariance(self) -> tuple[Floats, Floats]:
        """Linear maps of a reward [rows, S, A], and what each must at least give, so that what is optimal stays so: the
        lead of the first optimal action over a wrong one is the original gap, over another optimal one 0."""
        best = self.optimum
        compared = np.ones_like(best.best)
        compared[np.arange(self.mdp.states), best.policy] = False
        compared[self.mdp.terminal] = False
        wanted = np.where(best.best, 0.0, best.gaps[:, None])
        return lead(self.mdp, best.policy, None)[compared], wanted[compared]

    @cached_property
    def invariance_of_features(self) -> tuple[Floats, Floats]:
        """The same for weights of the features: [rows, K] and [rows]."""
        rows, wanted = self.invariance
        return np.einsum("rsa,sak->rk", rows, self.features), wanted


@dataclass(eq=False)
class Design:
    """A training reward under way, with what its designer remembers.

    rewards: [S, A], what an action is paid. visits: [S], how often each state was left. critic: [S], the designer's
    estimate of true returns.
    """

    rewards: Floats
    visits: Floats
    critic: Floats

    @classmethod
    def begin(cls, rewards: Floats) -> "Design":
        """A design that nobody has met yet."""
        return cls(np.array(rewards), np.zeros(len(rewards)), np.zeros(len(rewards)))

    def as_json(self) -> dict[str, Any]:
        """JSON values, exact."""
        return {name: getattr(self, name).tolist() for name in ("rewards", "visits", "critic")}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Design":
        """What `as_json` wrote."""
        return cls(**{name: np.array(values[name], dtype=float) for name in ("rewards", "visits", "critic")})


@dataclass(frozen=True, kw_only=True)
class Designer(ABC):
    """Says what each step is paid while a learner learns; what it is judged by stays the task's own reward."""

    @abstractmethod
    def begin(self, task: Task) -> Design:
        """The reward at the start."""

    def check(self) -> None:  # noqa: B027 (most need nothing)
        """Looks for what it needs. Raises UserError."""

    def bonus(self, design: Design, task: Task, state: int) -> float:
        """Paid for coming into `state`, on top of `design.rewards`; nothing here."""
        return 0.0

    def follow(  # noqa: B027 (a fixed reward follows nobody)
        self, design: Design, task: Task, episodes: Sequence[Episode], policy: Floats
    ) -> None:
        """Changes the design after some of the learner's episodes; `policy` [S, A] is how it acts. Nothing here."""


@dataclass(frozen=True, kw_only=True)
class OriginalReward(Designer):
    """The task's own reward: the baseline."""

    def begin(self, task: Task) -> Design:
        """As it is."""
        return Design.begin(task.mdp.rewards)


@dataclass(frozen=True, kw_only=True)
class PotentialReward(Designer):
    """R(s, a) + discount * E[V*(s')] - V*(s): potential-based shaping (Ng, Harada, Russell 1999) by optimal values.

    Dense, and as informative as a reward can be: the optimal action is paid 0 and any other its whole gap less.
    """

    def begin(self, task: Task) -> Design:
        """Optimal advantages, which is what the sum is."""
        return Design.begin(task.optimum.advantages)
