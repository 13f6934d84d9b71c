"""The records that pass between rewards, algorithms and the learner."""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from thinkrl.rollouts.ragged import Ragged


@dataclass(frozen=True, eq=False)
class Advantages:
    """One advantage per token, aligned with `Rollouts.token_ids` (read only where a token was sampled).

    kept: bool [n]; a response that is not kept (ungradable, filtered) carries no loss and is in no count.
    """

    values: Ragged
    kept: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class LossInputs:
    """The sampled tokens of whole responses, end to end: t tokens of s responses.

    logprobs: policy log-probabilities with gradient, [t].
    old_logprobs: of the policy that sampled, or of the policy at the start of the update, [t].
    reference_logprobs: of the reference model, [t], or None when no KL term asks for it.
    advantages, weights: [t]; weights multiply each token's loss (1 when nothing reweights).
    entropies: policy entropies in nats with gradient, [t], or None when no term asks for them.
    response_ids: which response a token belongs to, int64 [t], values 0..s-1, each present.
    """

    logprobs: torch.Tensor
    old_logprobs: torch.Tensor
    advantages: torch.Tensor
    weights: torch.Tensor
    response_ids: torch.Tensor
    response_count: int
    reference_logprobs: torch.Tensor | None = None
    entropies: torch.Tensor | None = None


@dataclass(frozen=True, eq=False)
class SumCount:
    """A sum and the count it will be divided by, once, over the whole optimizer step and all ranks."""

    total: torch.Tensor
    count: float


@dataclass(frozen=True, eq=False)
class LossOutputs:
    """`loss` keeps its graph; `metrics` are detached sums with their own counts."""

    loss: SumCount
    metrics: dict[str, SumCount] = field(default_factory=dict)
