"""The contract of a learner: it owns the weights, the optimizer, and the one division of loss by count."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from thinkrl.algorithms.types import Advantages, LossInputs, LossOutputs
from thinkrl.rollouts.ragged import Ragged
from thinkrl.rollouts.store import Rollouts
from thinkrl.sampling.sampler import SamplingSpec


class Objective(Protocol):
    """Log-probabilities and advantages in, a sum and a count out (see `algorithms/`)."""

    @property
    def needs_reference(self) -> bool:
        """Whether `LossInputs.reference_logprobs` must be there."""
        ...

    @property
    def needs_entropy(self) -> bool:
        """Whether `LossInputs.entropies` must be there."""
        ...

    def __call__(self, inputs: LossInputs) -> LossOutputs:
        """Sum and count over the tokens given."""
        ...


@dataclass(frozen=True, eq=False)
class Example:
    """A supervised example: given tokens, then target tokens that carry loss. Both int32, one axis."""

    prompt_ids: NDArray[np.int32]
    target_ids: NDArray[np.int32]


@dataclass(frozen=True)
class UpdateReport:
    """What one optimizer step did. `metrics` are exact means over the whole step; `seconds` by part."""

    version: int
    loss: float
    gradient_norm: float
    learning_rate: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class LearnerState:
    """All that an exact resume needs: JSON values and named tensors (never pickles)."""

    values: dict[str, object]
    tensors: dict[str, torch.Tensor]


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
        self, rollouts: Rollouts, advantages: Advantages, objective: Objective, spec: SamplingSpec
    ) -> UpdateReport:
        """One optimizer step on all kept responses."""
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
