"""One outcome of answer and format: right, wrong, or out of format whatever the answer."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from thinkrl.grading.text import boxed
from thinkrl.rewards.term import RewardContext, RewardTerm, Scores
from thinkrl.rollouts.signals import Signal, reads_tokens, signals_of
from thinkrl.rollouts.store import Rollouts


@dataclass(frozen=True)
class InFormat(RewardTerm):
    """The value of `outcome`, or `malformed` where `format` gives less than 1: a right answer out of format too.

    Verdicts are those of the outcome, whatever the format.
    """

    outcome: RewardTerm
    """Judges the answer."""
    format: RewardTerm
    """Judges the form, 1 where it is in order."""
    malformed: float = -1.0
    """Value of a response out of format."""

    @property
    def reads_tokens(self) -> bool:
        """Whether either part counts tokens."""
        return reads_tokens(self.outcome) or reads_tokens(self.format)

    def signals(self) -> tuple[Signal, ...]:
        """What either part reads of models."""
        return (*signals_of(self.outcome), *signals_of(self.format))

    def score(self, rollouts: Rollouts, context: RewardContext) -> Scores:
        """One value per response; the notes are those of both parts."""
        outcome, form = self.outcome.score(rollouts, context), self.format.score(rollouts, context)
        nothing = ("",) * len(rollouts)
        notes = zip(outcome.notes or nothing, form.notes or nothing, strict=True)
        return replace(
            outcome,
            values=np.where(form.values < 1.0, self.malformed, outcome.values),
            notes=tuple("; ".join(part for part in pair if part) for pair in notes),
        )


@dataclass(frozen=True)
class ThinkBoxFormat(RewardTerm):
    r"""1 where `<think>`, `</think>` and a closed `\boxed{}` all stand somewhere in prompt and response, else 0."""

    reads_tokens: ClassVar[bool] = False

    prefix: str = ""
    r"""What the prompt already wrote of the response, such as `<think>\n` from a chat template."""

    def score(self, rollouts: Rollouts, context: RewardContext) -> Scores:
        """0 or 1 per response; the note names what is missing."""
        notes = [self._missing(self.prefix + text) for text in rollouts.texts]
        return Scores(np.asarray([0.0 if note else 1.0 for note in notes]), notes=tuple(notes))

    def _missing(self, text: str) -> str:
        missing = [f"no {tag}" for tag in ("<think>", "</think>") if tag not in text]
        boxes = boxed(text)
        if all(box is None for box in boxes):
            missing.append("no box that closes" if boxes else "no box")
        return "; ".join(missing)


@dataclass(frozen=True)
class SaidOnce(RewardTerm):
    """1 where `text` stands exactly once in prompt and response, else 0."""

    reads_tokens: ClassVar[bool] = False

    text: str = "</think>"
    """What must stand once."""
    prefix: str = ""
    """What the prompt already wrote of the response."""

    def __post_init__(self) -> None:
        if not self.text:
            raise ValueError("text must not be empty, got ''")

    def score(self, rollouts: Rollouts, context: RewardContext) -> Scores:
        """0 or 1 per response; the note says how often it stands there."""
        counts = [(self.prefix + text).count(self.text) for text in rollouts.texts]
        notes = ["" if count == 1 else f"{self.text} {count} times" for count in counts]
        return Scores(np.asarray([float(count == 1) for count in counts]), notes=tuple(notes))
