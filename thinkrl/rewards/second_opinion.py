"""A rule first, and a judge where the rule finds nothing right."""

from dataclasses import dataclass, replace

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
