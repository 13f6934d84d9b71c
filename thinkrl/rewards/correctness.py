"""Is the answer right?"""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from thinkrl.grading.extraction import AnswerExtractor
from thinkrl.grading.grader import Grader
from thinkrl.grading.verdict import Verdict
from thinkrl.rewards.term import RewardContext, RewardTerm, Scores
from thinkrl.rollouts.store import Rollouts


@dataclass(frozen=True)
class Correctness(RewardTerm):
    """The grader's verdict on the extracted answer against `Prompt.reference`, as a number.

    A response without an answer is wrong. Ungradable references give NaN.
    """

    reads_tokens: ClassVar[bool] = False

    grader: Grader
    """Compares an answer with the reference."""
    extractor: AnswerExtractor = field(default_factory=AnswerExtractor)
    """Finds the answer in the response."""
    correct: float = 1.0
    """Value of a correct answer."""
    wrong: float = 0.0
    """Value of a wrong, missing or unreadable answer."""
    timeout: float = 0.0
    """Value where checking was stopped; NaN leaves the response out."""

    def __post_init__(self) -> None:
        if not self.correct > self.wrong:
            raise ValueError(f"correct must be above wrong, got {self.correct} and {self.wrong}")

    def score(self, rollouts: Rollouts, context: RewardContext) -> Scores:
        """One verdict per response, in row order."""
        answers = [self.extractor.extract(text) for text in rollouts.texts]
        references = [rollouts.prompt(row).reference for row in range(len(rollouts))]
        grades = self.grader.grade_all(answers, references)
        worth = {
            Verdict.CORRECT: self.correct,
            Verdict.WRONG: self.wrong,
            Verdict.TIMEOUT: self.timeout,
            Verdict.UNGRADABLE: math.nan,
        }
        return Scores(
            values=np.asarray([worth[grade.verdict] for grade in grades], dtype=np.float64),
            verdicts=tuple(grade.verdict for grade in grades),
            notes=tuple(grade.note for grade in grades),
        )


@dataclass(frozen=True)
class AnswerFound(RewardTerm):
    """1 where the extractor finds an answer, right or wrong, else 0; as a gate, it keeps what has no answer unpaid."""

    reads_tokens: ClassVar[bool] = False

    extractor: AnswerExtractor = field(default_factory=AnswerExtractor)
    """Finds the answer in the response."""

    def score(self, rollouts: Rollouts, context: RewardContext) -> Scores:
        """0 or 1 per response."""
        found = [self.extractor.extract(text) is not None for text in rollouts.texts]
        return Scores(np.asarray(found, dtype=np.float64), notes=tuple("" if one else "no answer" for one in found))
