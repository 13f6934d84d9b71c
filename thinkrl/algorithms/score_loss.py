"""What a reward model is trained to minimise, and how good it is: pure functions of its scores."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


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

    def losses(self, scores: Numbers, worth: Numbers) -> tuple[Numbers, Numbers]:
        """Losses [n], or [n / 2] of pairs whose better and worse response stand in turn; and their slopes in s, [n]."""
        if self.kind == "squared":
            return (scores - worth) ** 2, 2 * (scores - worth)
        if self.kind == "cross_entropy":
            return np.logaddexp(0.0, scores) - worth * scores, _sigmoid(scores) - worth
        gaps = scores[0::2] - scores[1::2]
        slopes = np.empty_like(scores)
        slopes[0::2], slopes[1::2] = -_sigmoid(-gaps), _sigmoid(-gaps)
        return np.logaddexp(0.0, -gaps), slopes

    def correct(self, scores: Numbers, worth: Numbers) -> Numbers:
        """Whether a response is judged rightly, [n], or a pair, [n / 2]; 1/2 where a score says neither."""
        if self.in_pairs:
            return _above(scores[0::2] - scores[1::2])
        said = _above(scores - (0.5 if self.kind == "squared" else 0.0))
        return np.where(worth > 0.5, said, 1.0 - said)


def area_under_curve(scores: Numbers, right: NDArray[np.bool_]) -> float:
    """Chance that a right response has a higher score than a wrong one, equal scores half; NaN without either."""
    above, below = scores[right], scores[~right]
    if not len(above) or not len(below):
        return float("nan")
    ordered = np.sort(below)
    less, no_more = np.searchsorted(ordered, above, "left"), np.searchsorted(ordered, above, "right")
    return float(np.mean((less + no_more) / (2 * len(below))))


def _above(values: Numbers) -> Numbers:
    return 0.5 * (1.0 + np.sign(values))


def _sigmoid(values: Numbers) -> Numbers:
    return 0.5 * (1.0 + np.tanh(0.5 * values))
