"""Learning from preferences: a loss on pairs of responses, as a weight for each token's log-probability.

A loss on a pair depends on the policy through two numbers, the log-probabilities of both responses. So it takes two
passes: one that reads these numbers, from which the loss and its slopes follow, and one in which every token is weighed
by the slope of its response. The gradient is exact, a pair may fall into several micro-batches, and what learns is the
learner's ordinary update.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from thinkrl.algorithms.types import Advantages, LossInputs, LossOutputs, SumCount
from thinkrl.rollouts.ragged import Ragged
from thinkrl.rollouts.store import Rollouts

Numbers = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PairWeights:
    """The loss of a batch of pairs, as a mean over them, and the weight of each token in its gradient.

    metrics: means over pairs, by name.
    """

    loss: float
    advantages: Advantages
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class PreferenceLoss:
    """f(d) + nll * L, a mean over pairs of a chosen response w and a rejected response l to one prompt.

    d = r_w - r_l, where r = log pi(y|x) - log pi_ref(y|x), summed over the tokens of y (`length_normalised`: averaged),
    without the second term where there is no `reference`; beta r is the implicit reward. With e = `label_smoothing` and
    h = beta d - target_margin, f is

    sigmoid: -(1 - e) log sigmoid(h) - e log sigmoid(-h), DPO (arXiv 2305.18290, eq. 7), and with e > 0 cDPO;
    ipo: (d - 1 / (2 beta))^2, IPO (arXiv 2310.12036);
    hinge: max(0, 1 - h), SLiC (arXiv 2305.10425).

    L = -log pi(y_w|x) / |y_w| keeps the chosen response likely (RPO, arXiv 2404.19733). SimPO (arXiv 2405.14734) is the
    sigmoid without reference, length-normalised, with a target margin.
    """

    kind: Literal["sigmoid", "ipo", "hinge"] = "sigmoid"
    """f."""
    beta: float = 0.1
    """Reward of a nat by which the policy leaves the reference; 1 / (2 beta) is where ipo holds d."""
    label_smoothing: float = 0.0
    """Share of pairs that are taken to be labelled the wrong way round; of sigmoid."""
    target_margin: float = 0.0
    """By how much the reward of the chosen response should be greater; of sigmoid and hinge."""
    length_normalised: bool = False
    """Whether log-probabilities are averaged over the tokens of a response, not summed."""
    reference: bool = True
    """Whether log-probabilities are compared with those of the frozen start."""
    nll: float = 0.0
    """Weight of the chosen response's negative log-likelihood a token."""

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise ValueError(f"beta must be above 0, got {self.beta}")
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing must be at least 0 and below 0.5, got {self.label_smoothing}")
        for name in ("target_margin", "nll"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if self.label_smoothing and self.kind != "sigmoid":
            raise ValueError(f"label_smoothing must be 0 where kind is '{self.kind}', got {self.label_smoothing}")
        if self.target_margin and self.kind == "ipo":
            raise ValueError(f"target_margin must be 0 where kind is 'ipo', got {self.target_margin}")

    def losses(self, differences: Numbers) -> tuple[Numbers, Numbers]:
        """f and its slope df/dd at each difference d, in nats; [p], [p]."""
        if self.kind == "ipo":
            off = differences - 0.5 / self.beta
            return off**2, 2 * off
        h = self.beta * differences - self.target_margin
        if self.kind == "hinge":
            return np.maximum(0.0, 1 - h), np.where(h < 1, -self.beta, 0.0)
        against, towards = np.logaddexp(0.0, -h), np.logaddexp(0.0, h)  # -log sigmoid(h), -log sigmoid(-h)
        e = self.label_smoothing
        return (1 - e) * against + e * towards, self.beta * (e * np.exp(-against) - (1 - e) * np.exp(-towards))

    def weigh(self, rollouts: Rollouts, logprobs: Ragged, reference: Numbers | None) -> PairWeights:
        """The loss of p pairs, and the weight A_t of each token in its gradient, -sum_t A_t grad log pi(o_t) / p.

        Args:
            rollouts: 2p responses, chosen and rejected in turn.
            logprobs: of the current policy, aligned with `rollouts.token_ids`.
            reference: of the reference, summed over each response, [p, 2]; not read where there is none.
        """
        counts = rollouts.sampled_counts.astype(np.float64)
        if len(rollouts) % 2 or not np.all(counts):
            raise ValueError(f"rollouts must be pairs of responses with sampled tokens, got {len(rollouts)} responses")
        sums = response_logprobs(rollouts, logprobs)
        divisors = counts if self.length_normalised else np.ones_like(counts)
        scores = sums / divisors
        if self.reference:
            if reference is None:
                raise ValueError("reference must be given to a loss with a reference, got None")
            scores = scores - reference.reshape(-1) / divisors
        differences = scores[0::2] - scores[1::2]
        values, slopes = self.losses(differences)
        likelihood = -sums[0::2] / counts[0::2]
        weights = np.empty_like(scores)
        weights[0::2] = -slopes / divisors[0::2] + self.nll / counts[0::2]
        weights[1::2] = slopes / divisors[1::2]
        rewards = self.beta * scores
        tokens = np.where(rollouts.sampled, weights[rollouts.token_ids.row_ids], np.nan)
        return PairWeights(
            loss=float(np.mean(values + self.nll * likelihood)),
            advantages=Advantages(rollouts.token_ids.with_values(tokens), np.ones(len(rollouts), dtype=np.bool_)),
            metrics={
                "preference/loss": float(np.mean(values)),
                "preference/margin": float(np.mean(self.beta * differences)),
                "preference/accuracy": float(np.mean(differences > 0)),
                "preference/chosen_reward": float(np.mean(rewards[0::2])),
                "preference/rejected_reward": float(np.mean(rewards[1::2])),
                "preference/chosen_logprob": float(np.mean(sums[0::2])),
                "preference/rejected_logprob": float(np.mean(sums[1::2])),
                "preference/chosen_nll": float(np.mean(likelihood)),
            },
        )


def response_logprobs(rollouts: Rollouts, logprobs: Ragged) -> Numbers:
    """Log-probability of the sampled tokens of each response, summed in float64, [n]."""
    return logprobs.with_values(np.where(rollouts.sampled, logprobs.values, 0.0)).sums()


@dataclass(frozen=True)
class PairLikelihood:
    """-sum_t A_t log pi(o_t) over the tokens of both responses of each pair, counted in pairs."""

    @property
    def needs_reference(self) -> bool:
        """The weights know the reference already."""
        return False

    @property
    def needs_entropy(self) -> bool:
        """No entropies are read."""
        return False

    def __call__(self, inputs: LossInputs) -> LossOutputs:
        """Sum over the tokens given, and half the number of their responses."""
        loss = -(inputs.weights * inputs.advantages * inputs.logprobs).sum()
        return LossOutputs(SumCount(loss, inputs.response_count / 2))
