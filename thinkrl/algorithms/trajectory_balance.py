"""Trajectory balance: the policy learns to draw responses in proportion to their reward, not the best one alone.

Where text is written from left to right each response is reached in one way, so P_B = 1; a reward may add another
log P_B as a term. With Phi = log R + log P_B - log P_F, what stands in the place of an advantage is how far Phi is from
log Z, and log P_F is a reward of -log pi for each token: the gradient is that of REINFORCE with an entropy bonus of
weight 1, on responses that anyone may have drawn.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from thinkrl.algorithms.algorithm import Algorithm
from thinkrl.algorithms.types import NO_SIGNALS, Advantages, LossInputs, LossOutputs, PolicyUpdater, Signals, SumCount
from thinkrl.rollouts.ragged import Ragged
from thinkrl.rollouts.signals import LOGPROBS, Signal
from thinkrl.rollouts.store import Rollouts
from thinkrl.sampling.sampler import SamplingSpec

if TYPE_CHECKING:
    import torch

LOG_Z = Signal("log_z", "log Z of the response's prompt: log of the sum over responses of R P_B, in nats")
"""What a companion that learns it supplies."""


@dataclass(frozen=True)
class BalanceResidual:
    """A_i = Phi_i - log Z for every sampled token of response i, with Phi_i = r_i + sum_t (-log pi(o_t)).

    r_i, the reward's total, is beta log R (+ log P_B). log Z is the mean of Phi over the group, which needs no model
    (VarGrad, arXiv 2010.10436; Flow of Reasoning, arXiv 2406.05673), or a signal that is learned along with the policy
    (trajectory balance, arXiv 2201.13259). Responses without a total (NaN) move no mean and carry no loss; one alone
    in its group has a residual of 0. Equal rewards leave residuals wherever log-probabilities differ.
    """

    reads_tokens: ClassVar[bool] = False

    log_z: Literal["group", "learned"] = "group"
    """Where log Z comes from: the group's own mean, or a companion."""

    def signals(self) -> tuple[Signal, ...]:
        """Log-probabilities, and log Z where it is learned."""
        return (LOGPROBS, LOG_Z) if self.log_z == "learned" else (LOGPROBS,)

    def advantages(
        self,
        totals: NDArray[np.float64],
        rollouts: Rollouts,
        token_rewards: Ragged | None = None,
        signals: Signals = NO_SIGNALS,
    ) -> Advantages:
        """Residuals of n responses, and Phi as what log Z should have been.

        Args:
            totals: beta log R + log P_B of each response, [n]; NaN excludes the response.
            rollouts: the responses, in the same order.
            token_rewards: -log pi of each token (and what else is paid to tokens), from `BalanceAlgorithm`; None
                takes the log-probabilities that were recorded when the tokens were drawn.
            signals: log Z of each response, where it is learned.

        Raises ValueError for infinite totals.
        """
        if token_rewards is None:
            token_rewards = rollouts.logprobs.with_values(-rollouts.logprobs.values)
        totals = np.asarray(totals, dtype=np.float64)
        if np.any(np.isinf(totals)):
            raise ValueError(f"totals must be finite or NaN, got {totals[np.isinf(totals)][0]}: a log R needs a floor")
        kept = ~np.isnan(totals)
        paid = np.where(rollouts.sampled, token_rewards.values, 0.0).astype(np.float64)
        phi = totals + token_rewards.with_values(paid).sums()
        log_z = self._log_z(phi, kept, rollouts.group_index, signals)
        residuals = np.where(kept, phi - log_z, np.nan)
        rows = rollouts.token_ids.row_ids

        def spread(values: NDArray[np.float64]) -> Ragged:
            return rollouts.token_ids.with_values(np.where(rollouts.sampled, values[rows], np.nan))

        metrics = {}
        if kept.any():
            metrics = {
                "balance/log_z": float(np.mean(log_z[kept])),
                "balance/phi": float(np.mean(phi[kept])),
                "balance/residual": float(np.sqrt(np.mean(residuals[kept] ** 2))),
            }
        return Advantages(spread(residuals), kept, metrics=metrics, targets={LOG_Z.name: spread(phi)})

    def _log_z(
        self, phi: NDArray[np.float64], kept: NDArray[np.bool_], groups: NDArray[np.int64], signals: Signals
    ) -> NDArray[np.float64]:
        if self.log_z == "learned":
            return np.asarray(signals[LOG_Z.name], dtype=np.float64)
        means = np.full(len(phi), np.nan)
        for group in np.unique(groups[kept]):
            rows = np.flatnonzero(kept & (groups == group))
            means[rows] = phi[rows[0]] if np.ptp(phi[rows]) == 0 else np.mean(phi[rows])
        return means


@dataclass(frozen=True)
class SquaredResidual:
    """l_i = (A_i - sum_t (log pi(o_t) - log pi_old(o_t)))^2, a mean over responses.

    A_i is the residual under pi_old; with one optimizer step a batch, pi_old = pi and the gradient is
    -2 A_i grad log P_F. That of the group's mean is left out, and need not be there: residuals add up to 0 within it.
    """

    @property
    def needs_reference(self) -> bool:
        """No reference model is read."""
        return False

    @property
    def needs_entropy(self) -> bool:
        """No entropies are read."""
        return False

    def __call__(self, inputs: LossInputs) -> LossOutputs:
        """Sum over responses and their number."""
        # Imported here: `thinkrl score` builds algorithms without waiting for torch.
        from thinkrl.algorithms.ratio import response_means, response_sums

        def whole(values: "torch.Tensor", mean: bool = False) -> "torch.Tensor":
            over = response_means if mean else response_sums
            return over(values, inputs.response_ids, inputs.response_count)

        moved = whole(inputs.logprobs - inputs.old_logprobs)
        losses = whole(inputs.weights, mean=True) * (whole(inputs.advantages, mean=True) - moved).square()
        log_pf = SumCount(whole(inputs.logprobs.detach()).sum(), float(inputs.response_count))
        return LossOutputs(SumCount(losses.sum(), float(inputs.response_count)), {"balance/log_pf": log_pf})


@dataclass(frozen=True)
class BalanceAlgorithm(Algorithm):
    """An algorithm that pays each sampled token -log pi, as the weights that learn say it and not those that sampled:
    a pass before the update, so that responses of other policies (tempered, replayed, searched) are read rightly."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.old_logprobs != "current":
            raise ValueError(
                "old_logprobs must be 'current' where residuals are those of the weights that learn,"
                f" got {self.old_logprobs!r}"
            )
        if self.kl_reward is not None:
            raise ValueError("kl_reward must be null: a flow is pulled by its reward alone, got a component")

    def token_rewards(self, learner: PolicyUpdater, rollouts: Rollouts, spec: SamplingSpec) -> Ragged:
        """-log pi of each sampled token under `spec`, 0 at given ones."""
        logprobs = learner.logprobs(rollouts, spec)
        return logprobs.with_values(np.where(rollouts.sampled, -logprobs.values.astype(np.float64), 0.0))
