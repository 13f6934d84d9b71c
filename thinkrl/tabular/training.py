"""A learner that learns by a designed reward, episode by episode; it can stop and go on between any two."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from thinkrl.rollouts.streams import generator
from thinkrl.tabular.designer import Design, Designer, Task
from thinkrl.tabular.episodes import Episode, returns_to_go
from thinkrl.tabular.learners import TabularLearner
from thinkrl.tabular.mdp import Floats


@dataclass(frozen=True, kw_only=True)
class Rhythm:
    """Who learns when."""

    horizon: int = 50
    """Steps after which an episode ends."""
    design_every: int = 5
    """Episodes between two changes of the reward."""
    design_from: int = 10
    """Last episodes that a change of the reward looks at."""
    learn_every: int = 2
    """Episodes between two updates of a learner that learns from whole episodes."""
    learn_from: int = 5
    """Last episodes that an update looks at."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")


@dataclass(eq=False)
class Training:
    """All that changes: the design, the learner's table, the last episodes and how many there were."""

    task: Task
    designer: Designer
    learner: TabularLearner
    rhythm: Rhythm
    design: Design
    table: Floats
    recent: list[Episode]
    count: int = 0

    @classmethod
    def begin(cls, task: Task, designer: Designer, learner: TabularLearner, rhythm: Rhythm) -> "Training":
        """Before the first episode."""
        return cls(task, designer, learner, rhythm, designer.begin(task), np.zeros_like(task.mdp.rewards), [])

    @classmethod
    def resume(
        cls, task: Task, designer: Designer, learner: TabularLearner, rhythm: Rhythm, saved: Mapping[str, Any]
    ) -> "Training":
        """Where `saved` stopped."""
        recent = [Episode.from_json(one) for one in saved["recent"]]
        design, table = Design.from_json(saved["design"]), np.array(saved["table"], dtype=float)
        return cls(task, designer, learner, rhythm, design, table, recent, int(saved["count"]))

    def as_json(self) -> dict[str, Any]:
        """JSON values, exact."""
        recent = [episode.as_json() for episode in self.recent]
        return {"design": self.design.as_json(), "table": self.table.tolist(), "recent": recent, "count": self.count}

    def episode(self, seed: int, stage: str) -> tuple[float, int]:
        """Plays one and lets designer and learner learn from it; its true discounted return, and its steps."""
        played = self._play(generator(seed, stage, "episode", self.count))
        self.count += 1
        rhythm, discount = self.rhythm, self.task.mdp.discount
        self.recent = [*self.recent, played][-max(rhythm.design_from, rhythm.learn_from) :]
        if self.count % rhythm.design_every == 0:
            acts = self.learner.acts(self.table)
            self.designer.follow(self.design, self.task, self.recent[-rhythm.design_from :], acts)
        if self.count % rhythm.learn_every == 0:
            self.learner.after_episodes(self.table, self.recent[-rhythm.learn_from :], discount)
        true = returns_to_go(self.task.mdp.rewards[played.states, played.actions], discount)
        return float(true[0]), len(true)

    def _play(self, random: np.random.Generator) -> Episode:
        mdp, played = self.task.mdp, Episode([], [], [], [])
        uniforms = random.random((self.rhythm.horizon + 1, 2)).tolist()
        state = mdp.first_state(uniforms.pop()[0])
        for for_action, for_target in uniforms:
            chances = self.learner.acts(self.table[state]).tolist()
            action = _choose(chances, for_action)
            target = mdp.next_state(state, action, for_target)
            paid = float(self.design.rewards[state, action]) + self.designer.bonus(self.design, self.task, target)
            over = bool(mdp.terminal[target])
            self.learner.after_step(self.table, state, action, paid, target, over, mdp.discount)
            self.design.visits[state] += 1
            for column, value in zip(vars(played).values(), (state, action, paid, chances), strict=True):
                column.append(value)
            if over:
                break
            state = target
        return played


def _choose(chances: list[float], uniform: float) -> int:
    """The action that a number in [0, 1) draws."""
    for action, chance in enumerate(chances):
        uniform -= chance
        if uniform < 0:
            return action
    return len(chances) - 1
