"""Where the steps of a thinking begin."""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from thinkrl.rollouts.spans import read_response, token_range
from thinkrl.rollouts.store import Response

_SENTENCE_ENDS = ".!?\n"

TRIGGER_WORDS = (
    *(
        form
        for word in ("wait", "but", "alternatively", "however", "hmm")
        for form in (word, word.title(), word.upper())
    ),
    "Let me double-check", "But wait", "Hold on", "Looking back", "Seems solid", "Similarly", "That's correct, but",
    "That seems right", "Wait, but", "So",
)  # fmt: skip
"""What begins a step where thinking turns back on itself, or draws a conclusion (arXiv 2508.10293's code)."""


class StepSplitter(Protocol):
    """A frozen dataclass that cuts thinking into steps."""

    def starts(self, text: str) -> list[int]:
        """The characters of `text`, rising, at which a step begins; what stands before the first is no step."""
        ...


@dataclass(frozen=True)
class TriggerWordSteps:
    """A step begins with the sentence in which one of `words` stands, as VSRM splits thinking (arXiv 2508.10293).

    A word within the first `first_after` characters of the thinking, or fewer than `apart` after the last step began,
    begins none. A step begins right after the sentence end (. ! ? or a new line) before its word, or at the word where
    the thinking has none before it. Words are found wherever they stand, inside others too.
    """

    words: tuple[str, ...] = TRIGGER_WORDS
    """Texts that begin a step; of several that begin at one place the longest is read."""
    first_after: int = 1000
    """Characters of the thinking that restate the question, and have no step."""
    apart: int = 400
    """Least characters between the beginning of a step and the next one's word."""
    prefix: str = ""
    """What the prompt already wrote of the response, such as `<think>`."""

    def __post_init__(self) -> None:
        if not self.words or not all(self.words):
            raise ValueError(f"words must be texts, at least one, got {list(self.words)}")
        for name in ("first_after", "apart"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")

    def starts(self, text: str) -> list[int]:
        """See `StepSplitter`; thinking that does not end is read to its end."""
        whole = self.prefix + text
        think = read_response(whole).think
        if think is None:
            return []
        thinking, last = whole[slice(*think)], None
        starts = set()
        for found in self._pattern.finditer(thinking):
            if found.start() < self.first_after or (last is not None and found.start() - last < self.apart):
                continue
            ends = [thinking.rfind(mark, 0, found.start()) for mark in _SENTENCE_ENDS]
            last = max(ends) + 1 if max(ends) >= 0 else found.start()
            starts.add(max(0, think[0] + last - len(self.prefix)))
        return sorted(starts)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile("|".join(re.escape(word) for word in sorted(self.words, key=len, reverse=True)))


def first_tokens(response: Response, starts: list[int]) -> list[int]:
    """The token that writes each of those characters of a response's text."""
    return [token_range(response.char_ends, start, start + 1)[0] for start in starts]
