"""The contract of an environment: prompts in, rollouts out."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from thinkrl.rollouts.prompt import Prompt
from thinkrl.rollouts.store import Rollouts
from thinkrl.sampling.sampler import Sampler, SamplingSpec

if TYPE_CHECKING:
    from thinkrl.judges.backend import Surroundings  # torch, which configurations do without
    from thinkrl.models.policy import Policy


class Environment(Protocol):
    """A frozen dataclass: how the policy and what surrounds it make responses to prompts."""

    def rollout(
        self,
        policy: "Policy",
        sampler: Sampler,
        prompts: Sequence[Prompt],
        group_size: int,
        spec: SamplingSpec,
        seed: int,
        stage: str,
        step: int,
    ) -> Rollouts:
        """`group_size` responses to each of `prompts`, in order, one group per prompt.

        A response depends on (seed, stage, step, prompt id, its index), the weights and `spec` alone.
        """
        ...


@runtime_checkable
class OpenedEnvironment(Protocol):
    """An environment that has models of its own: a stage opens it once, on its folder, before it samples."""

    def check(self) -> None:
        """Raises a UserError, before anything loads, when what it needs is not there."""
        ...

    def open(self, surroundings: "Surroundings") -> Environment:
        """The environment with its models loaded or connected, and its files in the stage's folder."""
        ...


def check_environment(environment: Environment) -> None:
    """Raises a UserError, before anything loads, when what an environment needs is not there."""
    if isinstance(environment, OpenedEnvironment):
        environment.check()
