"""Episodes that an environment keeps score of, measured: how they end, and how often well or badly."""

import math
from dataclasses import dataclass

import numpy as np

from thinkrl.grading.verdict import Verdict
from thinkrl.rollouts.store import Rollouts


@dataclass(frozen=True)
class FinalScore:
    """An episode is right where its final score reaches `success`; ungradable where it has none.

    With a user as SAGE describes it, the numbers are those of its Sentient benchmark (arXiv 2505.02847)
    as RLVER (arXiv 2507.03112) reports them: mean emotion at the end, share of successes, share of failures.
    """

    success: float = 100.0
    """Least final score of a success."""
    failure: float = 10.0
    """Final scores below this are failures."""

    def __post_init__(self) -> None:
        if not self.failure <= self.success:
            raise ValueError(f"failure must be at most success {self.success}, got {self.failure}")

    def grade_episodes(self, rollouts: Rollouts) -> tuple[list[str | None], list[Verdict]]:
        """Final scores as texts, and verdicts, in row order. Raises ValueError for responses without an episode."""
        finals = final_scores(rollouts)
        answers = [None if math.isnan(score) else f"{score:g}" for score in finals]
        return answers, [self.verdict(score) for score in finals]

    def verdict(self, final: float) -> Verdict:
        """Of one final score."""
        if math.isnan(final):
            return Verdict.UNGRADABLE
        return Verdict.CORRECT if final >= self.success else Verdict.WRONG

    def numbers(self, rollouts: Rollouts) -> dict[str, float]:
        """Means over the episodes that have a score, and the share of those that have none."""
        finals = np.asarray(final_scores(rollouts), dtype=np.float64)
        known = finals[~np.isnan(finals)]
        nothing = math.nan
        turns = [episode.turns for episode in rollouts.episodes if episode is not None]
        return {
            "score": float(np.mean(known)) if len(known) else nothing,
            "success": float(np.mean(known >= self.success)) if len(known) else nothing,
            "failure": float(np.mean(known < self.failure)) if len(known) else nothing,
            "ungradable": float(np.mean(np.isnan(finals))) if len(finals) else nothing,
            "turns": float(np.mean(turns)) if turns else nothing,
        }


def final_scores(rollouts: Rollouts) -> list[float]:
    """The final score of each response's episode, [n]; NaN where it failed. ValueError without an episode."""
    finals = [episode.final for episode in rollouts.episodes if episode is not None]
    if len(finals) != len(rollouts):
        raise ValueError(
            f"every response must have an episode, got {len(finals)} of {len(rollouts)}: take an environment that keeps"
            " score"
        )
    return finals
