"""Two opinions of one answer: a judge where the rule finds nothing right, and the verdict on which two agree."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from thinkrl.grading.verdict import Verdict
from thinkrl.rewards.term import RewardContext, RewardTerm, Scores
from thinkrl.rollouts.signals import Signal, reads_tokens, signals_of
from thinkrl.rollouts.store import Rollouts

JUDGED_RIGHT = Signal("judged_right", "1 where a judge finds the answer right, 0 where wrong, null where it failed")
"""A judge's word on an answer, read where a rule does not find it right."""


@dataclass(frozen=True)
class SecondOpinion(RewardTerm):
    """The value of `rule`; but where the rule does not find the answer right and a judge does, it is right.

    A judge that failed changes nothing: what the rule says stands (rule first, then judge: arXiv 2502.06781).
    """

    rule: RewardTerm
    """Judges the answer by a rule; its verdict decides whether the judge is heard."""
    correct: float = 1.0
    """Value of an answer that the judge finds right."""

    @property
    def reads_tokens(self) -> bool:
        """Whether the rule counts tokens."""
        return reads_tokens(self.rule)

    def signals(self) -> tuple[Signal, ...]:
        """The judge's word, and what the rule reads."""
        return (JUDGED_RIGHT, *signals_of(self.rule))

    def score(self, rollouts: Rollouts, context: RewardContext) -> Scores:
        """One value and verdict per response; the note says where the judge decided."""
        first = self.rule.score(rollouts, context)
        if len(first.verdicts) != len(rollouts):
            raise ValueError("rule must give a verdict for each response")
        said = np.asarray(context.signals[JUDGED_RIGHT.name], dtype=np.float64) >= 0.5  # NaN is not
        turned = said & np.asarray([verdict is not Verdict.CORRECT for verdict in first.verdicts], dtype=np.bool_)
        notes = first.notes or ("",) * len(rollouts)
        return replace(
            first,
            values=np.where(turned, self.correct, first.values),
            verdicts=tuple(Verdict.CORRECT if t else v for t, v in zip(turned, first.verdicts, strict=True)),
            notes=tuple("right, says the judge" if t else note for t, note in zip(turned, notes, strict=True)),
        )


@dataclass(frozen=True)
class AgreedVerdict(RewardTerm):
    """1 and right, or 0 and wrong, where the verdict of `rule` and the value of `second` say the same; ungradable,
    without a number, where they differ or either says nothing: labels to learn from (Cooper, arXiv 2508.05613).
    """

    reads_tokens: ClassVar[bool] = False

    rule: str
    """The term whose verdict is one opinion."""
    second: str
    """The term whose value is the other, such as a judge's score or a check of the working."""
    at_least: float = 0.5
    """From this value on the second takes the response to be right."""

    def reads_terms(self) -> tuple[str, ...]:
        """Both opinions."""
        return (self.rule, self.second)

    def score(self, rollouts: Rollouts, context: RewardContext) -> Scores:
        """One value and verdict per response; `agreed` is the share of those with both opinions on which they agree.

        Raises ValueError where `rule` gives no verdicts.
        """
        first, second = context.scores[self.rule], context.scores[self.second].values
        if len(first.verdicts) != len(rollouts):
            raise ValueError(f"rule must be a term that gives a verdict for each response, got {self.rule!r}")
        judged = np.asarray([v in (Verdict.CORRECT, Verdict.WRONG) for v in first.verdicts], dtype=np.bool_)
        right = np.asarray([verdict is Verdict.CORRECT for verdict in first.verdicts], dtype=np.bool_)
        known = judged & ~np.isnan(second)
        agreed = known & (right == (second >= self.at_least))
        verdicts = [
            (Verdict.CORRECT if r else Verdict.WRONG) if a else Verdict.UNGRADABLE
            for r, a in zip(right, agreed, strict=True)
        ]
        return Scores(
            np.where(agreed, right.astype(np.float64), math.nan),
            verdicts=tuple(verdicts),
            notes=tuple("" if a else f"{self.rule} and {self.second} differ" if k else "one opinion is missing"
                        for a, k in zip(agreed, known, strict=True)),
            metrics={"agreed": float(agreed.sum() / known.sum()) if known.any() else math.nan},
        )  # fmt: skip
