"""The root of a composed recipe."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from thinkrl.algorithms.algorithm import Algorithm
from thinkrl.benchmarks.benchmark import Benchmark
from thinkrl.config.scale import Scale
from thinkrl.data.source import PromptSource
from thinkrl.environments.environment import Environment
from thinkrl.learning.learner import LearnerSource
from thinkrl.models.source import ModelSource
from thinkrl.reproduction.claim import Claim
from thinkrl.rewards.reward import Reward
from thinkrl.sampling.sampler import SamplerSource
from thinkrl.stages.artifacts import BASE, PREVIOUS
from thinkrl.stages.stage import Stage
from thinkrl.tracking.tracker import Tracker


@dataclass(frozen=True)
class Paper:
    """Where a recipe comes from."""

    title: str
    """Title of the paper, or what the recipe shows."""
    arxiv: str = ""
    """arXiv number, empty when there is none."""
    summary: str = ""
    """The method in a sentence or two."""


@dataclass(frozen=True)
class Experiment:
    """A recipe, composed and typed: what `thinkrl run` runs.

    The shared parts (data, environment, reward, ...) are there to be referred to by the stages.
    """

    name: str
    """Name of the recipe, used in the run directory and by trackers."""
    model: ModelSource
    """The base model that the first stage starts from."""
    stages: Mapping[str, Stage]
    """The pipeline: stages by name, run in the order written."""
    seed: int = 0
    """Every random choice is a function of this seed, its purpose and its position."""
    paper: Paper | None = None
    """The paper or idea behind the recipe."""
    claim: Claim | None = None
    """What the recipe should show, and the comparison that `thinkrl reproduce` makes to decide it."""
    deviations: tuple[str, ...] = ()
    """Every known difference from the paper."""
    data: PromptSource | None = None
    """Training prompts shared by the stages."""
    environment: Environment | None = None
    """How a prompt becomes rollouts, shared by the stages."""
    reward: Reward | None = None
    """Reward shared by the stages."""
    algorithm: Algorithm | None = None
    """Advantage estimator and objective shared by the stages."""
    sampler: SamplerSource | None = None
    """Sampling engine shared by the stages."""
    learner: LearnerSource | None = None
    """Optimizer and batching shared by the stages."""
    benchmark: Benchmark | None = None
    """Held-out evaluation shared by the stages."""
    tracker: Tracker | None = None
    """Where copies of the metrics go."""
    scale: Scale = field(default_factory=Scale)
    """Caps on sizes; `scale=smoke` shrinks any recipe to seconds."""
    reuse: bool = True
    """Takes the result of a stage from the cache when the same work was done before."""
    constants: Mapping[str, Any] = field(default_factory=dict)
    """Free values for interpolation inside a recipe."""

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("stages must name at least one stage, got none")
        check_pipeline(self.stages)
        together = {(learner.processes, learner.wait_minutes) for learner in self._learners}
        if len(together) > 1:
            raise ValueError(f"learners must agree on processes and wait_minutes, got {sorted(together)}")

    @property
    def processes(self) -> int:
        """Processes that work on the run together."""
        return self._learners[0].processes if self._learners else 1

    @property
    def wait_minutes(self) -> float:
        """Longest that a process waits for the others."""
        return self._learners[0].wait_minutes if self._learners else 1.0

    @property
    def _learners(self) -> list[LearnerSource]:
        own = [getattr(stage, field.name) for stage in self.stages.values() for field in fields(stage)]
        return [value for value in own if isinstance(value, LearnerSource)]


def check_pipeline(stages: Mapping[str, Stage]) -> None:
    """Refuses a pipeline in which a stage reads what no earlier stage makes, or has a name that cannot be used."""
    earlier: dict[str, Stage] = {}
    for name, stage in stages.items():
        if name in (BASE, PREVIOUS) or not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
            raise ValueError(
                f"stages must have names of letters, digits, '_', '.' and '-', other than {BASE} and {PREVIOUS},"
                f" got '{name}'"
            )
        wanted = list(stage.needs())
        if stage.model_from not in (BASE, PREVIOUS):
            wanted.append((stage.model_from, "model"))
        for source, kind in wanted:
            if source not in earlier:
                raise ValueError(
                    f"stages.{name} must read the {kind} of an earlier stage, got '{source}'"
                    f" (earlier stages: {', '.join(earlier) or 'none'})"
                )
            if kind not in earlier[source].makes:
                raise ValueError(f"stages.{name} must read a {kind}, got stage '{source}', which makes none")
        earlier[name] = stage
