"""Evaluation of a policy that judges: right verdicts on held-out comparisons, and numbers by subset."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from thinkrl.benchmarks.benchmark import Benchmark
from thinkrl.benchmarks.evaluate import evaluate_model
from thinkrl.benchmarks.metrics import prompt_means
from thinkrl.benchmarks.reward_models import ComparisonReport
from thinkrl.sampling.sampler import SamplerSource
from thinkrl.stages.artifacts import Kind
from thinkrl.stages.context import StageContext
from thinkrl.stages.stage import Stage
from thinkrl.tracking.recorder import Stopwatch


@dataclass(frozen=True, kw_only=True)
class EvaluateJudge(Stage):
    """Measures verdicts on a benchmark of judging prompts; an answer without a verdict is wrong."""

    makes: ClassVar[tuple[Kind, ...]] = ("result",)

    benchmark: Benchmark
    """What is measured, and how; its prompts are `JudgingPrompts`."""
    sampler: SamplerSource
    """Sampling engine."""
    report: ComparisonReport
    """Which numbers are made of the verdicts beside their mean."""

    def check(self) -> None:
        """Reads the benchmark's prompts, and looks for the sampling engine."""
        self.sampler.check()
        self.benchmark.selected()

    def plan(self) -> str:
        """What will be done, with its sizes."""
        return f"evaluate verdicts on {self.benchmark.name}: {self.benchmark.samples} samples a comparison"

    def work(self) -> float:
        """Tokens sampled at most."""
        return len(self.benchmark.selected()) * self.benchmark.samples * self.benchmark.sampling.max_new_tokens

    def run(self, context: StageContext) -> Mapping[str, Path]:
        """Samples, grades, and writes the result."""
        path = context.folder / "result.json"
        if context.resume(total=1).step == 0:
            policy = context.load_policy(self.model_from)
            watch = Stopwatch()
            with watch("sample"):
                sampler = context.open_sampler(self.sampler, policy)
                result, rollouts = evaluate_model(policy, self.benchmark, sampler, context.seed)
            context.write_rollouts(1, rollouts, {"verdict": result.flat_verdicts()})
            result = replace(result, model=context.model_stage(self.model_from) or "base model")
            context.write_text(path, result.to_json())
            asked = [group.prompt for group in rollouts.groups]
            numbers = self.report.numbers(asked, np.asarray(prompt_means(result.scores)))
            context.finish_step(1, 1, {**result.metrics(), **numbers}, watch, every=1)
        return {"result": path}
