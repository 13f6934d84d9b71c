"""The contract of a learner: it owns the weights, the optimizer, and the one division of loss by count."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from thinkrl.algorithms.types import PolicyUpdater, UpdateReport

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


class Learner(PolicyUpdater, Protocol):
    """An open learner on one policy: what algorithms ask of it, supervision, and its state."""

    @property
    def version(self) -> int:
        """Optimizer steps done: the version of the current weights."""
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
