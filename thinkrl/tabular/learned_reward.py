"""EXPLORS: a reward that the learner designs for itself from its own returns and visits (arXiv 2503.21949)."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from thinkrl.tabular.designer import Design, Designer, Task
from thinkrl.tabular.episodes import Episode, returns_to_go
from thinkrl.tabular.mdp import Floats


def count_bonus(visits: float, scale: float = 1.0, most: float = 1.0) -> float:
    """scale / sqrt((scale / most)^2 + visits): `most` for a state that was never left."""
    return scale / sqrt((scale / most) ** 2 + visits)


@dataclass(frozen=True, kw_only=True)
class LearnedReward(Designer):
    """r(s, a) + phi(s, a) + b(s'): phi is learned from true returns G by the learner's own policy gradient, b counts.

    After some episodes, x = pi(a|s) (G - V(s)) at each of their steps, and phi(s, .) += rate x (e_a - pi(.|s)); then
    V(s) goes towards G. pi is that of when the step was made.
    """

    learns: bool = True
    """Learns phi; 0 otherwise."""
    explores: bool = True
    """Pays b."""
    rate: float = 0.01
    """Rate of phi; its step is a sum over all steps."""
    critic_rate: float = 0.01
    """Rate of V; its step is a mean over all steps."""
    clip: float | None = None
    """Greatest absolute phi; 0.01 for a learner by Q-values."""
    bonus_scale: float = 1.0
    """lambda of b."""
    bonus_most: float = 1.0
    """b of a state that was never left."""

    def __post_init__(self) -> None:
        for name in ("rate", "critic_rate", "bonus_scale", "bonus_most"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip must be above 0, got {self.clip}")
        if not (self.learns or self.explores):
            raise ValueError("learns or explores must be on, got neither; OriginalReward is that")

    def begin(self, task: Task) -> Design:
        """phi and V are 0."""
        return Design.begin(task.mdp.rewards)

    def bonus(self, design: Design, task: Task, state: int) -> float:
        """b, and nothing for the end."""
        if not self.explores or task.mdp.terminal[state]:
            return 0.0
        return count_bonus(float(design.visits[state]), self.bonus_scale, self.bonus_most)

    def follow(self, design: Design, task: Task, episodes: Sequence[Episode], policy: Floats) -> None:
        """One step of phi and V on all steps of `episodes`."""
        if not self.learns or not episodes:
            return
        states = np.concatenate([episode.states for episode in episodes])
        actions = np.concatenate([episode.actions for episode in episodes])
        chances = np.concatenate([episode.probabilities for episode in episodes])
        paid = [task.mdp.rewards[episode.states, episode.actions] for episode in episodes]
        better = np.concatenate([returns_to_go(one, task.mdp.discount) for one in paid]) - design.critic[states]
        step = np.zeros_like(design.rewards)
        weight = chances[np.arange(len(actions)), actions] * better
        np.add.at(step, (states, actions), weight)
        np.add.at(step, states, -chances * weight[:, None])
        phi = design.rewards - task.mdp.rewards + self.rate * step
        if self.clip is not None:
            phi = np.clip(phi, -self.clip, self.clip)
        design.rewards = task.mdp.rewards + phi
        towards = np.zeros_like(design.critic)
        np.add.at(towards, states, better)
        design.critic = design.critic + self.critic_rate * towards / len(states)
