"""Does the response keep to `<think>...</think><answer>...</answer>`?"""

from dataclasses import dataclass

import numpy as np

from thinkrl.rewards.term import RewardContext, RewardTerm, Scores
from thinkrl.rollouts.spans import read_response, token_range
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
        parts = read_response(text, self.prefix)
        if not parts.well_formed or parts.think is None or parts.answer is None:
            return "; ".join(parts.problems)
        thinking, answer = text[slice(*parts.think)], text[slice(*parts.answer)].strip()
        if len("".join(thinking.split())) < self.min_thinking_characters:
            return "too little thinking"
        if not answer:
            return "empty answer"
        if self.max_answer_characters is not None and len(answer) > self.max_answer_characters:
            return "answer too long"
        first, stop = token_range(rollouts.char_ends[row], *parts.think)
        if self.max_thinking_tokens is not None and stop - first > self.max_thinking_tokens:
            return "thinking too long"
        return ""
