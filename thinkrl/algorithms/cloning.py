"""Cross-entropy on what came out well, the policy gradient on the rest."""

from dataclasses import dataclass

import torch

from thinkrl.algorithms.clipping import Surrogate
from thinkrl.algorithms.objective import ClippedObjective, token_sum
from thinkrl.algorithms.types import LossInputs, SumCount


@dataclass(frozen=True)
class CloningObjective(ClippedObjective):
    """As `ClippedObjective`, but tokens with an advantage above 0 are cloned: l_t = -A_t log pi(o_t), nothing clipped.

    OREAL (arXiv 2502.06781): behaviour cloning of right responses, policy gradient on wrong ones. With one optimizer
    step a batch the gradient is that of the surrogate; the value is a cross-entropy, and in later steps on a batch
    neither clip nor ratio holds cloned tokens back.
    """

    def _surrogate(self, inputs: LossInputs, ratio: torch.Tensor) -> Surrogate:
        """Objective of each token, [t], where clips bound the policy gradient only."""
        found = super()._surrogate(inputs, ratio)
        cloned = inputs.advantages > 0
        return Surrogate(
            torch.where(cloned, inputs.advantages * inputs.logprobs, found.values),
            found.clipped_low & ~cloned,
            found.clipped_high & ~cloned,
        )

    def _measured(self, inputs: LossInputs, ratio: torch.Tensor, surrogate: Surrogate) -> dict[str, SumCount]:
        """What is logged of every objective, and the two parts of the loss (KL apart)."""
        losses = -inputs.weights * surrogate.values.detach()
        cloned = inputs.advantages > 0
        return {
            **super()._measured(inputs, ratio, surrogate),
            "loss/cloned": token_sum(torch.where(cloned, losses, 0.0)),
            "loss/pushed": token_sum(torch.where(cloned, 0.0, losses)),
        }
