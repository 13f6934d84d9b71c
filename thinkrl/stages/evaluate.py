"""Evaluation on held-out prompts, with intervals and a protocol hash."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from thinkrl.benchmarks.benchmark import Benchmark
from thinkrl.benchmarks.evaluate import evaluate_model
from thinkrl.benchmarks.result import BenchmarkResult
from thinkrl.environments.environment import check_environment
from thinkrl.rollouts.store import Rollouts
from thinkrl.rollouts.tool_calls import tool_metrics
from thinkrl.sampling.sampler import SamplerSource
from thinkrl.stages.artifacts import Kind
from thinkrl.stages.context import StageContext
from thinkrl.stages.stage import Stage
from thinkrl.tracking.recorder import Stopwatch


@dataclass(frozen=True, kw_only=True)
class Evaluate(Stage):
    """Measures the policy on a benchmark and stores every response."""

    makes: ClassVar[tuple[Kind, ...]] = ("result",)

    benchmark: Benchmark
    """What is measured, and how."""
    sampler: SamplerSource
    """Sampling engine."""

    def check(self) -> None:
        """Reads the benchmark's prompts, and looks for the sampling engine."""
        self.sampler.check()
        check_environment(self.benchmark.environment)
        self.benchmark.selected()

    def plan(self) -> str:
        """What will be done, with its sizes."""
        return f"evaluate on {self.benchmark.name}: {self.benchmark.samples} samples a prompt"

    def work(self) -> float:
        """Tokens sampled at most."""
        early = self.benchmark.early
        forced = len(early.at) * early.forced.answers * early.forced.answer_tokens if early else 0
        longest = self.benchmark.sampling.max_new_tokens + forced
        return len(self.benchmark.selected()) * self.benchmark.samples * longest

    def run(self, context: StageContext) -> Mapping[str, Path]:
        """Samples, grades, and writes the result."""
        path = context.folder / "result.json"
        # An evaluation that Ctrl-C let finish is there already, and so is its row.
        if context.resume(total=1).step == 0:
            self._measure(context, path)
        return {"result": path}

    def _measure(self, context: StageContext, path: Path) -> None:
        policy = context.load_policy(self.model_from)
        watch = Stopwatch()
        with watch("sample"):
            result, rollouts = evaluate_model(
                policy,
                self.benchmark,
                context.open_sampler(self.sampler, policy),
                context.seed,
                context.open_environment(self.benchmark.environment),
            )
        context.write_rollouts(1, rollouts, {"verdict": result.flat_verdicts()})
        # The stage's name, not the folder it was loaded from: the same work gives the same file anywhere.
        result = replace(result, model=context.model_stage(self.model_from) or "base model")
        context.write_text(path, result.to_json())
        row = {**result.metrics(), **tool_metrics(rollouts), **self.numbers(result, rollouts)}
        context.finish_step(1, 1, row, watch, every=1)

    def numbers(self, result: BenchmarkResult, rollouts: Rollouts) -> Mapping[str, float]:
        """What else the metrics row says of the responses, which are in the order of the result; nothing here."""
        return {}
