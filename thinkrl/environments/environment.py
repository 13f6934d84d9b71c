"""The contract of an environment: prompts in, rollouts out."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from thinkrl.rollouts.prompt import Prompt
from thinkrl.rollouts.store import Rollouts
from thinkrl.sampling.sampler import Sampler, SamplingSpec

if TYPE_CHECKING:
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
