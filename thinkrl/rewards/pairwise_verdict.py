"""Is the verdict between two responses right, and does the judgement have the form that was asked for?"""

import math
import re
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from thinkrl.grading.verdict import Verdict
from thinkrl.rewards.term import RewardContext, RewardTerm, Scores
from thinkrl.rollouts.store import Rollouts

_SIDES = {"A": ("A", "B"), "B": ("B", "A"), "model_a": ("A", "B"), "model_b": ("B", "A")}
"""The right verdict and the other one, by what references say."""
_STRUCTURES = tuple(
    re.compile(rf"\s*<type>\s*{kind}\s*</type>\s*<{own}>.+</{own}>\s*<eval>.+</eval>\s*<answer>[^<]*</answer>\s*", re.S)
    for kind, own in (("Reasoning", "solution"), ("Chat", "rubric"))
)


@dataclass(frozen=True)
class VerdictAtEnd(RewardTerm):
    """value = 1 where the last 80 characters hold the right verdict and not the other, else -1.

    So no verdict, both, one with spaces inside, or one that is followed by too much text is wrong (RM-R1, arXiv
    2505.02387). The reference is A or B (model_a or model_b); anything else is ungradable.
    """

    reads_tokens: ClassVar[bool] = False

    block: str = "<answer>[[{verdict}]]</answer>"
    """How a verdict is written: {verdict} is A or B."""
    tail: int = 80
    """Characters at the end that are read."""
    right: float = 1.0
    """Value of a right verdict."""
    wrong: float = -1.0
    """Value of anything else."""

    def __post_init__(self) -> None:
        if "{verdict}" not in self.block:
            raise ValueError(f"block must contain {{verdict}}, got {self.block!r}")
        if self.tail < len(self.block) - len("{verdict}") + 1:
            raise ValueError(f"tail must hold a verdict such as {self.block!r}, got {self.tail} characters")
        if not self.right > self.wrong:
            raise ValueError(f"right must be above wrong, got {self.right} and {self.wrong}")

    def score(self, rollouts: Rollouts, context: RewardContext) -> Scores:
        """One value and verdict per response; the note says what the end holds."""
        judged = [self._judge(text, rollouts.prompt(row).reference) for row, text in enumerate(rollouts.texts)]
        worth = {Verdict.CORRECT: self.right, Verdict.WRONG: self.wrong, Verdict.UNGRADABLE: math.nan}
        return Scores(
            np.asarray([worth[verdict] for verdict, _ in judged], dtype=np.float64),
            tuple(verdict for verdict, _ in judged),
            tuple(note for _, note in judged),
        )

    def _judge(self, text: str, reference: Any) -> tuple[Verdict, str]:
        sides = _SIDES.get(reference) if isinstance(reference, str) else None
        if sides is None:
            return Verdict.UNGRADABLE, f"the reference must be A or B, got {reference!r}"
        end = text[-self.tail :]
        right, other = (self.block.replace("{verdict}", side) in end for side in sides)
        if right and not other:
            return Verdict.CORRECT, ""
        note = "both verdicts" if right else f"verdict {sides[1]} for {sides[0]}" if other else "no verdict"
        return Verdict.WRONG, f"{note} in the last {self.tail} characters"


@dataclass(frozen=True)
class JudgingStructure(RewardTerm):
    """1 where the judgement names its type, then solves (Reasoning) or lists criteria (Chat), evaluates and answers.

    The tags are RM-R1's: type, solution or rubric, eval, answer, in this order, with nothing outside. A form of reward
    for its ablation without distillation, which pays 0 or 1 for the form beside the verdict.
    """

    reads_tokens: ClassVar[bool] = False

    def score(self, rollouts: Rollouts, context: RewardContext) -> Scores:
        """0 or 1 per response."""
        formed = [any(structure.fullmatch(text) for structure in _STRUCTURES) for text in rollouts.texts]
        return Scores(np.asarray(formed, dtype=np.float64), notes=tuple("" if ok else "another form" for ok in formed))
