"""An algorithm: an advantage estimator, an objective, and how many optimizer steps a batch is worth."""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray

from thinkrl.algorithms.kl import KLReward
from thinkrl.algorithms.types import (
    NO_SIGNALS,
    AdvantageEstimator,
    Advantages,
    Objective,
    PolicyUpdater,
    Signals,
    UpdateReport,
)
from thinkrl.config.component import Sized
from thinkrl.rollouts.ragged import Ragged
from thinkrl.rollouts.store import Rollouts
from thinkrl.sampling.sampler import SamplingSpec


@dataclass(frozen=True)
class Algorithm:
    """From reward totals to weights: advantages, then `passes` x `minibatches` optimizer steps on the batch."""

    advantage: AdvantageEstimator
    """Turns reward totals into advantages."""
    objective: Objective
    """Turns log-probabilities and advantages into a loss."""
    passes: int = 1
    """Times each batch of rollouts is learned from."""
    # No more than there are prompts, however few a scale leaves.
    minibatches: Annotated[int, Sized("batch_prompts")] = 1
    """Parts that the groups of a batch are dealt into; one optimizer step each."""
    old_logprobs: Literal["current", "recompute", "sampler"] = "current"
    """Denominator of the importance ratio: the learner's own at that moment, so the ratio is 1 by
    construction (one optimizer step a batch only); the learner's before the first step on the batch,
    at the cost of a forward pass; or those the sampler recorded."""
    kl_reward: KLReward | None = None
    """Penalty on the divergence from the reference model, taken from the rewards; null has none."""

    def __post_init__(self) -> None:
        for name in ("passes", "minibatches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.old_logprobs == "current" and self.updates_per_batch > 1:
            raise ValueError(
                "old_logprobs must be 'recompute' or 'sampler' when a batch gets more than one optimizer step"
                f" (passes {self.passes}, minibatches {self.minibatches}), got 'current'"
            )
        if self.old_logprobs == "sampler" and getattr(self.objective, "mismatch", None) is not None:
            raise ValueError(
                "objective.mismatch must be null when old_logprobs is 'sampler', whose ratio holds the mismatch already"
            )

    @property
    def updates_per_batch(self) -> int:
        """Optimizer steps on each batch of rollouts."""
        return self.passes * self.minibatches

    @property
    def needs_reference(self) -> bool:
        """Whether the learner must keep a frozen copy of the starting weights."""
        return self.objective.needs_reference or self._penalises_reward

    @property
    def _penalises_reward(self) -> bool:
        return self.kl_reward is not None and self.kl_reward.coefficient != 0

    def token_rewards(self, learner: PolicyUpdater, rollouts: Rollouts, spec: SamplingSpec) -> Ragged | None:
        """What the KL penalty gives each sampled token, or None without one. The sampler's log-probabilities
        stand for the policy: they are those of the weights that drew the tokens."""
        if self.kl_reward is None or not self._penalises_reward:
            return None
        reference = learner.reference_logprobs(rollouts, spec)
        return self.kl_reward.token_rewards(rollouts, rollouts.logprobs, reference)

    def advantages(
        self,
        totals: NDArray[np.float64],
        rollouts: Rollouts,
        token_rewards: Ragged | None = None,
        signals: Signals = NO_SIGNALS,
    ) -> Advantages:
        """Advantages from `totals` [n] (NaN excludes a response), what `token_rewards()` gave, and signals."""
        if self._penalises_reward and token_rewards is None:
            raise ValueError("token_rewards must be given when the algorithm has a kl_reward, got None")
        return self.advantage.advantages(totals, rollouts, token_rewards, signals)

    def update(
        self, learner: PolicyUpdater, rollouts: Rollouts, advantages: Advantages, spec: SamplingSpec
    ) -> UpdateReport:
        """All optimizer steps on one batch.

        Loss and metrics of the report are means over its steps, seconds are sums; `mismatch/...` is that
        of the first step, where sampler and learner should still hold the same weights.
        """
        old = None
        if self.old_logprobs == "sampler":
            old = rollouts.logprobs
        elif self.old_logprobs == "recompute":
            old = learner.logprobs(rollouts, spec)
        reports = []
        for rows in self.parts(rollouts):
            part = (rollouts, advantages, old)
            if self.minibatches > 1:
                part = (rollouts.select(rows), advantages.take(rows), None if old is None else old.take(rows))
            reports.append(learner.update(part[0], part[1], self.objective, spec, part[2]))
        merged = _merge(reports)
        return replace(merged, metrics={**merged.metrics, **advantages.metrics})

    def parts(self, rollouts: Rollouts) -> list[NDArray[np.int64]]:
        """Rows of each optimizer step, in order."""
        return dealt_groups(rollouts, self.passes, self.minibatches)


def dealt_groups(rollouts: Rollouts, passes: int, minibatches: int) -> list[NDArray[np.int64]]:
    """Rows of each optimizer step, in order. Whole groups stay together, dealt in turn to the parts of each pass."""
    groups = np.unique(rollouts.group_index)
    if minibatches > len(groups):
        raise ValueError(f"minibatches must be at most the {len(groups)} groups of a batch, got {minibatches}")
    part_of = np.arange(len(groups)) % minibatches
    row_part = part_of[np.searchsorted(groups, rollouts.group_index)]
    return [np.flatnonzero(row_part == part) for _ in range(passes) for part in range(minibatches)]


def _merge(reports: list[UpdateReport]) -> UpdateReport:
    """One report for the steps of a batch."""
    first, last = reports[0], reports[-1]
    if len(reports) == 1:
        return first
    metrics = {
        name: value if name.startswith("mismatch/") else _mean([r.metrics[name] for r in reports if name in r.metrics])
        for name, value in first.metrics.items()
    }
    return UpdateReport(
        version=last.version,
        loss=_mean([report.loss for report in reports]),
        gradient_norm=_mean([report.gradient_norm for report in reports]),
        learning_rate=last.learning_rate,
        metrics=metrics,
        seconds={name: sum(report.seconds.get(name, 0.0) for report in reports) for name in first.seconds},
    )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
