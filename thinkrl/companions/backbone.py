"""Companions that learn a model with a scalar head: which weights it starts from, and how it is kept."""

import json
from pathlib import Path

import torch

from thinkrl.companions.companion import CompanionStart
from thinkrl.learning.learner import LearnerState
from thinkrl.learning.value_model import ValueModel
from thinkrl.models.heads import load_scalar_model, scalar_model
from thinkrl.models.policy import Policy
from thinkrl.models.pretrained import Dtype
from thinkrl.models.saving import save_policy
from thinkrl.models.source import ModelSource

POLICY = "policy"
"""Names the policy, as the stage starts from it, where a stage's name could stand."""


class LearnedModel:
    """What open companions that learn one value model have in common: its state, and its export."""

    def __init__(self, model: ValueModel) -> None:
        self._model = model

    def state(self) -> LearnerState:
        """Weights, moments, counters."""
        return self._model.state()

    def load_state(self, state: LearnerState) -> None:
        """Restores `state` bit for bit."""
        self._model.load_state(state)

    def save(self, folder: Path) -> None:
        """Writes the model, which `model_from` of a later stage's companion can name."""
        masters = self._model.model.masters
        assert masters is not None
        save_policy(self._model.model, folder, masters)


def open_scalar_model(
    start: CompanionStart, model: ModelSource | None, model_from: str, *, for_training: bool = True
) -> Policy:
    """A model with a scalar head, apart from the policy.

    Args:
        model: its configuration; the recipe's when None.
        model_from: `policy`, a copy of the policy's weights under a new head; else what `CompanionStart.weights`
            takes: a stage's model, which brings its head where it has one. With a configuration of its own and
            `base`, that configuration's weights.
    """
    if model_from == POLICY:
        if model is not None:
            raise ValueError("model must be null where model_from is 'policy', whose weights are copied")
        return scalar_model(start.policy, for_training=for_training)
    source, folder = model or start.model, start.weights(model_from)
    if folder is not None and _has_head(folder):
        dtype: Dtype = "float32" if start.policy.module.dtype == torch.float32 else "bfloat16"
        return load_scalar_model(folder, dtype=dtype, for_training=for_training)
    return scalar_model(source.load(folder, for_training=for_training, seed=start.seed), for_training=for_training)


def _has_head(folder: Path) -> bool:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return any(str(name).endswith("ForSequenceClassification") for name in config.get("architectures") or ())
