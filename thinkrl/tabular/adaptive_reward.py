"""EXPADARD: a reward within a structure, designed anew for what the learner does by now (arXiv 2503.21949)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from thinkrl.config.component import UserError
from thinkrl.tabular.designer import Design, Designer, Task
from thinkrl.tabular.episodes import Episode
from thinkrl.tabular.linear import check_solver, maximise
from thinkrl.tabular.mdp import Floats
from thinkrl.tabular.values import occupancy, smoothed


def informed_gain(advantages: Floats, policy: Floats, taught: Floats, visited: Floats) -> Floats:
    """Coefficients [S, A] of R in

    sum over s, a of taught(s) visited(s, a) policy(a|s) [A(s, a) - A(s, policy)] [R(s, a) - R(s, policy)],

    where X(s, policy) is the mean of X(s, .) under the policy: how much one step of the learner on R gains by the
    teacher's advantages A [S, A]. taught: [S], where the teacher goes. visited: [S, A], where the learner goes and what
    it does there, so that its policy counts twice.
    """
    above = advantages - (policy * advantages).sum(axis=1, keepdims=True)
    weight = taught[:, None] * visited * policy * above
    return np.asarray(weight - policy * weight.sum(axis=1, keepdims=True))


@dataclass(frozen=True, kw_only=True)
class AdaptiveReward(Designer):
    """Maximises `informed_gain` over the world's features times weights, within `bound`, subject to what is optimal
    staying so by the original gaps; again whenever the learner has gone on."""

    epsilon: float = 0.4
    """How often the teacher's policy, by whose states the gain is weighed, does anything at random."""
    bound: float = 10.0
    """Greatest absolute reward."""
    margin: float = 0.0
    """Share by which gaps may fall short of the original ones."""
    adapts: bool = True
    """Follows the learner; otherwise the design is that for a learner that does anything alike."""

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon <= 1:
            raise ValueError(f"epsilon must be within 0 and 1, got {self.epsilon}")
        if not self.bound > 0:
            raise ValueError(f"bound must be above 0, got {self.bound}")
        if self.margin < 0:
            raise ValueError(f"margin must be at least 0, got {self.margin}")

    def check(self) -> None:
        """Looks for the solver."""
        check_solver()

    def begin(self, task: Task) -> Design:
        """For a learner that does anything alike."""
        uniform = np.full_like(task.mdp.rewards, 1 / task.mdp.actions)
        return Design.begin(self.solve(task, uniform))

    def follow(self, design: Design, task: Task, episodes: Sequence[Episode], policy: Floats) -> None:
        """For the learner as it is."""
        if self.adapts:
            design.rewards = self.solve(task, policy)

    def solve(self, task: Task, policy: Floats) -> Floats:
        """The reward [S, A] for a learner of `policy` [S, A]. Raises UserError where the features allow none."""
        best = task.optimum
        taught = occupancy(task.mdp, smoothed(best.best, self.epsilon))
        visited = occupancy(task.mdp, policy)[:, None] * policy
        gain = np.einsum("sa,sak->k", informed_gain(best.advantages, policy, taught, visited), task.features)
        shown, least = task.invariance_of_features
        values = np.unique(task.features.reshape(-1, task.features.shape[-1]), axis=0)
        limits = np.concatenate([-least / (1 + self.margin), np.full(2 * len(values), self.bound)])
        found = maximise(gain, np.concatenate([-shown, values, -values]), limits, np.inf)
        if found is None:
            raise UserError(f"no reward of at most {self.bound:g} in the world's features keeps what is optimal")
        return np.asarray(task.features @ found[1])
