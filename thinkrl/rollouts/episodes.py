"""What an environment that keeps score says of a response: how its episode, such as a conversation, went."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

_NEEDED = {"episode", "scores"}
_KNOWN = {*_NEEDED, "turn", "ended", "fault", "calls"}


@dataclass(frozen=True)
class Episode:
    """The course of an episode, whole, beside a response that is all of it or one turn of it.

    episode: its id, unique in a batch; responses that are turns of one episode share it. scores: before the first turn
    of the policy and after each. turn: which turn the response is, from 0; None where it holds all turns. ended: why
    there were no more, in a word. fault: why there is no score, such as a simulated user that failed; empty where there
    is one. calls: of models, that the episode cost.
    """

    episode: str
    scores: tuple[float, ...]
    turn: int | None = None
    ended: str = ""
    fault: str = ""
    calls: int = 0

    def __post_init__(self) -> None:
        if not self.scores or not all(math.isfinite(score) for score in self.scores):
            raise ValueError(f"scores must be finite numbers, at least one, got {list(self.scores)}")
        if self.turn is not None and not 0 <= self.turn < len(self.scores):
            raise ValueError(f"turn must be from 0 to {len(self.scores) - 1}, got {self.turn}")
        if self.calls < 0:
            raise ValueError(f"calls must be 0 or more, got {self.calls}")

    @property
    def turns(self) -> int:
        """Turns of the policy that were scored."""
        return len(self.scores) - 1

    @property
    def final(self) -> float:
        """The score at the end; NaN where the episode failed."""
        return math.nan if self.fault else self.scores[-1]

    @property
    def at_turn(self) -> float:
        """The score after the response's own turn, the final one where it holds all turns; NaN where there is none."""
        if self.turn is None:
            return self.final
        return self.scores[self.turn + 1] if self.turn + 1 < len(self.scores) else math.nan

    @property
    def changes(self) -> tuple[float, ...]:
        """What each turn that the response holds changed, in order."""
        pairs = [after - before for before, after in pairwise(self.scores)]
        return tuple(pairs if self.turn is None else pairs[self.turn : self.turn + 1])

    def as_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        return {
            "episode": self.episode,
            "scores": list(self.scores),
            "turn": self.turn,
            "ended": self.ended,
            "fault": self.fault,
            "calls": self.calls,
        }

    @classmethod
    def from_json(cls, value: Any) -> "Episode":
        """Raises ValueError for anything but an object with `episode` and `scores`, and perhaps the other fields."""
        if not isinstance(value, dict) or not _NEEDED <= value.keys() <= _KNOWN:
            raise ValueError(
                "must be an object with episode (a text) and scores (numbers: before the first turn and after each),"
                " and perhaps turn, ended, fault and calls"
            )
        scores, turn, calls = value["scores"], value.get("turn"), value.get("calls", 0)
        if not isinstance(value["episode"], str | int) or isinstance(value["episode"], bool):
            raise ValueError("episode must be a text")
        if not isinstance(scores, list) or any(type(score) not in (int, float) for score in scores):
            raise ValueError(f"scores must be a list of numbers, got {scores!r}")
        if type(turn) not in (int, type(None)) or type(calls) is not int:
            raise ValueError("turn and calls must be whole numbers")
        ended, fault = value.get("ended", ""), value.get("fault", "")
        if not isinstance(ended, str) or not isinstance(fault, str):
            raise ValueError("ended and fault must be texts")
        return cls(str(value["episode"]), tuple(float(score) for score in scores), turn, ended, fault, calls)
