"""Evaluation in an environment that keeps score: successes as accuracy, and the scores themselves."""

from collections.abc import Mapping
from dataclasses import dataclass

from thinkrl.benchmarks.episodes import FinalScore
from thinkrl.benchmarks.result import BenchmarkResult
from thinkrl.rollouts.store import Rollouts
from thinkrl.stages.evaluate import Evaluate


@dataclass(frozen=True, kw_only=True)
class EvaluateEpisodes(Evaluate):
    """Measures a benchmark whose grader is `FinalScore`, and logs mean score, successes, failures and turns."""

    def __post_init__(self) -> None:
        if not isinstance(self.benchmark.grader, FinalScore):
            raise ValueError(
                f"benchmark.grader must be a FinalScore where episodes are measured, got {self.benchmark.grader}"
            )

    def plan(self) -> str:
        """What will be done, with its sizes."""
        return f"evaluate episodes of {self.benchmark.name}: {self.benchmark.samples} a prompt"

    def numbers(self, result: BenchmarkResult, rollouts: Rollouts) -> Mapping[str, float]:
        """Those of the grader."""
        grader = self.benchmark.grader
        assert isinstance(grader, FinalScore)
        return grader.numbers(rollouts)
