"""What a component declares that it reads beside the texts: values that models supply, and tokens."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Signal:
    """A value that a model supplies for each response.

    number: float64 [n], NaN where the model has none. token: a Ragged aligned with `Rollouts.token_ids`.
    list: a Ragged of its own lengths, such as one value a step. json: a list [n] of JSON values.
    """

    name: str
    """Its key in `RewardContext.signals`."""
    meaning: str
    """What it is, with its unit or range, in a line."""
    shape: Literal["number", "token", "list", "json"] = "number"
    """What there is for one response: a number, a number a token, a list of numbers, or any JSON value."""


LOGPROBS = Signal("logprobs", "log-probability of each token under the policy that sampled it, in nats", "token")
"""The column `Rollouts.logprobs`, for a component to declare."""
ENTROPIES = Signal("entropies", "entropy of the distribution each token was drawn from, in nats", "token")
"""The column `Rollouts.entropies`, for a component to declare."""
CUT = Signal(
    "cut",
    "where the response leaves a thinking that it shares: an object with thinking (an id), budget (tokens that the"
    " thinking was allowed) and kept (tokens of the response before the cut)",
    "json",
)
"""The column `Rollouts.cuts`, for a component to declare."""
EPISODE = Signal(
    "episode",
    "how the episode went that the response is, or is a turn of: an object with episode (an id), scores (before the"
    " first turn and after each), and perhaps turn (which turn the response is, from 0) and fault (why there is no"
    " score)",
    "json",
)
"""The column `Rollouts.episodes`, for a component to declare."""
ROLLOUT_SIGNALS = {signal.name: signal for signal in (LOGPROBS, ENTROPIES, CUT, EPISODE)}
"""Signals that sampler and environment supply: columns of the rollouts, and not in `RewardContext.signals`."""


def signals_of(part: object) -> tuple[Signal, ...]:
    """The signals that a term, a shaping or an estimator declares."""
    declare = getattr(part, "signals", None)
    return tuple(declare()) if callable(declare) else ()


def reads_tokens(part: object) -> bool:
    """Whether a term, a shaping or an estimator counts or locates tokens, as far as it says."""
    return bool(getattr(part, "reads_tokens", True))
