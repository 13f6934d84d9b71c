"""What the model that training started from makes of a response: a bonus for what it finds likely."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from thinkrl.rewards.term import RewardContext, RewardTerm, Scores
from thinkrl.rollouts.ragged import Ragged
from thinkrl.rollouts.signals import Signal
from thinkrl.rollouts.spans import token_range
from thinkrl.rollouts.store import Rollouts

BASE_LOGPROBS = Signal(
    "base_logprobs", "log-probability of each token under the model that training started from, in nats", "token"
)
"""What a companion with the frozen model supplies."""


@dataclass(frozen=True)
class BaseLikelihood(RewardTerm):
    """By `form` (Flow of Reasoning, arXiv 2406.05673, released code), with steps being the lines of a response:

    inverse: sum over steps k of -1 / min(log p(step_k), -least);
    mean: exp(mean over tokens of log p)^(1 / temperature).

    Tokens that were given count in neither; a step of such tokens alone is none. A response without a sampled token has
    0 steps, and a mean of 0. -1 / log p grows without bound where the model is sure, so it stops at 1 / least.
    """

    form: Literal["inverse", "mean"] = "inverse"
    """Which."""
    temperature: float = 0.7
    """Of the mean."""
    least: float = 1e-3
    """Nats that a step is at least surprising by."""

    def __post_init__(self) -> None:
        for name in ("temperature", "least"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")

    def signals(self) -> tuple[Signal, ...]:
        """The frozen model's log-probabilities."""
        return (BASE_LOGPROBS,)

    def score(self, rollouts: Rollouts, context: RewardContext) -> Scores:
        """One value per response."""
        logprobs = context.signals[BASE_LOGPROBS.name]
        if self.form == "mean":
            values = [self._mean(logprobs, rollouts, row) for row in range(len(rollouts))]
        else:
            values = [self._inverse(logprobs, rollouts, row) for row in range(len(rollouts))]
        return Scores(np.asarray(values, dtype=np.float64))

    def _mean(self, logprobs: Ragged, rollouts: Rollouts, row: int) -> float:
        own = np.asarray(logprobs[row], dtype=np.float64)[rollouts.origins[row] == 1]
        return float(np.exp(np.mean(own) / self.temperature)) if len(own) else 0.0

    def _inverse(self, logprobs: Ragged, rollouts: Rollouts, row: int) -> float:
        known = np.asarray(logprobs[row], dtype=np.float64)
        sampled = rollouts.origins[row] == 1
        total = 0.0
        for first, stop in line_tokens(rollouts.texts[row], rollouts.char_ends[row]):
            if sampled[first:stop].any():
                step = float(np.sum(known[first:stop][sampled[first:stop]]))
                total += -1.0 / min(step, -self.least)
        return total


@dataclass(frozen=True)
class StepCount(RewardTerm):
    """The number of lines that hold anything; the bonus of a reward that does not weigh likelihood."""

    reads_tokens: ClassVar[bool] = False

    def score(self, rollouts: Rollouts, context: RewardContext) -> Scores:
        """One value per response."""
        counts = [sum(bool(line.strip()) for line in text.splitlines()) for text in rollouts.texts]
        return Scores(np.asarray(counts, dtype=np.float64))


def line_tokens(text: str, char_ends: NDArray[np.int32]) -> list[tuple[int, int]]:
    """First token and the one after the last of each line that holds anything; a line's end belongs to it, and what
    stands behind the text (a stop token) to the last."""
    ranges: list[tuple[int, int]] = []
    begin = 0
    for line in text.splitlines(keepends=True):
        if line.strip():
            ranges.append(token_range(char_ends, begin, begin + len(line)))
        begin += len(line)
    if ranges:
        ranges[-1] = (ranges[-1][0], max(ranges[-1][1], len(char_ends)))
    return ranges
