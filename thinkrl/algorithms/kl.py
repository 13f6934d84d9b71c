"""KL divergence from the reference model: three estimators, and the two places a term can stand.

With d = log pi(o_t) - log pi_ref(o_t) and o_t drawn from pi (Schulman, "Approximating KL divergence", 2020):
k1 = d, k2 = d^2 / 2, k3 = e^-d - 1 + d. As values, k1 and k3 estimate KL(pi || ref) without bias.
As losses, their expected gradients differ: k1 has none, k2 has that of KL(pi || ref), k3 has that of
KL(ref || pi). As rewards only k1 gives the gradient of KL(pi || ref).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from thinkrl.algorithms.ratio import LOG_RATIO_LIMIT, bounded_exp
from thinkrl.rollouts.ragged import Ragged
from thinkrl.rollouts.store import Rollouts

Estimator = Literal["k1", "k2", "k3"]


def kl_estimate(logprobs: torch.Tensor, reference_logprobs: torch.Tensor, estimator: Estimator) -> torch.Tensor:
    """The estimate at each token, [t], in nats."""
    difference = logprobs - reference_logprobs
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return difference.square() / 2
    return bounded_exp(-difference) - 1 + difference


@dataclass(frozen=True)
class KLLoss:
    """Adds beta * KL to the loss of each token; GRPO (arXiv 2402.03300, eq. 3 and 4) with k3."""

    coefficient: float
    """Beta; 0 switches the term off and loads no reference model."""
    estimator: Literal["k2", "k3"] = "k3"
    """k3 follows KL(ref || pi), k2 follows KL(pi || ref); k1 has no expected gradient here."""
    weighted: bool = True
    """Whether token weights multiply it as they do the policy gradient; false counts every token alike."""

    def __post_init__(self) -> None:
        if not self.coefficient >= 0:
            raise ValueError(f"coefficient must be 0 or more, got {self.coefficient}")
        if self.estimator not in ("k2", "k3"):
            raise ValueError(
                f"estimator must be 'k2' or 'k3' (k1 in the loss has zero expected gradient), got '{self.estimator}'"
            )


@dataclass(frozen=True)
class KLReward:
    """Takes beta * KL from the reward of each token, as in RLHF (arXiv 2203.02155, eq. 2) with k1."""

    coefficient: float
    """Beta, in units of reward per nat; 0 switches the term off and loads no reference model."""
    estimator: Estimator = "k1"
    """Only k1 has the gradient of KL(pi || ref) in this place."""

    def __post_init__(self) -> None:
        if not self.coefficient >= 0:
            raise ValueError(f"coefficient must be 0 or more, got {self.coefficient}")

    def token_rewards(self, rollouts: Rollouts, logprobs: Ragged, reference_logprobs: Ragged) -> Ragged:
        """-beta * KL at each sampled token, 0 at given ones; all columns aligned with `rollouts.token_ids`."""
        for name, column in (("logprobs", logprobs), ("reference_logprobs", reference_logprobs)):
            if not np.array_equal(column.offsets, rollouts.token_ids.offsets):
                raise ValueError(f"{name} and token_ids differ in row lengths")
        rewards = np.zeros(len(rollouts.token_ids.values))
        sampled = rollouts.sampled
        difference = logprobs.values[sampled].astype(np.float64) - reference_logprobs.values[sampled]
        if self.estimator == "k1":
            estimate = difference
        elif self.estimator == "k2":
            estimate = difference**2 / 2
        else:
            estimate = np.exp(np.clip(-difference, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)) - 1 + difference
        rewards[sampled] = -self.coefficient * estimate
        return rollouts.token_ids.with_values(rewards)
