"""The records that pass between rewards, algorithms and the learner, and what the two ask of each other."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from thinkrl.rollouts.ragged import Ragged
from thinkrl.rollouts.store import Rollouts
from thinkrl.sampling.sampler import SamplingSpec

if TYPE_CHECKING:  # advantages are numpy alone: `thinkrl score` answers without waiting for torch
    import torch


@dataclass(frozen=True, eq=False)
class Advantages:
    """One advantage per token, aligned with `Rollouts.token_ids` (read only where a token was sampled).

    kept: bool [n]; a response that is not kept (ungradable, filtered) carries no loss and is in no count.
    weights: multiplies each token's loss, aligned like `values`; None weighs every token 1.
    metrics: what the estimator has to say of the batch, by name.
    targets: what companions should have predicted for each token (NaN where they should not have), by the signal's
        name, aligned like `values`: the returns under a critic's name.
    """

    values: Ragged
    kept: NDArray[np.bool_]
    weights: Ragged | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    targets: Mapping[str, Ragged] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.kept) != len(self.values):
            raise ValueError(f"kept has {len(self.kept)} rows, expected {len(self.values)}")
        if self.weights is not None and not np.array_equal(self.weights.offsets, self.values.offsets):
            raise ValueError("weights and values differ in row lengths")

    def per_response(self) -> NDArray[np.float64]:
        """Mean advantage of each response's tokens, [n]; NaN where it is not kept or has no value."""
        means = np.full(len(self.kept), np.nan)
        for row, values in enumerate(self.values):
            known = values[~np.isnan(values)]
            if self.kept[row] and len(known):
                means[row] = np.mean(known)
        return means

    def take(self, rows: NDArray[np.int64]) -> "Advantages":
        """The named responses, in the order given."""
        weights = None if self.weights is None else self.weights.take(rows)
        targets = {name: target.take(rows) for name, target in self.targets.items()}
        return Advantages(self.values.take(rows), self.kept[rows], weights, self.metrics, targets)


@dataclass(frozen=True, eq=False)
class LossInputs:
    """The sampled tokens of whole responses, end to end: t tokens of s responses.

    logprobs: policy log-probabilities with gradient, [t].
    old_logprobs: of the policy that sampled, or of the policy at the start of the update, [t].
    reference_logprobs: of the reference model, [t], or None when no KL term asks for it.
    advantages, weights: [t]; weights multiply each token's loss (1 when nothing reweights).
    entropies: policy entropies in nats with gradient, [t], or None when no term asks for them.
    sampler_logprobs: as the sampler recorded them when it drew the tokens, [t], or None where nobody did.
    response_ids: which response a token belongs to, int64 [t], values 0..s-1, each present.
    """

    logprobs: "torch.Tensor"
    old_logprobs: "torch.Tensor"
    advantages: "torch.Tensor"
    weights: "torch.Tensor"
    response_ids: "torch.Tensor"
    response_count: int
    reference_logprobs: "torch.Tensor | None" = None
    entropies: "torch.Tensor | None" = None
    sampler_logprobs: "torch.Tensor | None" = None


@dataclass(frozen=True, eq=False)
class SumCount:
    """A sum and the count it will be divided by, once, over the whole optimizer step and all ranks."""

    total: "torch.Tensor"
    count: float


@dataclass(frozen=True, eq=False)
class LossOutputs:
    """`loss` keeps its graph; `metrics` are detached sums with their own counts."""

    loss: SumCount
    metrics: dict[str, SumCount] = field(default_factory=dict)


class Objective(Protocol):
    """Log-probabilities and advantages in, a sum and a count out."""

    @property
    def needs_reference(self) -> bool:
        """Whether `LossInputs.reference_logprobs` must be there."""
        ...

    @property
    def needs_entropy(self) -> bool:
        """Whether `LossInputs.entropies` must be there."""
        ...

    def __call__(self, inputs: LossInputs) -> LossOutputs:
        """Sum and count over the tokens given. The count follows from ids and lengths alone, never from
        log-probabilities, entropies or advantages: it is asked for before any is known."""
        ...


Signals = Mapping[str, Any]
"""Values that models supply, by name, one entry a response; see `RewardContext.signals`."""
NO_SIGNALS: Signals = MappingProxyType({})


class AdvantageEstimator(Protocol):
    """Reward totals in, one advantage per sampled token out."""

    def advantages(
        self,
        totals: NDArray[np.float64],
        rollouts: Rollouts,
        token_rewards: Ragged | None = None,
        signals: Signals = NO_SIGNALS,
    ) -> Advantages:
        """Estimates from `totals` [n] (NaN excludes a response), optional rewards per token, and the signals that the
        estimator declares by `signals()` as reward terms do."""
        ...


@dataclass(frozen=True)
class UpdateReport:
    """What one optimizer step did. `metrics` are exact means over the whole step; `seconds` by part."""

    version: int
    loss: float
    gradient_norm: float
    learning_rate: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)

    def row(self) -> dict[str, float]:
        """Everything but the seconds, by metric name."""
        return {
            "loss": self.loss,
            "gradient_norm": self.gradient_norm,
            "learning_rate": self.learning_rate,
            "weights_version": float(self.version),
            **self.metrics,
        }


class PolicyUpdater(Protocol):
    """What an algorithm asks of a learner."""

    def logprobs(self, rollouts: Rollouts, spec: SamplingSpec) -> Ragged:
        """Current log-probabilities under `spec`, float32, aligned with `token_ids`, NaN where given."""
        ...

    def reference_logprobs(self, rollouts: Rollouts, spec: SamplingSpec) -> Ragged:
        """The same from the frozen starting weights; an error when the learner was opened without a reference."""
        ...

    def update(
        self,
        rollouts: Rollouts,
        advantages: Advantages,
        objective: Objective,
        spec: SamplingSpec,
        old_logprobs: Ragged | None = None,
    ) -> UpdateReport:
        """One optimizer step on all kept responses.

        `old_logprobs` (aligned with `token_ids`) are the denominator of the importance ratio; without
        them the current policy's own are taken, so that the ratio is 1 by construction.
        """
        ...
