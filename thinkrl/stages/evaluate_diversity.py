"""Evaluation of problems with several right solutions: how many different ones are found."""

from collections.abc import Mapping
from dataclasses import dataclass

from thinkrl.benchmarks.diversity import SolutionForm, distinct_solutions, right_solutions, solved_share
from thinkrl.benchmarks.result import BenchmarkResult
from thinkrl.rollouts.store import Rollouts
from thinkrl.stages.evaluate import Evaluate


@dataclass(frozen=True, kw_only=True)
class EvaluateDiversity(Evaluate):
    """Measures a benchmark whose grader tells solutions apart, and logs how many different right ones a solved prompt
    has (`distinct_solutions`), and the share of prompts that are solved by some sample (`solved`)."""

    def __post_init__(self) -> None:
        if not isinstance(self.benchmark.grader, SolutionForm):
            raise ValueError(
                f"benchmark.grader must tell different solutions apart (`solution`), got {self.benchmark.grader}"
            )

    def plan(self) -> str:
        """What will be done, with its sizes."""
        return f"evaluate the solutions of {self.benchmark.name}: {self.benchmark.samples} samples a prompt"

    def numbers(self, result: BenchmarkResult, rollouts: Rollouts) -> Mapping[str, float]:
        """Counts of solutions."""
        form = self.benchmark.grader
        assert isinstance(form, SolutionForm)
        references = [group.prompt.reference for group in rollouts.groups]
        found = right_solutions(result.prompt_ids, result.answers, result.verdicts, references, form)
        return {"distinct_solutions": distinct_solutions(found), "solved": solved_share(found)}
