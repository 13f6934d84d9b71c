"""The contract of a learner: it owns the weights, the optimizer, and the one division of loss by count."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from thinkrl.algorithms.types import Advantages, Objective, UpdateReport
from thinkrl.rollouts.ragged import Ragged
from thinkrl.rollouts.store import Rollouts
from thinkrl.sampling.sampler import SamplingSpec

WEIGHT = "weight/"
"""Prefix of the names of weights among a state's tensors."""


@dataclass(frozen=True, eq=False)
class Example:
    """A supervised example: given tokens, then target tokens that carry loss. Both int32, one axis."""

    prompt_ids: NDArray[np.int32]
    target_ids: NDArray[np.int32]


@dataclass(frozen=True)
class LearnerState:
    """All that an exact resume needs: JSON values and named tensors (never pickles)."""

    values: dict[str, object]
    tensors: dict[str, torch.Tensor]

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """The float32 weights, by parameter name."""
        return {name.removeprefix(WEIGHT): t for name, t in self.tensors.items() if name.startswith(WEIGHT)}


class Learner(Protocol):
    """An open learner on one policy."""

    @property
    def version(self) -> int:
        """Optimizer steps done: the version of the current weights."""
        ...

    def logprobs(self, rollouts: Rollouts, spec: SamplingSpec) -> Ragged:
        """Current log-probabilities under `spec`, float32, aligned with `token_ids`, NaN where given."""
        ...

    def reference_logprobs(self, rollouts: Rollouts, spec: SamplingSpec) -> Ragged:
        """The same from the frozen starting weights; an error when the learner was opened without a reference."""
        ...

    def update(
        self,
        rollouts: Rollouts,
        advantages: Advantages,
        objective: Objective,
        spec: SamplingSpec,
        old_logprobs: Ragged | None = None,
    ) -> UpdateReport:
        """One optimizer step on all kept responses.

        `old_logprobs` (aligned with `token_ids`) are the denominator of the importance ratio; without
        them the current policy's own are taken, so that the ratio is 1 by construction.
        """
        ...

    def supervise(self, examples: Sequence[Example]) -> UpdateReport:
        """One optimizer step of cross-entropy on target tokens (token mean over the whole step)."""
        ...

    def state(self) -> LearnerState:
        """Everything that `load_state` needs to go on exactly."""
        ...

    def load_state(self, state: LearnerState) -> None:
        """Restores `state` bit for bit; refuses a state of another model."""
        ...
