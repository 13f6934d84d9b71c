"""Importance weights for tokens that another engine sampled than the one that learns."""

from dataclasses import dataclass
from typing import Literal

import torch

from thinkrl.algorithms.ratio import bounded_exp


@dataclass(frozen=True, eq=False)
class CorrectionWeights:
    """Weights and whether each was cut, both [t]."""

    values: torch.Tensor
    cut: torch.Tensor


@dataclass(frozen=True)
class ImportanceCorrection:
    """w = min(rho, cap), or w = rho where floor <= rho <= cap and 0 elsewhere, with rho = pi_learner / pi_sampler.

    Sampler and learner hold the same weights and yet give a token slightly different probabilities. Weighing the
    policy gradient by rho makes its expectation that of samples from the learner's own distribution; the cap
    bounds the variance at the price of a bias (Ionides 2008, "Truncated importance sampling"). pi_learner is
    the denominator of the importance ratio: the learner's policy before its steps on the batch. Masking is the rule
    of IcePop. Terms that are no policy gradient (KL, entropy) are not weighed, and counts stay as they are.
    """

    level: Literal["token", "sequence"] = "token"
    """Ratio of each token alone, or the product over its response."""
    mode: Literal["clip", "mask"] = "clip"
    """Lowers ratios above the cap to it, or drops what lies outside floor and cap."""
    cap: float = 2.0
    """Largest weight."""
    floor: float | None = None
    """Smallest ratio that is kept when masking; null takes 1 / cap."""

    def __post_init__(self) -> None:
        if not self.cap >= 1:
            raise ValueError(f"cap must be at least 1, got {self.cap}")
        if self.floor is not None and self.mode == "clip":
            raise ValueError(f"floor must be null when mode is 'clip', got {self.floor}")
        if self.floor is not None and not 0 <= self.floor <= 1:
            raise ValueError(f"floor must be between 0 and 1, got {self.floor}")

    def weights(
        self, learner: torch.Tensor, sampler: torch.Tensor, response_ids: torch.Tensor, response_count: int
    ) -> CorrectionWeights:
        """Weights from log-probabilities [t] of whole responses; no gradient passes."""
        log_ratio = (learner - sampler).detach()
        if self.level == "sequence":
            sums = log_ratio.new_zeros(response_count).index_add(0, response_ids, log_ratio)
            log_ratio = sums[response_ids]
        ratio = bounded_exp(log_ratio)
        if self.mode == "clip":
            return CorrectionWeights(ratio.clamp(max=self.cap), ratio > self.cap)
        floor = 1 / self.cap if self.floor is None else self.floor
        outside = (ratio < floor) | (ratio > self.cap)
        return CorrectionWeights(ratio.masked_fill(outside, 0.0), outside)
