"""What a policy should write when it works in turns, before anything has answered."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from thinkrl.rollouts.prompt import Prompt


@dataclass(frozen=True)
class Demonstration:
    """The policy's turns on one prompt, each but the last ending with a call of a tool.

    expected: what is to be said after each turn but the last, None where it may be anything; a demonstration whose
    next turn goes on from a number must know that the number came.
    """

    prompt: Prompt
    turns: tuple[str, ...]
    expected: tuple[str | None, ...] = ()

    def __post_init__(self) -> None:
        if not self.turns:
            raise ValueError(f"turns must hold at least one, got none for prompt {self.prompt.prompt_id}")
        if len(self.expected) not in (0, len(self.turns) - 1):
            raise ValueError(f"expected must have one entry for each turn but the last, got {len(self.expected)}")


class DemonstrationSource(Protocol):
    """A frozen dataclass that yields the same demonstrations, in the same order, each time it is asked."""

    def demonstrations(self) -> Sequence[Demonstration]:
        """All demonstrations. Raises DataError when there are none or they cannot be made."""
        ...
