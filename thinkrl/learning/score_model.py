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


def score_texts(model: ValueModel, texts: Texts) -> NDArray[np.float64]:
    """The score of each text of token ids, [n]."""
    return model.read(_paths(texts), len(texts)).astype(np.float64)


def learn_scores(
    model: ValueModel, texts: Texts, worth: NDArray[np.float64], loss: ScoreLoss
) -> tuple[UpdateReport, float, float]:
    """One optimizer step on a mean over the texts, or over pairs of them; the report, the loss and the accuracy before.

    A pair may fall into two micro-batches, so a first pass reads the scores, from which the loss and its slopes follow,
    and in the second each score is weighed by its slope: the gradient is exact.
    """
    scores = score_texts(model, texts)
    losses, slopes = loss.losses(scores, worth)
    weights = torch.from_numpy(slopes.astype(np.float32))

    def weighed(values: Tensor, columns: NDArray[np.int64]) -> LossOutputs:
        total = (values * weights[torch.from_numpy(columns)].to(values.device)).sum()
        return LossOutputs(SumCount(total, len(columns) * len(losses) / len(texts)))

    report = model.learn(_paths(texts), weighed)
    return report, float(np.mean(losses)), float(np.mean(loss.correct(scores, worth)))


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
