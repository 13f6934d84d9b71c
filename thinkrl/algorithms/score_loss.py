"""What a reward model is trained to minimise, and how good it is: pure functions of its scores."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid


@dataclass(frozen=True)
class ScoreLoss:
    """A loss on scores s, a mean over responses of worth y in [0, 1], or over pairs of a better w and a worse l.

    cross_entropy: -y log sigmoid(s) - (1 - y) log sigmoid(-s), so that s are log-odds;
    squared: (s - y)^2 (arXiv 2505.22653);
    bradley_terry: -log sigmoid(s_w - s_l) (arXiv 1706.03741, eq. 1), so that scores say only which is better.
    """

    kind: Literal["cross_entropy", "squared", "bradley_terry"] = "cross_entropy"
    """Which."""

    @property
    def in_pairs(self) -> bool:
        """Whether two responses to a prompt are compared."""
        return self.kind == "bradley_terry"

    def losses(self, scores: Tensor, worth: Tensor) -> Tensor:
        """Losses of responses [n], or of pairs, whose better and worse response stand in turn, [n / 2]."""
        if self.kind == "squared":
            return (scores - worth) ** 2
        if self.kind == "cross_entropy":
            return binary_cross_entropy_with_logits(scores, worth, reduction="none")
        return -logsigmoid(scores[0::2] - scores[1::2])

    def correct(self, scores: Tensor, worth: Tensor) -> Tensor:
        """1 for a response, or a pair, that is judged rightly, 1/2 where the scores say neither, else 0."""
        if self.in_pairs:
            return _positive(scores[0::2] - scores[1::2])
        said = _positive(scores - (0.5 if self.kind == "squared" else 0.0))
        return torch.where(worth > 0.5, said, 1.0 - said)


def area_under_curve(scores: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Chance that a right response has a higher score than a wrong one, equal scores half; NaN without either."""
    above, below = scores[right], scores[~right]
    if not len(above) or not len(below):
        return float("nan")
    ordered = np.sort(below)
    less, no_more = np.searchsorted(ordered, above, "left"), np.searchsorted(ordered, above, "right")
    return float(np.mean((less + no_more) / (2 * len(below))))


def _positive(values: Tensor) -> Tensor:
    return 0.5 * (1.0 + values.sign())
