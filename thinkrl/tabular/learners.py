"""Learners with a table: Q-learning and REINFORCE."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from thinkrl.tabular.episodes import Episode, returns_to_go
from thinkrl.tabular.mdp import Floats

_TIE = 1e-6


@dataclass(frozen=True, kw_only=True)
class TabularLearner(ABC):
    """Changes a table [S, A] that starts at 0."""

    @abstractmethod
    def acts(self, table: Floats) -> Floats:
        """Probabilities of what it does while it learns; of one state's row [A], or of all [S, A]."""

    def judged(self, table: Floats) -> Floats:
        """Probabilities of what it is judged by, [S, A]."""
        return self.acts(table)

    def after_step(  # noqa: B027 (some learn from whole episodes alone)
        self, table: Floats, state: int, action: int, reward: float, target: int, over: bool, discount: float
    ) -> None:
        """Learns from one step; nothing here. over: `target` is an end."""

    def after_episodes(  # noqa: B027 (some learn from single steps alone)
        self, table: Floats, episodes: Sequence[Episode], discount: float
    ) -> None:
        """Learns from the last episodes; nothing here."""


def _greedy(values: Floats) -> Floats:
    """The best action, any of equals alike."""
    best = values >= values.max(axis=-1, keepdims=True) - _TIE
    return np.asarray(best / best.sum(axis=-1, keepdims=True))


@dataclass(frozen=True, kw_only=True)
class QLearning(TabularLearner):
    """Q(s, a) += rate (r + discount max Q(s', .) - Q(s, a)) after every step; judged by its greedy policy."""

    rate: float = 0.5
    """Step of a value."""
    epsilon: float = 0.1
    """Probability of any action at random."""

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise ValueError(f"rate must be above 0 and at most 1, got {self.rate}")
        if not 0 <= self.epsilon <= 1:
            raise ValueError(f"epsilon must be within 0 and 1, got {self.epsilon}")

    def acts(self, table: Floats) -> Floats:
        """Greedy, and anything with probability epsilon."""
        return np.asarray((1 - self.epsilon) * _greedy(table) + self.epsilon / table.shape[-1])

    def judged(self, table: Floats) -> Floats:
        """Greedy."""
        return _greedy(table)

    def after_step(
        self, table: Floats, state: int, action: int, reward: float, target: int, over: bool, discount: float
    ) -> None:
        """One step of Q; a horizon is no end."""
        later = 0.0 if over else discount * float(table[target].max())
        table[state, action] += self.rate * (reward + later - table[state, action])


@dataclass(frozen=True, kw_only=True)
class Reinforce(TabularLearner):
    """theta(s, .) += rate mean over steps of G (e_a - pi(.|s)), pi = softmax(theta), G the shaped return from there."""

    rate: float = 0.1
    """Step of the logits."""

    def __post_init__(self) -> None:
        if not self.rate > 0:
            raise ValueError(f"rate must be above 0, got {self.rate}")

    def acts(self, table: Floats) -> Floats:
        """Softmax."""
        grown = np.exp(table - table.max(axis=-1, keepdims=True))
        return np.asarray(grown / grown.sum(axis=-1, keepdims=True))

    def after_episodes(self, table: Floats, episodes: Sequence[Episode], discount: float) -> None:
        """One step on all steps of `episodes`, by the policy of now."""
        states = np.concatenate([episode.states for episode in episodes])
        actions = np.concatenate([episode.actions for episode in episodes])
        gains = np.concatenate([returns_to_go(episode.rewards, discount) for episode in episodes])
        step = np.zeros_like(table)
        np.add.at(step, (states, actions), gains)
        np.add.at(step, states, -gains[:, None] * self.acts(table)[states])
        table += self.rate * step / len(states)
