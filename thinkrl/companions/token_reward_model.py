"""A token-level reward model: learned from outcomes alone, it says whether each token speaks for a right answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from thinkrl.algorithms.evidence import TOKEN_LOGITS
from thinkrl.algorithms.ratio import response_means
from thinkrl.algorithms.types import Advantages, LossOutputs, SumCount
from thinkrl.companions.backbone import POLICY, LearnedModel, open_scalar_model
from thinkrl.companions.companion import Companion, CompanionStart
from thinkrl.learning.value_model import ValueLearner, ValueModel
from thinkrl.models.source import ModelSource
from thinkrl.probes.decisive_tokens import pattern_tokens, weight_correlation
from thinkrl.rewards.result import RewardResult
from thinkrl.rollouts.ragged import Ragged
from thinkrl.rollouts.signals import Signal
from thinkrl.rollouts.store import Rollouts


@dataclass(frozen=True)
class TokenRewardModel:
    """s_t, a logit read at the position that predicts token t; minimises the cross-entropy of sigmoid(mean_t s_t) with
    the outcome, 1 where the reward is above 0, a mean over the responses that are kept (OREAL, arXiv 2502.06781).

    One label a response and one loss a response: which tokens decide, it has to find out.
    """

    learner: ValueLearner = field(default_factory=ValueLearner)
    """Optimizer and batching; one optimizer step a batch, after the batch's signals were read."""
    model: ModelSource | None = None
    """Its model, where it is another than the recipe's."""
    model_from: str = POLICY
    """Whose weights it starts from, under a head that says 0: `policy`, `base`, `previous`, or a stage by name."""
    decisive: str | None = None
    """A pattern of the text that decides, where that is known: how far token weights agree with it is logged."""

    def __post_init__(self) -> None:
        if self.model is not None and self.model_from == POLICY:
            raise ValueError("model_from must be 'base' or a stage where a model is given, got 'policy'")

    def supplies(self) -> tuple[Signal, ...]:
        """The logits."""
        return (TOKEN_LOGITS,)

    def check(self) -> None:
        """Nothing outside is needed."""

    def open(self, start: CompanionStart) -> Companion:
        """A model of its own beside the policy."""
        model = open_scalar_model(start, self.model, self.model_from)
        return OpenTokenRewardModel(self.learner.open(model, start.total_steps), self.decisive)


class OpenTokenRewardModel(LearnedModel):
    """A token-level reward model on one value model."""

    def __init__(self, model: ValueModel, decisive: str | None = None) -> None:
        super().__init__(model)
        self._decisive = decisive
        self._said: Ragged | None = None

    def signals(self, rollouts: Rollouts) -> Mapping[str, Ragged]:
        """The logit of every sampled token."""
        self._said = self._model.values(rollouts)
        return {TOKEN_LOGITS.name: self._said}

    def learn(self, rollouts: Rollouts, rewards: RewardResult, advantages: Advantages) -> Mapping[str, float]:
        """One step on the responses that are kept; without any, the weights stay and there is no loss.

        `accuracy` is that of the signs of the mean logits on these responses, before the step.
        `decisive_correlation` is that of |A_t| with the pattern's tokens within responses, so of the token weights.
        """
        rows = np.flatnonzero(advantages.kept)
        labels = (rewards.totals > 0).astype(np.float32)
        report = self._model.update(rollouts, rows, _MeanLogitLoss(rollouts, labels))
        metrics = {"learning_rate": report.learning_rate}
        if len(rows):
            metrics |= {"loss": report.loss, "gradient_norm": report.gradient_norm, **report.metrics}
        if self._decisive is not None and len(rows):
            weights = advantages.values.with_values(np.abs(advantages.values.values))
            metrics["decisive_correlation"] = weight_correlation(
                weights, pattern_tokens(rollouts, self._decisive), rows
            )
        return {name: value for name, value in metrics.items() if not np.isnan(value)}


@dataclass(frozen=True, eq=False)
class _MeanLogitLoss:
    """BCE(mean_t s_t, y), summed over responses."""

    rollouts: Rollouts
    labels: NDArray[np.float32]

    def __call__(self, values: Tensor, columns: NDArray[np.int64]) -> LossOutputs:
        responses, ids = np.unique(self.rollouts.token_ids.row_ids[columns], return_inverse=True)
        means = response_means(values, torch.from_numpy(ids).to(values.device), len(responses))
        labels = torch.from_numpy(self.labels[responses]).to(values.device)
        losses = binary_cross_entropy_with_logits(means, labels, reduction="none")
        right = ((means > 0) == (labels > 0)).sum(dtype=torch.float64)
        count = float(len(responses))
        return LossOutputs(SumCount(losses.sum(), count), {"accuracy": SumCount(right, count)})
