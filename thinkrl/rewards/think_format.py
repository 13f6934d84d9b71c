"""Does the response keep to `<think>...</think><answer>...</answer>`?"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from thinkrl.rewards.term import RewardContext, RewardTerm, Scores
from thinkrl.rollouts.spans import Span, read_response, token_range
from thinkrl.rollouts.store import Rollouts


@dataclass(frozen=True)
class ThinkAnswerFormat(RewardTerm):
    """`well_formed` where each tag stands once, in order, with nothing outside, else `malformed`.

    The structure of DeepSeek-R1's format reward (arXiv 2501.12948, section 2.2.2), with limits that
    keep an empty thinking or an endless answer from being paid.
    """

    well_formed: float = 1.0
    """Value of a response in the format and within the limits."""
    malformed: float = 0.0
    """Value of any other response."""
    min_thinking_characters: int = 1
    """Least thinking, in characters other than white space."""
    max_answer_characters: int | None = None
    """Longest answer, in characters."""
    max_thinking_tokens: int | None = None
    """Longest thinking, in tokens."""
    prefix: str = ""
    """What the prompt already wrote of the response, such as `<think>`."""
    several: Literal["refused", "last"] = "refused"
    """Whether tags that stand more than once, and text outside them, break the format, or the last thinking and the
    last answer are all that is looked at: the one must end before the other begins."""

    def __post_init__(self) -> None:
        if self.min_thinking_characters < 0:
            raise ValueError(f"min_thinking_characters must be at least 0, got {self.min_thinking_characters}")
        for name in ("max_answer_characters", "max_thinking_tokens"):
            limit = getattr(self, name)
            if limit is not None and limit < 1:
                raise ValueError(f"{name} must be at least 1, got {limit}")

    @property
    def reads_tokens(self) -> bool:
        """Whether thinking is measured in tokens."""
        return self.max_thinking_tokens is not None

    def score(self, rollouts: Rollouts, context: RewardContext) -> Scores:
        """One value per response; the note names what is not in order."""
        notes = [self._fault(rollouts, row) for row in range(len(rollouts))]
        values = [self.malformed if note else self.well_formed for note in notes]
        return Scores(np.asarray(values, dtype=np.float64), notes=tuple(notes))

    def _fault(self, rollouts: Rollouts, row: int) -> str:
        text = rollouts.texts[row]
        think, answers, problems = self._parts(text)
        if problems or think is None or answers is None:
            return "; ".join(problems)
        thinking, answer = text[slice(*think)], text[slice(*answers)].strip()
        if len("".join(thinking.split())) < self.min_thinking_characters:
            return "too little thinking"
        if not answer:
            return "empty answer"
        if self.max_answer_characters is not None and len(answer) > self.max_answer_characters:
            return "answer too long"
        first, stop = token_range(rollouts.char_ends[row], *think)
        if self.max_thinking_tokens is not None and stop - first > self.max_thinking_tokens:
            return "thinking too long"
        return ""

    def _parts(self, text: str) -> tuple[Span | None, Span | None, tuple[str, ...]]:
        """Thinking and answer, and what is wrong with the tags."""
        if self.several == "refused":
            parts = read_response(text, self.prefix)
            return parts.think, parts.answer, parts.problems
        think, answer = _last(self.prefix + text, "think"), _last(self.prefix + text, "answer")
        if think is None or answer is None:
            missing = [tag for tag, span in (("think", think), ("answer", answer)) if span is None]
            return None, None, tuple(f"no closed <{tag}>" for tag in missing)
        problems = () if think[1] <= answer[0] else ("the answer begins before the thinking ends",)
        return _within(think, len(self.prefix)), _within(answer, len(self.prefix)), problems


def _last(text: str, tag: str) -> Span | None:
    """What stands between the last `</tag>` and the last `<tag>` before it."""
    end = text.rfind(f"</{tag}>")
    start = text.rfind(f"<{tag}>", 0, end) if end >= 0 else -1
    return (start + len(tag) + 2, end) if start >= 0 else None


def _within(span: Span, cut: int) -> Span:
    """The span in a text without its first `cut` characters."""
    return max(0, span[0] - cut), max(0, span[1] - cut)
