"""How long is the response, and how long its thinking?"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from thinkrl.rewards.term import RewardContext, RewardTerm, Scores
from thinkrl.rollouts.spans import read_response, token_range
from thinkrl.rollouts.store import Rollouts


def thinking_lengths(rollouts: Rollouts, prefix: str = "") -> NDArray[np.int64]:
    """Tokens between the thinking tags of each response, [n]; 0 without thinking."""
    lengths = np.zeros(len(rollouts), dtype=np.int64)
    for row, text in enumerate(rollouts.texts):
        think = read_response(text, prefix).think
        if think is not None:
            first, stop = token_range(rollouts.char_ends[row], *think)
            lengths[row] = stop - first
    return lengths


@dataclass(frozen=True)
class LengthPenalty(RewardTerm):
    """0 up to `free_tokens`, then -(tokens - free) / (cap - free), and -1 from `cap_tokens` on.

    DAPO's soft overlong punishment (arXiv 2503.14476, eq. 13), with cap = L_max and
    free = L_max - L_cache. Counts sampled tokens.
    """

    free_tokens: int
    """Length up to which nothing is taken."""
    cap_tokens: int
    """Length from which all is taken."""

    def __post_init__(self) -> None:
        if not 0 <= self.free_tokens < self.cap_tokens:
            raise ValueError(f"free_tokens must be in [0, cap_tokens), got {self.free_tokens} and {self.cap_tokens}")

    def score(self, rollouts: Rollouts, context: RewardContext) -> Scores:
        """A value in [-1, 0] per response."""
        over = (rollouts.sampled_counts - self.free_tokens) / (self.cap_tokens - self.free_tokens)
        return Scores(-np.clip(over.astype(np.float64), 0.0, 1.0))


@dataclass(frozen=True)
class TargetDistance(RewardTerm):
    """|L - L_T| in sampled tokens. With the weight -a beside correctness it is L1-Exact (arXiv 2503.04697, eq. 1)."""

    target_tokens: int
    """L_T."""

    def __post_init__(self) -> None:
        if self.target_tokens < 1:
            raise ValueError(f"target_tokens must be at least 1, got {self.target_tokens}")

    def score(self, rollouts: Rollouts, context: RewardContext) -> Scores:
        """A value of 0 or more per response."""
        return Scores(np.abs(rollouts.sampled_counts - self.target_tokens).astype(np.float64))


@dataclass(frozen=True)
class BudgetMargin(RewardTerm):
    """clip(a (L_T - L) + delta, 0, 1), L in sampled tokens: the length factor of L1-Max (arXiv 2503.04697, eq. 2)."""

    target_tokens: int
    """L_T."""
    slope: float = 0.01
    """a, per token."""
    at_target: float = 0.5
    """delta, the value at the target."""

    def __post_init__(self) -> None:
        if self.target_tokens < 1:
            raise ValueError(f"target_tokens must be at least 1, got {self.target_tokens}")
        if not self.slope > 0.0:
            raise ValueError(f"slope must be above 0, got {self.slope}")

    def score(self, rollouts: Rollouts, context: RewardContext) -> Scores:
        """A value in [0, 1] per response."""
        left = (self.target_tokens - rollouts.sampled_counts).astype(np.float64)
        return Scores(np.clip(self.slope * left + self.at_target, 0.0, 1.0))


@dataclass(frozen=True)
class ThinkingLength(RewardTerm):
    """How near the thinking is to a target length, in [0, 1].

    target: max(0, 1 - |tokens - target| / target). cap: 1 up to the target, then falling as above.
    No thinking gives 0 in both.
    """

    target_tokens: int
    """Tokens between the tags that are wanted, or allowed."""
    mode: Literal["target", "cap"] = "target"
    """Whether to come near the target from both sides, or only to stay under it."""
    prefix: str = ""
    """What the prompt already wrote of the response, such as `<think>`."""

    def __post_init__(self) -> None:
        if self.target_tokens < 1:
            raise ValueError(f"target_tokens must be at least 1, got {self.target_tokens}")

    def score(self, rollouts: Rollouts, context: RewardContext) -> Scores:
        """A value in [0, 1] per response."""
        lengths = thinking_lengths(rollouts, self.prefix).astype(np.float64)
        off = lengths - self.target_tokens
        off = np.abs(off) if self.mode == "target" else np.maximum(off, 0.0)
        return Scores(np.where(lengths > 0, np.maximum(0.0, 1.0 - off / self.target_tokens), 0.0))
