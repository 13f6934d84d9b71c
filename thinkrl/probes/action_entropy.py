"""What a reward that knows nothing does to the entropy of one choice: the second-order law, and the exact mean.

The model of an update is pi'(a) ~ pi(a) exp(eta X_a), X_a = (1/G) sum_i A_i [a_i = a] / pi(a), with G actions drawn
from pi and their advantages A_i under rewards of fair coins ("Exploration v.s. Exploitation", arXiv 2512.16912). To
second order the mean entropy changes by -(eta^2 / 2G) E[A^2] Phi(pi): down where pi is even, up where it is skewed.
Laws of first order see nothing, for A knows nothing of a.
"""

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thinkrl.probes.coin_advantages import Deviation, coin_advantages, coin_moment

Values = NDArray[np.float64]


def entropy(probabilities: ArrayLike) -> Values:
    """H = -sum_a p_a ln p_a in nats, over the last axis; an action of probability 0 adds nothing."""
    p = np.asarray(probabilities, dtype=np.float64)
    return np.asarray(-np.sum(p * np.log(np.where(p > 0, p, 1.0)), axis=-1))


def phi(probabilities: ArrayLike, least: float = 1e-6) -> tuple[Values, Values]:
    """Phi = (K - 1)(1 + H) + sum_a (1 - p_a) ln p_a over the last axis, and K, of the actions above `least`.

    What is left is normalised again. Phi is K - 1 for an even choice, 0 for a certain one, below 0 for a skewed one,
    and grows with K: compare it where K is alike.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    kept = p > least
    p = np.where(kept, p, 0.0)
    p = p / p.sum(axis=-1, keepdims=True)
    count = kept.sum(axis=-1).astype(np.float64)
    logs = np.log(np.where(kept, p, 1.0))
    return (count - 1.0) * (1.0 + entropy(p)) + np.sum((1.0 - p) * logs, axis=-1), count


def predicted_entropy_change(probabilities: Sequence[float], eta: float, group_size: int, std: Deviation) -> float:
    """-(eta^2 / 2G) E[A^2] Phi: the mean change of the entropy, in nats, without clipping, up to O(eta^4)."""
    found, _ = phi(probabilities, least=0.0)
    return float(-(eta**2) / (2 * group_size) * coin_moment(2, group_size, std) * found)


def exact_entropy_change(
    probabilities: Sequence[float], eta: float, group_size: int, std: Deviation, clip: float | None = None
) -> float:
    """The mean change of the entropy, in nats, over all K^G groups of actions and all 2^G rewards.

    clip: bounds pi'(a) / pi(a) to [1 - clip, 1 + clip] before what is left is normalised; None does not.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    actions = np.asarray(list(product(range(len(p)), repeat=group_size)))
    chosen = np.eye(len(p))[actions] / p  # [K^G, G, K]
    x = np.einsum("rg,agk->ark", coin_advantages(group_size, std), chosen) / group_size
    new = p * np.exp(eta * x)
    new = new / new.sum(axis=-1, keepdims=True)
    if clip is not None:
        new = p * np.clip(new / p, 1.0 - clip, 1.0 + clip)
        new = new / new.sum(axis=-1, keepdims=True)
    chances = p[actions].prod(axis=-1)
    return float(chances @ (entropy(new) - entropy(p)).mean(axis=-1))
