"""Reinforcement learning with tables, on a reward that somebody designed for it; judged by the task's own."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np

from thinkrl.config.component import Steps
from thinkrl.stages.artifacts import Kind
from thinkrl.stages.context import StageContext
from thinkrl.stages.stage import Stage
from thinkrl.tabular.designer import Designer, Task
from thinkrl.tabular.learners import TabularLearner
from thinkrl.tabular.sparse_reward import informativeness
from thinkrl.tabular.training import Rhythm, Training
from thinkrl.tabular.values import policy_return
from thinkrl.tabular.worlds import World
from thinkrl.tracking.recorder import Stopwatch


@dataclass(frozen=True, kw_only=True)
class RewardDesign(Stage):
    """Trains a tabular learner on a designer's reward (arXiv 2503.21949); no language model plays a part.

    An episode counts as a prompt, its actions as sampled tokens, so that budgets can be compared.
    """

    makes: ClassVar[tuple[Kind, ...]] = ()

    world: World
    """The task."""
    designer: Designer
    """Who says what a step is paid."""
    learner: TabularLearner
    """Who learns."""
    rhythm: Rhythm = field(default_factory=Rhythm)
    """Length of episodes, and who learns when."""
    steps: Steps = 100
    """Rows of metrics: `episodes_per_step` episodes each, and an exact evaluation after them."""
    episodes_per_step: int = 20
    """Episodes between two evaluations."""
    evaluated_steps: int | None = None
    """Steps of an episode when it is evaluated; none for no end."""
    near: float = 0.9
    """Share of the optimal return that counts as solved."""
    checkpoint_every: int = 20
    """Steps between two checkpoints."""

    def __post_init__(self) -> None:
        for name in ("steps", "episodes_per_step", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.evaluated_steps is not None and self.evaluated_steps < 1:
            raise ValueError(f"evaluated_steps must be at least 1, got {self.evaluated_steps}")
        if not 0 < self.near <= 1:
            raise ValueError(f"near must be above 0 and at most 1, got {self.near}")

    def check(self) -> None:
        """Builds the task, and looks for a solver where the designer needs one."""
        self.world.mdp()
        self.designer.check()

    def plan(self) -> str:
        """What will be done, with its sizes."""
        return f"{self.steps} x {self.episodes_per_step} episodes of at most {self.rhythm.horizon} steps, by tables"

    def work(self) -> float:
        """Steps of all episodes at most; one takes far less time than a token."""
        return self.steps * self.episodes_per_step * self.rhythm.horizon / 100

    def run(self, context: StageContext) -> Mapping[str, Path]:
        """Designs, trains, evaluates, and leaves the reward and the learner's table as JSON."""
        state = context.resume(self.steps)
        task, parts = Task.of(self.world), (self.designer, self.learner, self.rhythm)
        watch = Stopwatch()
        with watch("reward"):
            saved = cast(Mapping[str, Any] | None, state.values.get("training"))
            training = Training.begin(task, *parts) if saved is None else Training.resume(task, *parts, saved)
        solved = cast(int | None, state.values.get("solved"))
        for step in range(state.step + 1, self.steps + 1):
            with watch("sample"):
                played = [training.episode(context.seed, context.name) for _ in range(self.episodes_per_step)]
            row = self._measure(training, played)
            if solved is None and row["return/of_optimal"] >= self.near:
                solved = training.count
            # Until it is solved the episodes so far are a lower bound; `solved` says whether they are one.
            row |= {"solved": float(solved is not None), "episodes_to_solve": float(solved or training.count)}
            context.finish_step(
                step, self.steps, row, watch, every=self.checkpoint_every, training=training.as_json(), solved=solved
            )
            watch = Stopwatch()
        context.write_text(context.folder / "reward_design.json", json.dumps(training.as_json()))
        return {}

    def _measure(self, training: Training, played: list[tuple[float, int]]) -> dict[str, float]:
        """The metrics of a step, but for what it took to get there."""
        task = training.task
        found = policy_return(task.mdp, training.learner.judged(training.table), self.evaluated_steps)
        # The optimum without end is the best that any number of steps can give.
        best = policy_return(task.mdp, np.eye(task.mdp.actions)[task.optimum.policy], self.evaluated_steps)
        return {
            "asked_prompts": float(len(played)),
            "sampled_tokens": float(sum(steps for _, steps in played)),
            "episodes": float(training.count),
            "return/episodes": float(np.mean([value for value, _ in played])),
            "return/exact": found,
            "return/of_optimal": found / best if best > 0 else float("nan"),
            "reward/informativeness": informativeness(task, training.design.rewards),
            "reward/states": float(training.design.rewards.any(axis=1).sum()),
        }
