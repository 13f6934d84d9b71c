"""The contract of a companion: a model beside the policy that supplies signals, and may learn from the rollouts.

A critic, a reward model that is trained along, a token-level reward model, a frozen judge: each is a configuration that
opens on a running stage. Rewards and advantage estimators name the signals they read, companions those they supply, and
neither knows the other.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from thinkrl.algorithms.types import Advantages
from thinkrl.learning.learner import LearnerState
from thinkrl.models.policy import Policy
from thinkrl.models.source import ModelSource
from thinkrl.rewards.result import RewardResult
from thinkrl.rollouts.signals import Signal
from thinkrl.rollouts.store import Rollouts
from thinkrl.sampling.sampler import Sampler, SamplingSpec


@dataclass(frozen=True, eq=False)
class CompanionStart:
    """What a companion may take from the stage that it opens on.

    policy: as the stage starts from it. model: the recipe's model configuration. weights: the folder of the model that
    an earlier stage made, by that stage's name (`previous` and `base` as for `Stage.model_from`); None for the base
    model. total_steps: steps of the stage. seed: the run's. sampler: draws from the policy as it is at each step, for
    companions that ask it more; spec: how the stage's own responses are drawn. stage: its name, for random streams.
    folder: the stage's own place, for what is worth keeping; closing: closed when the stage ends.
    """

    policy: Policy
    model: ModelSource
    weights: Callable[[str], Path | None]
    total_steps: int
    seed: int
    sampler: Sampler
    spec: SamplingSpec
    stage: str
    folder: Path | None = None
    closing: ExitStack = field(default_factory=ExitStack)


class Companion(Protocol):
    """An open companion.

    One that has a say in what is sampled, such as a buffer of earlier responses, also has
    `around(environment) -> Environment`: the stage samples from what that gives.
    """

    def signals(self, rollouts: Rollouts) -> Mapping[str, Any]:
        """What it says of every response, in row order, by name: all that its configuration `supplies`, each in the
        form of its `Signal.shape`. Called once for a batch, before it is scored."""
        ...

    def learn(self, rollouts: Rollouts, rewards: RewardResult, advantages: Advantages) -> Mapping[str, float]:
        """Learns from the batch after the policy has, and returns metrics; a frozen companion returns none.

        `advantages.targets` has what an estimator computed for it, such as the returns that a critic predicts.
        """
        ...

    def state(self) -> LearnerState:
        """All that `load_state` needs to go on exactly; empty for a frozen companion."""
        ...

    def load_state(self, state: LearnerState) -> None:
        """Restores `state` bit for bit."""
        ...

    def save(self, folder: Path) -> None:
        """Writes what was learned to a folder that does not exist yet (safetensors and JSON, never pickles); writes
        nothing where nothing was learned."""
        ...


@runtime_checkable
class CompanionSource(Protocol):
    """A companion's configuration: a frozen dataclass."""

    def supplies(self) -> tuple[Signal, ...]:
        """The signals that it gives for every batch."""
        ...

    def check(self) -> None:
        """Raises a UserError, before anything loads, when what it needs is not there."""
        ...

    def open(self, start: CompanionStart) -> Companion:
        """Loads what it computes with."""
        ...
