"""A reward model beside the policy: it says what responses are worth, and stays as it is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from thinkrl.algorithms.score_loss import area_under_curve
from thinkrl.algorithms.types import Advantages
from thinkrl.companions.companion import Companion, CompanionStart
from thinkrl.config.component import ConfigError
from thinkrl.data.chat import ChatRenderer
from thinkrl.data.judged import JudgedText
from thinkrl.grading.verdict import Verdict
from thinkrl.learning.learner import LearnerState
from thinkrl.learning.score_model import score_texts
from thinkrl.learning.value_model import ValueLearner, ValueModel
from thinkrl.models.device import Device
from thinkrl.models.heads import load_scalar_model
from thinkrl.models.pretrained import Dtype
from thinkrl.rewards.model_score import score_signal
from thinkrl.rewards.result import RewardResult
from thinkrl.rollouts.signals import Signal
from thinkrl.rollouts.store import Rollouts


@dataclass(frozen=True)
class RewardModel:
    """The score of each response by a frozen model with a scalar head; NaN where it reads nothing.

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
    """Tokens of one forward pass."""

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

    def open(self, start: CompanionStart) -> Companion:
        """Loads the model."""
        folder = self.source if self.model_from is None else start.weights(self.model_from)
        assert folder is not None, "a stage that trains a reward model has made one"
        model = load_scalar_model(folder, dtype=self.dtype, for_training=False, device=self.device)
        learner = ValueLearner(row_tokens=self.micro_batch_tokens, micro_batch_tokens=self.micro_batch_tokens)
        return OpenRewardModel(self, learner.open(model, total_steps=1))


class OpenRewardModel:
    """A reward model at work; see `Companion` for the contract."""

    def __init__(self, config: RewardModel, model: ValueModel) -> None:
        self._config = config
        self._model = model
        self._renderer = ChatRenderer(model.model.tokenizer)
        self._said: NDArray[np.float64] = np.zeros(0)

    def signals(self, rollouts: Rollouts) -> Mapping[str, NDArray[np.float64]]:
        """The scores, [n]."""
        read = [
            self._config.reads.token_ids(rollouts.prompt(row), text, self._renderer)
            for row, text in enumerate(rollouts.texts)
        ]
        self._said = np.full(len(rollouts), np.nan)
        known = [row for row, text in enumerate(read) if text is not None]
        self._said[known] = score_texts(self._model, [text for text in read if text is not None])
        return {self._config.signal: self._said}

    def learn(self, rollouts: Rollouts, rewards: RewardResult, advantages: Advantages) -> Mapping[str, float]:
        """Learns nothing; says how its scores are spread, and how well they tell right from wrong where that is known.

        A reward model that is being deceived keeps its scores and loses its area under the curve.
        """
        known = ~np.isnan(self._said)
        judged = [row for row in np.flatnonzero(known) if rewards.verdicts[row] in (Verdict.CORRECT, Verdict.WRONG)]
        right = np.asarray([rewards.verdicts[row] is Verdict.CORRECT for row in judged], dtype=np.bool_)
        metrics = {"auc": area_under_curve(self._said[judged], right), "unread": float(np.mean(~known))}
        if known.any():
            metrics |= {"score": float(self._said[known].mean()), "variance": float(self._said[known].var())}
        return {name: value for name, value in metrics.items() if not np.isnan(value)}

    def state(self) -> LearnerState:
        """Empty: it does not change."""
        return LearnerState({}, {})

    def load_state(self, state: LearnerState) -> None:
        """Nothing to restore."""

    def save(self, folder: Path) -> None:
        """Writes nothing."""
