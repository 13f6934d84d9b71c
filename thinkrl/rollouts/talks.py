"""What passes between the policy, a simulated user, and the environment in which the two talk."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from thinkrl.rollouts.prompt import Message, Prompt


@dataclass(frozen=True)
class Talk:
    """A conversation as its user knows it: what it reacts to depends on this alone, so none can be mixed up.

    talk_id: unique in a batch. prompt: the scenario; its reference and metadata are the user's and hidden from the
    policy. turns: user and assistant alternate, from the user's first words on; thinking is left out. score: of the
    user's emotion, and level: that score in a letter. analysis: what the user made of the last reply. key: seed of what
    the user draws. calls_left: of models, that the user may make for this conversation.
    """

    talk_id: str
    prompt: Prompt
    turns: tuple[Message, ...]
    score: float
    level: str
    analysis: str = ""
    key: int = 0
    calls_left: int = 0

    @property
    def reply(self) -> str:
        """What the policy said last."""
        return next((turn.content for turn in reversed(self.turns) if turn.role == "assistant"), "")


@dataclass(frozen=True)
class Feeling:
    """By how much a reply changes the score of the user's emotion, or the fault for which that is not known.

    analysis: why, in words; the user reads it when it answers. calls: of models, that it took.
    """

    change: float = math.nan
    analysis: str = ""
    fault: str = ""
    calls: int = 0

    def __post_init__(self) -> None:
        if not self.fault and not math.isfinite(self.change):
            raise ValueError(f"change must be a number where there is no fault, got {self.change}")


@dataclass(frozen=True)
class Words:
    """What a user says, or the fault for which it says nothing. calls: of models, that it took."""

    text: str = ""
    fault: str = ""
    calls: int = 0


@dataclass(frozen=True)
class EmotionScale:
    """The score of a user's emotion: e' = min(e + clip(change), top), and what it is called (arXiv 2507.03112).

    The defaults are those of RLVER's training. SAGE, which evaluates, starts at 40, clips changes to 10, and ends below
    10 (`ends_at` 9) and at 100 (`content_at`).
    """

    start: float = 30.0
    """Score before the first reply."""
    top: float = 100.0
    """Highest score."""
    largest_change: float | None = None
    """Most that one reply changes, either way; null takes any change."""
    ends_at: float = 0.0
    """The user leaves at this score or below."""
    content_at: float | None = None
    """The user leaves, content, at this score or above; null waits for its goodbye."""
    levels: Mapping[str, float] = field(default_factory=lambda: {"S": 100.0, "A": 70.0, "B": 40.0, "C": 10.0})
    """Least score of each level, falling."""
    lowest: str = "F"
    """The level below all others."""

    def __post_init__(self) -> None:
        if not self.ends_at < self.start < self.top:
            raise ValueError(f"start must be above ends_at {self.ends_at} and below top {self.top}, got {self.start}")
        if self.largest_change is not None and not self.largest_change > 0:
            raise ValueError(f"largest_change must be above 0, got {self.largest_change}")
        if self.content_at is not None and not self.content_at > self.start:
            raise ValueError(f"content_at must be above start {self.start}, got {self.content_at}")
        if list(self.levels.values()) != sorted(self.levels.values(), reverse=True):
            raise ValueError(f"levels must fall, got {dict(self.levels)}")

    def after(self, score: float, change: float) -> float:
        """The score after a change."""
        if self.largest_change is not None:
            change = min(max(change, -self.largest_change), self.largest_change)
        return min(score + change, self.top)

    def over(self, score: float) -> bool:
        """Whether the user leaves at this score."""
        return score <= self.ends_at or (self.content_at is not None and score >= self.content_at)

    def level(self, score: float) -> str:
        """The letter of a score."""
        return next((name for name, least in self.levels.items() if score >= least), self.lowest)
