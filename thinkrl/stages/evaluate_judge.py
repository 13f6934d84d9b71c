"""Evaluation of a policy that judges: right verdicts on held-out comparisons, and numbers by subset."""

from collections.abc import Mapping
from dataclasses import dataclass

from thinkrl.benchmarks.metrics import prompt_means
from thinkrl.benchmarks.result import BenchmarkResult
from thinkrl.benchmarks.reward_models import ComparisonReport
from thinkrl.rollouts.store import Rollouts
from thinkrl.stages.evaluate import Evaluate


@dataclass(frozen=True, kw_only=True)
class EvaluateJudge(Evaluate):
    """Measures verdicts on a benchmark of judging prompts (`JudgingPrompts`); an answer without a verdict is wrong."""

    report: ComparisonReport
    """Which numbers are made of the verdicts beside their mean."""

    def plan(self) -> str:
        """What will be done, with its sizes."""
        return f"evaluate verdicts on {self.benchmark.name}: {self.benchmark.samples} samples a comparison"

    def numbers(self, result: BenchmarkResult, rollouts: Rollouts) -> Mapping[str, float]:
        """The report's."""
        return self.report.numbers([group.prompt for group in rollouts.groups], prompt_means(result.scores))
