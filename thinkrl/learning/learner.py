"""The contract of a learner: it owns the weights, the optimizer, and the one division of loss by count."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from thinkrl.algorithms.types import PolicyUpdater, UpdateReport

if TYPE_CHECKING:
    from thinkrl.models.policy import Policy

WEIGHT = "weight/"
"""Prefix of the names of weights among a state's tensors."""


@dataclass(frozen=True, eq=False)
class Example:
    """A supervised example: a prompt, then the tokens of a response. Both int32, one axis.

    given: which target tokens are read and carry no loss, such as a tool's words, [t]; None where all carry loss.
    """

    prompt_ids: NDArray[np.int32]
    target_ids: NDArray[np.int32]
    given: NDArray[np.bool_] | None = None

    @property
    def predicted(self) -> NDArray[np.int64]:
        """Which target tokens carry loss, by position, ascending."""
        return np.arange(len(self.target_ids)) if self.given is None else np.flatnonzero(~self.given)


@dataclass(frozen=True)
class LearnerState:
    """All that an exact resume needs: JSON values and named tensors (never pickles).

    Where several processes learn together the first holds the tensors, whole, and the others none.
    """

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
        """One optimizer step of cross-entropy on the predicted targets (token mean over the whole step)."""
        ...

    def weights(self) -> Mapping[str, torch.Tensor]:
        """The float32 weights of the plain model by parameter name (adapters merged, partitions gathered), for
        export. Where several processes learn together, all must call it."""
        ...

    def state(self) -> LearnerState:
        """Everything that `load_state` needs to go on exactly."""
        ...

    def load_state(self, state: LearnerState) -> None:
        """Restores `state` bit for bit; refuses a state of another model."""
        ...


@runtime_checkable
class LearnerSource(Protocol):
    """A learner's configuration: a frozen dataclass that opens a learner on a policy."""

    @property
    def processes(self) -> int:
        """Processes that learn together."""
        ...

    @property
    def wait_minutes(self) -> float:
        """Longest that a process waits for the others, in minutes."""
        ...

    @property
    def needs_masters(self) -> bool:
        """Whether the policy must be loaded for training, with float32 master weights."""
        ...

    def check(self) -> None:
        """Raises a UserError, before anything loads, when what the learner needs is not installed."""
        ...

    def open(self, policy: "Policy", total_steps: int, with_reference: bool) -> Learner:
        """Takes `policy` for training.

        Args:
            policy: loaded for training where masters are needed; what samplers read of it changes with every update.
            total_steps: optimizer steps the schedule is laid over.
            with_reference: keeps the present weights as the frozen reference.
        """
        ...
