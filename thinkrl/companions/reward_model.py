"""A reward model beside the policy: it says what responses are worth, and stays as it is or learns along."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from thinkrl.algorithms.score_loss import area_under_curve
from thinkrl.algorithms.types import Advantages
from thinkrl.companions.backbone import LearnedModel
from thinkrl.companions.companion import Companion, CompanionStart
from thinkrl.companions.pair_update import OpenPairUpdate, PairUpdate
from thinkrl.config.component import ConfigError
from thinkrl.data.chat import ChatRenderer
from thinkrl.data.judged import JudgedText
from thinkrl.grading.verdict import Verdict
from thinkrl.learning.score_model import score_texts
from thinkrl.learning.value_model import ValueLearner, ValueModel
from thinkrl.models.device import Device
from thinkrl.models.heads import load_scalar_model
from thinkrl.models.pretrained import Dtype
from thinkrl.rewards.model_score import score_signal
from thinkrl.rewards.result import RewardResult
from thinkrl.rollouts.prompt import Prompt
from thinkrl.rollouts.signals import Signal
from thinkrl.rollouts.store import Rollouts


@dataclass(frozen=True)
class RewardModel:
    """The score of each response by a model with a scalar head; NaN where it reads nothing.

    A published reward model (transformers' sequence classification with one label, in safetensors), or what a stage
    `TrainRewardModel` made. The reward term `ModelScore` pays the signal.
    """

    source: str | None = None
    """A folder or hub id; null where `model_from` is given."""
    model_from: str | None = None
    """The stage that trained it, by name; null where `source` is given."""
    signal: str = "model_score"
    """Name of the signal."""
    reads: JudgedText = field(default_factory=JudgedText)
    """What it reads of a response, as in its training."""
    dtype: Dtype = "bfloat16"
    """Precision of the forward pass."""
    device: Device = "auto"
    """Where it computes: `cuda`, `cpu`, or `auto`, the GPU when there is one."""
    micro_batch_tokens: int = 4096
    """Tokens of one forward pass; a model that learns takes those of its learner."""
    update: PairUpdate | None = None
    """How it learns from each batch after the policy has; null leaves it as it is."""

    def __post_init__(self) -> None:
        if (self.source is None) == (self.model_from is None):
            raise ValueError(f"source or model_from must be given, and not both, got {self.source}, {self.model_from}")
        if self.micro_batch_tokens < 1:
            raise ValueError(f"micro_batch_tokens must be at least 1, got {self.micro_batch_tokens}")

    def supplies(self) -> tuple[Signal, ...]:
        """The score."""
        return (score_signal(self.signal),)

    def needs(self) -> tuple[tuple[str, str], ...]:
        """The stage that trained it."""
        return () if self.model_from is None else ((self.model_from, "reward_model"),)

    def check(self) -> None:
        """Looks for a model in a folder; one on the hub is fetched when the stage opens it."""
        if self.source is not None and Path(self.source).is_dir() and not (Path(self.source) / "config.json").is_file():
            raise ConfigError(f"{self.source} holds no model: there is no config.json")
        if self.update is not None:
            self.update.check()

    def open(self, start: CompanionStart) -> Companion:
        """Loads the model."""
        folder = self.source if self.model_from is None else start.weights(self.model_from)
        assert folder is not None, "a stage that trains a reward model has made one"
        update, tokens = self.update, self.micro_batch_tokens
        policy = load_scalar_model(folder, dtype=self.dtype, for_training=update is not None, device=self.device)
        learner = update.learner if update else ValueLearner(row_tokens=tokens, micro_batch_tokens=tokens)
        model = learner.open(policy, start.total_steps if update else 1)
        return OpenRewardModel(self, model, update.open(start, model, self.reads) if update else None)


class OpenRewardModel(LearnedModel):
    """A reward model at work; see `Companion` for the contract."""

    def __init__(self, config: RewardModel, model: ValueModel, update: OpenPairUpdate | None = None) -> None:
        super().__init__(model)
        self._config = config
        self._update = update
        self._renderer = ChatRenderer(model.model.tokenizer)
        self._said: NDArray[np.float64] = np.zeros(0)

    def scores(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> NDArray[np.float64]:
        """What each text is worth as a response to its prompt, [n]; NaN where nothing is read."""
        read = [self._config.reads.token_ids(p, text, self._renderer) for p, text in zip(prompts, texts, strict=True)]
        said = np.full(len(read), np.nan)
        known = [row for row, text in enumerate(read) if text is not None]
        said[known] = score_texts(self._model, [text for text in read if text is not None])
        return said

    def signals(self, rollouts: Rollouts) -> Mapping[str, NDArray[np.float64]]:
        """The scores, [n]."""
        self._said = self.scores([rollouts.prompt(row) for row in range(len(rollouts))], rollouts.texts)
        return {self._config.signal: self._said}

    def learn(self, rollouts: Rollouts, rewards: RewardResult, advantages: Advantages) -> Mapping[str, float]:
        """Learns where it is to; says how its scores are spread, and how well they tell right from wrong where that is
        known: of what it said of this batch, before it learned.

        A reward model that is being deceived keeps its scores and loses its area under the curve; `overpaid`, the mean
        reward less the share of right responses, then grows, where rewards are from 0 to 1.
        """
        known = ~np.isnan(self._said)
        judged = [row for row in np.flatnonzero(known) if rewards.verdicts[row] in (Verdict.CORRECT, Verdict.WRONG)]
        right = np.asarray([rewards.verdicts[row] is Verdict.CORRECT for row in judged], dtype=np.bool_)
        metrics = {"auc": area_under_curve(self._said[judged], right), "unread": float(np.mean(~known))}
        paid = rewards.totals[judged]
        if np.any(~np.isnan(paid)):
            metrics["overpaid"] = float(np.nanmean(paid) - right.mean())
        if known.any():
            metrics |= {"score": float(self._said[known].mean()), "variance": float(self._said[known].var())}
        if self._update is not None:
            metrics |= self._update.learn(rollouts, rewards.verdicts)
        return {name: value for name, value in metrics.items() if not np.isnan(value)}

    def save(self, folder: Path) -> None:
        """Writes what was learned, if anything was."""
        if self._update is not None:
            super().save(folder)
