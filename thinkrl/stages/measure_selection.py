"""A probe: how well a reward term's value picks the right ones among the policy's own responses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from thinkrl.benchmarks.selection import selection_metrics
from thinkrl.grading.extraction import AnswerExtractor
from thinkrl.grading.grader import Grader
from thinkrl.grading.verdict import Verdict
from thinkrl.rewards.majority_vote import as_one
from thinkrl.rewards.result import RewardResult
from thinkrl.rollouts.prompt import Prompt
from thinkrl.rollouts.store import Rollouts
from thinkrl.stages.artifacts import Kind
from thinkrl.stages.context import StageContext
from thinkrl.stages.rejection_sampling import Kept, SamplingStage

_WORTH = {Verdict.CORRECT: 1.0, Verdict.WRONG: 0.0}


@dataclass(frozen=True, kw_only=True)
class MeasureSelection(SamplingStage):
    """Samples held-out prompts and logs, by a term's values: best of n, weighted votes, and how often one right
    response stands above wrong ones; beside majority votes and a response at random. Means over a step's prompts."""

    makes: ClassVar[tuple[Kind, ...]] = ()

    by: str
    """The term whose values rank responses."""
    extractor: AnswerExtractor = field(default_factory=AnswerExtractor)
    """Finds the answers that vote."""
    same: Grader | None = None
    """Which answers count as one in votes, such as 1/2 and 0.5; null compares strings."""
    wrong: int = 9
    """Wrong responses that a right one has to stand above."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.wrong < 1:
            raise ValueError(f"wrong must be at least 1, got {self.wrong}")
        if self.by not in self.reward.terms:
            raise ValueError(f"by must name a term of the reward ({', '.join(self.reward.terms)}), got {self.by}")

    def plan(self) -> str:
        """What will be done, with its sizes."""
        return f"measure how {self.by} picks among {self.samples} responses to each of {self.prompt_count} prompts"

    def keep(self, rollouts: Rollouts, rewards: RewardResult, context: StageContext) -> Kept:
        """Nothing but the metrics."""
        groups = [[int(row) for row in rows] for rows in rollouts.rows_by_group().values()]
        right = np.asarray([_WORTH.get(verdict, np.nan) if verdict else np.nan for verdict in rewards.verdicts])
        answers = [self.extractor.extract(text) for text in rollouts.texts]
        if self.same is not None:
            answers = [form or None for form in as_one([a or "" for a in answers], self.same, groups)]
        values = rewards.terms[self.by].values
        metrics = selection_metrics(
            [values[rows] for rows in groups],
            [right[rows] for rows in groups],
            [[answers[row] for row in rows] for rows in groups],
            self.wrong,
        )
        return Kept([], metrics=metrics)

    def hand_on(
        self, entries: Sequence[Sequence[Any]], prompts: Mapping[str, Prompt], context: StageContext
    ) -> Mapping[str, Path]:
        """Nothing: what was measured is in the log."""
        return {}
