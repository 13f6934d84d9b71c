"""A critic: what is still to be earned, said of every token, and learned from what was earned."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thinkrl.algorithms.algorithm import dealt_groups
from thinkrl.algorithms.token_returns import VALUES
from thinkrl.algorithms.types import Advantages, LossOutputs, SumCount, UpdateReport
from thinkrl.companions.backbone import POLICY, LearnedModel, open_scalar_model
from thinkrl.companions.companion import Companion, CompanionStart
from thinkrl.config.component import ConfigError, Sized
from thinkrl.learning.value_model import ValueLearner, ValueModel
from thinkrl.models.source import ModelSource
from thinkrl.rewards.result import RewardResult
from thinkrl.rollouts.ragged import Ragged
from thinkrl.rollouts.signals import Signal
from thinkrl.rollouts.store import Rollouts


@dataclass(frozen=True)
class Critic:
    """V(s_t), read at the position that predicts token t; minimises 1/2 max((V - R)^2, (V_clip - R)^2), a token mean.

    R are the returns that the advantage estimator gives as targets; V_clip keeps V within `value_clip` of what it was
    when the batch was sampled (PPO, as in arXiv 2005.12729, section 3.1).
    """

    learner: ValueLearner = field(default_factory=ValueLearner)
    """Optimizer and batching."""
    model: ModelSource | None = None
    """Its model, where it is another than the recipe's."""
    model_from: str = POLICY
    """Whose weights it starts from, under a head that says 0: `policy`, `base`, `previous`, or a stage by name."""
    value_clip: float | None = 0.2
    """How far the values may move on one batch before they stop to be learned, in units of reward; null is any."""
    passes: int = 1
    """Times each batch is learned from."""
    minibatches: Annotated[int, Sized("batch_prompts")] = 1
    """Parts that the groups of a batch are dealt into; one optimizer step each."""

    def __post_init__(self) -> None:
        for name in ("passes", "minibatches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.value_clip is not None and not self.value_clip > 0:
            raise ValueError(f"value_clip must be above 0, got {self.value_clip}")
        if self.model is not None and self.model_from == POLICY:
            raise ValueError("model_from must be 'base' or a stage where a model is given, got 'policy'")

    def supplies(self) -> tuple[Signal, ...]:
        """The values."""
        return (VALUES,)

    def check(self) -> None:
        """Nothing outside is needed."""

    def open(self, start: CompanionStart) -> Companion:
        """A model of its own beside the policy."""
        model = open_scalar_model(start, self.model, self.model_from)
        return OpenCritic(self, self.learner.open(model, start.total_steps * self.passes * self.minibatches))


class OpenCritic(LearnedModel):
    """A critic on one value model."""

    def __init__(self, config: Critic, model: ValueModel) -> None:
        self._config = config
        super().__init__(model)
        self._said: Ragged | None = None

    def signals(self, rollouts: Rollouts) -> Mapping[str, Ragged]:
        """The value of every sampled token."""
        self._said = self._model.values(rollouts)
        return {VALUES.name: self._said}

    def learn(self, rollouts: Rollouts, rewards: RewardResult, advantages: Advantages) -> Mapping[str, float]:
        """Steps towards the returns; `explained_variance` is 1 - var(R - V) / var(R) of what it said before."""
        if VALUES.name not in advantages.targets:
            raise ConfigError("a critic learns returns, which the advantage estimator does not give: take another one")
        returns, said = advantages.targets[VALUES.name], self._said
        assert said is not None, "signals are asked for before a batch is learned from"
        counted = rollouts.sampled & advantages.kept[rollouts.token_ids.row_ids]
        metrics = _before(said.values[counted], returns.values[counted])
        reports = []
        for rows in dealt_groups(rollouts, self._config.passes, self._config.minibatches):
            part = rollouts.select(rows)
            loss = _ClippedError(said.take(rows), returns.take(rows), self._config.value_clip)
            reports.append(self._model.update(part, np.flatnonzero(advantages.kept[rows]), loss))
        return {**metrics, **_merged(reports)}


@dataclass(frozen=True, eq=False)
class _ClippedError:
    """1/2 max((V - R)^2, (V_clip - R)^2), summed over tokens."""

    said: Ragged
    returns: Ragged
    clip: float | None

    def __call__(self, values: Tensor, columns: NDArray[np.int64]) -> LossOutputs:
        returns, before = (
            torch.from_numpy(column.values[columns].astype(np.float32)).to(values.device)
            for column in (self.returns, self.said)
        )
        errors = (values - returns).square()
        metrics = {}
        if self.clip is not None:
            near = torch.minimum(torch.maximum(values, before - self.clip), before + self.clip)
            held = (near - returns).square()
            clipped = (held > errors).detach().sum(dtype=torch.float64)
            metrics["clipped"] = SumCount(clipped, float(len(columns)))
            errors = torch.maximum(errors, held)
        return LossOutputs(SumCount(0.5 * errors.sum(), float(len(columns))), metrics)


def _before(said: NDArray[np.float32], returns: NDArray[np.float64]) -> dict[str, float]:
    """How good the values were before anything was learned of the batch."""
    if not len(returns):
        return {}
    found = {"value": float(np.mean(said)), "return": float(np.mean(returns))}
    spread = float(np.var(returns))
    if spread > 0:
        found["explained_variance"] = 1.0 - float(np.var(returns - said)) / spread
    return found


def _merged(reports: list[UpdateReport]) -> dict[str, float]:
    """Means over the steps of a batch; the learning rate is the last."""
    rows = [{"loss": r.loss, "gradient_norm": r.gradient_norm, **r.metrics} for r in reports]
    names = dict.fromkeys(name for row in rows for name in row)
    found = {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}
    return {**found, "learning_rate": reports[-1].learning_rate}
