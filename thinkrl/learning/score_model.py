"""A reward model: one score for a whole text, read at its last token."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thinkrl.algorithms.score_loss import ScoreLoss
from thinkrl.algorithms.types import LossOutputs, SumCount, UpdateReport
from thinkrl.learning.packing import Path
from thinkrl.learning.value_model import ValueModel

Texts = Sequence[NDArray[np.int32]]
"""Token ids of each text, at least one."""


def score_texts(model: ValueModel, texts: Texts) -> NDArray[np.float64]:
    """The score of each text, [n]."""
    return model.read(_paths(texts), len(texts)).astype(np.float64)


def learn_scores(model: ValueModel, texts: Texts, worth: NDArray[np.float64], loss: ScoreLoss) -> UpdateReport:
    """One optimizer step on the mean loss of the texts, or of pairs of them, which stand in turn.

    The report's metric `accuracy` is that before the step.
    """
    targets = torch.from_numpy(worth.astype(np.float32))

    def mean(values: Tensor, columns: NDArray[np.int64]) -> LossOutputs:
        own = targets[torch.from_numpy(columns)].to(values.device)
        losses, correct = loss.losses(values, own), loss.correct(values.detach(), own)
        count = float(len(losses))
        return LossOutputs(SumCount(losses.sum(), count), {"accuracy": SumCount(correct.sum(), count)})

    return model.learn(_paths(texts), mean, joint=loss.in_pairs)


def _paths(texts: Texts) -> list[Path]:
    return [
        Path(
            token_ids=ids,
            sources=np.asarray([len(ids) - 1], dtype=np.int64),
            targets=ids[-1:],  # no token is predicted
            columns=np.asarray([column], dtype=np.int64),
            key=ids.astype(np.int64),
        )
        for column, ids in enumerate(texts)
    ]
