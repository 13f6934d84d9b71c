"""The clipped policy-gradient objective, put together from its pieces."""

from dataclasses import dataclass
from typing import Literal

import torch

from thinkrl.algorithms.aggregation import Aggregation, aggregate
from thinkrl.algorithms.clipping import Surrogate, clipped_surrogate
from thinkrl.algorithms.kl import KLLoss, kl_estimate
from thinkrl.algorithms.mismatch import ImportanceCorrection
from thinkrl.algorithms.ratio import importance_ratio, response_sums
from thinkrl.algorithms.types import LossInputs, LossOutputs, SumCount


@dataclass(frozen=True)
class ClippedObjective:
    """l_t = w_t (-min(r_t A_t, clip(r_t, 1 - low, 1 + high) A_t) + beta KL_t - c H_t), summed by `aggregation`.

    GRPO (arXiv 2402.03300, eq. 3): token ratios, sequence aggregation. DAPO (arXiv 2503.14476): wider
    upper bound, token aggregation. Dr. GRPO (arXiv 2503.20783): constant aggregation. GSPO (arXiv
    2507.18071): sequence ratios. Without bounds and on policy its gradient is REINFORCE's, A_t grad log pi.

    The token and sequence sums run over the whole optimizer step, where the papers write a mean over
    prompts of sums within a group; for groups of equal size the sequence form is the same.
    """

    clip_low: float | None = 0.2
    """Ratios below 1 - clip_low lose their gradient where the advantage is negative; null does not clip."""
    clip_high: float | None = 0.2
    """Ratios above 1 + clip_high lose their gradient where the advantage is positive; null does not clip."""
    dual_clip: float | None = None
    """Bounds the loss at this multiple of a negative advantage, above 1; null does not bound."""
    ratio: Literal["token", "sequence"] = "token"
    """Importance ratio of each token, or the length-normalised ratio of its response."""
    aggregation: Aggregation = "token"
    """How token losses are summed and what divides them."""
    constant_length: int | None = None
    """Divisor of every response's sum, in tokens, when aggregation is constant."""
    kl: KLLoss | None = None
    """Penalty on the divergence from the reference model; null has none."""
    mismatch: ImportanceCorrection | None = None
    """Weighs the policy gradient for what sampler and learner differ in; null does not."""
    entropy_bonus: float = 0.0
    """Weight of the entropy, in nats, that is added to the objective of each token."""

    def __post_init__(self) -> None:
        if self.clip_low is not None and not 0 <= self.clip_low <= 1:
            raise ValueError(f"clip_low must be between 0 and 1, got {self.clip_low}")
        if self.clip_high is not None and not self.clip_high >= 0:
            raise ValueError(f"clip_high must be 0 or more, got {self.clip_high}")
        if self.dual_clip is not None and not self.dual_clip > 1:
            raise ValueError(f"dual_clip must be above 1, got {self.dual_clip}")
        if (self.constant_length is not None) != (self.aggregation == "constant"):
            raise ValueError(
                "constant_length must be given when aggregation is 'constant' and only then,"
                f" got {self.constant_length} with aggregation '{self.aggregation}'"
            )
        if self.constant_length is not None and self.constant_length < 1:
            raise ValueError(f"constant_length must be at least 1, got {self.constant_length}")

    @property
    def needs_reference(self) -> bool:
        """Whether a KL term reads the reference model."""
        return self.kl is not None and self.kl.coefficient != 0

    @property
    def needs_entropy(self) -> bool:
        """Whether an entropy bonus reads the entropies."""
        return self.entropy_bonus != 0

    def __call__(self, inputs: LossInputs) -> LossOutputs:
        """Sum and count over the tokens given, with metrics."""
        ratio = importance_ratio(
            inputs.logprobs, inputs.old_logprobs, inputs.response_ids, inputs.response_count, self.ratio
        )
        surrogate = self._surrogate(inputs, ratio)
        losses = -surrogate.values
        unweighted: torch.Tensor | None = None
        metrics = self._measured(inputs, ratio, surrogate)
        if self.clip_high is not None:
            metrics |= _clip_correction(inputs, ratio.detach(), surrogate.clipped_high, self.clip_high)
        if self.mismatch is not None:
            if inputs.sampler_logprobs is None:
                raise ValueError("sampler_logprobs must be given to an objective that corrects a mismatch, got None")
            weights = self.mismatch.weights(
                inputs.old_logprobs, inputs.sampler_logprobs, inputs.response_ids, inputs.response_count
            )
            losses = weights.values * losses
            metrics |= {"correction/weight": token_sum(weights.values), "correction/cut": token_sum(weights.cut)}
        if self.kl is not None and self.kl.coefficient:
            if inputs.reference_logprobs is None:
                raise ValueError("reference_logprobs must be given to an objective with a KL term, got None")
            divergence = kl_estimate(inputs.logprobs, inputs.reference_logprobs, self.kl.estimator)
            penalty = self.kl.coefficient * divergence
            if self.kl.weighted:
                losses = losses + penalty
            else:
                unweighted = penalty
            metrics["kl/reference"] = token_sum(divergence)
        if self.entropy_bonus:
            if inputs.entropies is None:
                raise ValueError("entropies must be given to an objective with an entropy bonus, got None")
            losses = losses - self.entropy_bonus * inputs.entropies
            metrics["entropy"] = token_sum(inputs.entropies)
        losses = inputs.weights * losses
        loss = aggregate(
            losses if unweighted is None else losses + unweighted,
            inputs.response_ids,
            inputs.response_count,
            self.aggregation,
            self.constant_length,
        )
        return LossOutputs(loss, metrics)

    def _surrogate(self, inputs: LossInputs, ratio: torch.Tensor) -> Surrogate:
        """What is maximised at each token, [t], for its `ratio` [t], and where clips took the gradient away."""
        return clipped_surrogate(ratio, inputs.advantages, self.clip_low, self.clip_high, self.dual_clip)

    def _measured(self, inputs: LossInputs, ratio: torch.Tensor, surrogate: Surrogate) -> dict[str, SumCount]:
        """Ratio, clip fractions, KL(old || new) and KL(sampler || learner) by k3, over tokens."""
        found = {
            "ratio": token_sum(ratio),
            "clip/low": token_sum(surrogate.clipped_low),
            "clip/high": token_sum(surrogate.clipped_high),
            "kl/old": token_sum(kl_estimate(inputs.old_logprobs, inputs.logprobs.detach(), "k3")),
        }
        if inputs.sampler_logprobs is not None:
            found["mismatch/kl"] = token_sum(kl_estimate(inputs.sampler_logprobs, inputs.logprobs.detach(), "k3"))
        return found


def _clip_correction(
    inputs: LossInputs, ratio: torch.Tensor, clipped: torch.Tensor, clip_high: float
) -> dict[str, SumCount]:
    """|N| and |C+|, means over responses: N = sum_t r_t A_t, and what the upper bound changes of it,
    C+ = sum_t (1 + high - r_t) [clipped] A_t (arXiv 2512.16912, corollary 3.6)."""
    parts = {
        "clip/raw": ratio * inputs.advantages,
        "clip/correction": torch.where(clipped, (1 + clip_high - ratio) * inputs.advantages, 0.0),
    }
    sums = {name: response_sums(part, inputs.response_ids, inputs.response_count) for name, part in parts.items()}
    return {
        name: SumCount(values.abs().sum(dtype=torch.float64), float(inputs.response_count))
        for name, values in sums.items()
    }


def token_sum(values: torch.Tensor) -> SumCount:
    """A sum over tokens [t] and their number, for a metric."""
    return SumCount(values.detach().sum(dtype=torch.float64), float(values.numel()))
