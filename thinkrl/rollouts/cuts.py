"""Where a response leaves a thinking that it shares with other responses."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Cut:
    """A response whose thinking was cut, so that it had to answer; several responses may go on from one thinking.

    thinking: the id of the thinking, unique among the responses of a batch. budget: tokens that it was allowed.
    kept: how many of the response's tokens stand before the cut, all of the thinking where it is no longer than its
    budget. Responses of one thinking with the same `kept` are answers to the same text.
    """

    thinking: str
    budget: int
    kept: int

    def __post_init__(self) -> None:
        for name in ("budget", "kept"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")

    def as_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        return {"thinking": self.thinking, "budget": self.budget, "kept": self.kept}

    @classmethod
    def from_json(cls, value: Any) -> "Cut":
        """Raises ValueError for anything but an object with `thinking`, `budget` and `kept`."""
        wanted = "must be an object with thinking (a text), budget and kept (numbers of tokens, whole)"
        if not isinstance(value, dict) or value.keys() != {"thinking", "budget", "kept"}:
            raise ValueError(wanted)
        numbers = [value["budget"], value["kept"]]
        if not isinstance(value["thinking"], str | int) or any(type(number) is not int for number in numbers):
            raise ValueError(wanted)
        return cls(str(value["thinking"]), *numbers)


def thinking_owners(cuts: Sequence[Cut | None]) -> list[bool]:
    """Which responses hold the thinking itself, [n]; to the others its tokens are given.

    The owner of a thinking is the first response that keeps most of it. A response without a cut owns its own.
    """
    best: dict[str, tuple[int, int]] = {}
    for row, cut in enumerate(cuts):
        if cut is not None and cut.kept > best.get(cut.thinking, (-1, 0))[0]:
            best[cut.thinking] = (cut.kept, row)
    return [cut is None or best[cut.thinking][1] == row for row, cut in enumerate(cuts)]
