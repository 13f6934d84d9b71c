"""What every grader does: an answer and a reference in, a grade out."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from thinkrl.grading.verdict import Grade, Verdict


class Grader(ABC):
    """A frozen dataclass whose fields say what counts as equal.

    An answer that is missing or cannot be read is WRONG and the note says why; a reference that
    cannot be read is UNGRADABLE, whatever the answer. Graders are symmetric unless they say so.
    """

    @abstractmethod
    def grade(self, response_answer: str | None, reference: Any) -> Grade:
        """Compares one answer with its reference."""

    def grade_all(self, answers: Sequence[str | None], references: Sequence[Any]) -> list[Grade]:
        """Compares answers with references, pair by pair, in order."""
        return [self.grade(answer, reference) for answer, reference in zip(answers, references, strict=True)]


def wrong(note: str = "") -> Grade:
    """WRONG, with the reason."""
    return Grade(Verdict.WRONG, note)


def ungradable(note: str) -> Grade:
    """UNGRADABLE, with the reason."""
    return Grade(Verdict.UNGRADABLE, note)


def judged(equal: bool, note: str = "") -> Grade:
    """CORRECT or WRONG."""
    return Grade(Verdict.CORRECT if equal else Verdict.WRONG, note)
