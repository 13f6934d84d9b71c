"""The state of a stage that survives a crash: plain values and named tensors, nothing pickled."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class RunState:
    """All that a stage's loop reads when it starts again.

    step: steps completed. values: JSON values (adaptive targets, counters, data position).
    tensors: weights and optimizer moments by name.
    """

    step: int
    values: dict[str, object] = field(default_factory=dict)
    tensors: "dict[str, torch.Tensor]" = field(default_factory=dict)
