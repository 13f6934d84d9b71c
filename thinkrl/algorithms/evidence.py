"""Token weights from evidence: how surely a response, read so far, is on its way to a right or a wrong answer."""

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from thinkrl.algorithms.types import NO_SIGNALS, AdvantageEstimator, Advantages, Signals
from thinkrl.rollouts.ragged import Ragged
from thinkrl.rollouts.signals import Signal, reads_tokens, signals_of
from thinkrl.rollouts.store import Rollouts

Values = NDArray[np.float64]

TOKEN_LOGITS = Signal(
    "token_logits", "logit of a token-level reward model at each token, above 0 where it speaks for a right answer",
    "token",
)  # fmt: skip
"""What a token-level reward model supplies."""


class EvidenceForm(Protocol):
    """A frozen dataclass that turns probabilities into weights."""

    def weights(self, p: Values) -> Values:
        """Weights from 0 to 1, [t], of the tokens of one response, from the probability of its outcome at each."""
        ...


@dataclass(frozen=True)
class Margin:
    """w_t = max((p_t - threshold) / (1 - threshold), 0): max(2 p_t - 1, 0) at 0.5 (arXiv 2502.06781)."""

    threshold: float = 0.5
    """Probability at which the weight is 0, below 1."""

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1:
            raise ValueError(f"threshold must be at least 0 and below 1, got {self.threshold}")

    def weights(self, p: Values) -> Values:
        """See `EvidenceForm`."""
        return np.maximum((p - self.threshold) / (1 - self.threshold), 0.0)


@dataclass(frozen=True)
class TopShare:
    """The k tokens with the greatest p_t, k a share of all rounded down, have (p_t - least) / (greatest - least) among
    themselves, and all others 0: the k-th too, unless all k are alike, which then have 1 (arXiv 2502.06781)."""

    share: float = 0.25
    """Share of a response's tokens that is weighed, above 0; at least one is."""

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {self.share}")

    def weights(self, p: Values) -> Values:
        """See `EvidenceForm`."""
        found = np.zeros(len(p))
        if not len(p):
            return found
        top = np.argsort(-p, kind="stable")[: max(1, int(len(p) * self.share))]
        least, greatest = p[top].min(), p[top].max()
        found[top] = (p[top] - least) / (greatest - least) if greatest > least else 1.0
        return found


@dataclass(frozen=True)
class EvidenceWeighted:
    """A_t = A w_t, where w_t follows p_t = sigmoid(m_t), m_t = (1/t) sum_{k<=t} s_k, with s_k the logits of a
    token-level reward model: the probability, read up to token t, that the response is right (arXiv 2502.06781).

    Responses with a reward above 0 are weighed by p_t, all others by 1 - p_t. Given tokens have no part in the means.
    An ignorant model (logits near 0) makes weights near 0 under `Margin`, and so hardly any policy gradient: let it
    learn before the policy does.
    """

    advantage: AdvantageEstimator
    """Makes the advantages A."""
    form: EvidenceForm = Margin()
    """Turns probabilities into weights."""

    @property
    def reads_tokens(self) -> bool:
        """Whether the estimator counts tokens: the logits say how many there are."""
        return reads_tokens(self.advantage)

    def signals(self) -> tuple[Signal, ...]:
        """The logits, and what the estimator reads."""
        return (TOKEN_LOGITS, *signals_of(self.advantage))

    def advantages(
        self,
        totals: NDArray[np.float64],
        rollouts: Rollouts,
        token_rewards: Ragged | None = None,
        signals: Signals = NO_SIGNALS,
    ) -> Advantages:
        """See `AdvantageEstimator`. Raises ValueError for a logit that is no number in a response that is kept."""
        found = self.advantage.advantages(totals, rollouts, token_rewards, signals)
        logits: Ragged = signals[TOKEN_LOGITS.name]
        if not np.array_equal(logits.offsets, rollouts.token_ids.offsets):
            raise ValueError(f"{TOKEN_LOGITS.name} and token_ids differ in row lengths")
        weights = np.full(len(logits.values), np.nan)
        means: dict[str, list[float]] = {"right": [], "wrong": []}
        sampled = rollouts.origins.with_values(rollouts.sampled)
        for row in np.flatnonzero(found.kept).tolist():
            places = logits.offsets[row] + np.flatnonzero(sampled[row])
            own = logits.values[places].astype(np.float64)
            if not np.all(np.isfinite(own)):
                name = rollouts.response_ids[row]
                raise ValueError(f"{TOKEN_LOGITS.name} must be numbers at every sampled token of {name!r}")
            p = right_probabilities(own)
            weights[places] = self.form.weights(p if totals[row] > 0 else 1 - p)
            means["right" if totals[row] > 0 else "wrong"] += weights[places].tolist()
        metrics = {f"evidence/{outcome}_weight": float(np.mean(known)) for outcome, known in means.items() if known}
        values = found.values.with_values(found.values.values * weights)
        return replace(found, values=values, metrics={**found.metrics, **metrics})


def right_probabilities(logits: Values) -> Values:
    """sigmoid of the mean of the logits [t] so far, [t]."""
    means = np.cumsum(logits) / np.arange(1, len(logits) + 1)
    decay = np.exp(-np.abs(means))  # of the absolute value, so that nothing overflows
    return np.where(means >= 0, 1 / (1 + decay), decay / (1 + decay))
