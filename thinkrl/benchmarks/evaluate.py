"""Measures a policy on a benchmark."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from thinkrl.benchmarks.benchmark import Benchmark
from thinkrl.benchmarks.episodes import FinalScore
from thinkrl.benchmarks.protocol import EvaluationProtocol, data_fingerprint, describe
from thinkrl.benchmarks.result import BenchmarkResult
from thinkrl.data.chat import ChatRenderer
from thinkrl.data.source import DataError
from thinkrl.environments.environment import Environment
from thinkrl.grading.grader import Grader
from thinkrl.grading.verdict import Verdict
from thinkrl.rollouts.spans import read_response, thinking_lengths
from thinkrl.rollouts.store import FinishReason, Rollouts
from thinkrl.sampling.sampler import Sampler

if TYPE_CHECKING:
    from thinkrl.models.policy import Policy

T = TypeVar("T")


def evaluate_model(
    policy: "Policy", benchmark: Benchmark, sampler: Sampler, seed: int, environment: Environment | None = None
) -> tuple[BenchmarkResult, Rollouts]:
    """Samples every prompt, grades every response, and returns the result with the rollouts it was made of.

    environment: the benchmark's own, where a stage has opened it. Rows of the rollouts are in the order of
    `BenchmarkResult.flat_verdicts`. Raises DataError without prompts.
    """
    # Imported here: it brings torch, and composing a configuration must not.
    from thinkrl.sampling.ranked_sampler import engine_name

    prompts = benchmark.selected()
    if not prompts:
        raise DataError(f"benchmark {benchmark.name} has no prompts")
    renderer, stage = ChatRenderer(policy.tokenizer), f"benchmark/{benchmark.name}"
    rollouts = (environment or benchmark.environment).rollout(
        policy,
        sampler,
        prompts,
        benchmark.samples,
        benchmark.sampling,
        seed=seed,
        stage=stage,
        step=0,
    )
    k = benchmark.samples
    if not np.array_equal(rollouts.group_index, np.repeat(np.arange(len(rollouts.groups)), k)):
        raise ValueError(f"the environment must give {k} responses a prompt, prompt after prompt")
    answers, verdicts = _graded(benchmark, rollouts)
    parts = [read_response(text) for text in rollouts.texts]
    asked = [group.prompt for group in rollouts.groups]
    early: NDArray[np.float64] = np.zeros((len(rollouts), 0))
    if benchmark.early is not None and isinstance(benchmark.grader, Grader):
        early = benchmark.early.scores(
            policy, sampler, rollouts, benchmark.sampling, benchmark.extractor, benchmark.grader, seed, stage
        )
    result = BenchmarkResult(
        protocol=EvaluationProtocol(
            benchmark=benchmark.name,
            version=benchmark.version,
            data=data_fingerprint(prompts),
            prompts=len(prompts),
            template=renderer.template_fingerprint,
            samples=k,
            sampling=describe(benchmark.sampling),
            environment=describe(benchmark.environment),
            extractor=describe(benchmark.extractor),
            grader=describe(benchmark.grader),
            engine=engine_name(sampler),
            early=None if benchmark.early is None else describe(benchmark.early),
        ),
        model=policy.name,
        seed=seed,
        prompt_ids=tuple(prompt.prompt_id for prompt in asked),
        verdicts=_by_prompt(verdicts, k),
        answers=_by_prompt(answers, k),
        well_formed=_by_prompt([part.well_formed for part in parts], k),
        thinking_lengths=_by_prompt([int(count) for count in thinking_lengths(rollouts)], k),
        response_lengths=_by_prompt([int(count) for count in rollouts.sampled_counts], k),
        truncated=_by_prompt([reason is FinishReason.LENGTH for reason in rollouts.finish_reasons], k),
        dropped=len(prompts) - len(asked),
        shortened=sum(len(renderer.prompt_ids(g.prompt.messages)) > len(g.prompt_ids) for g in rollouts.groups),
        early={
            cut: _by_prompt([None if np.isnan(score) else float(score) for score in column], k)
            for cut, column in zip(benchmark.early.labels if benchmark.early else (), early.T, strict=True)
        },
    )
    return result, rollouts


def _graded(benchmark: Benchmark, rollouts: Rollouts) -> tuple[list[str | None], list[Verdict]]:
    """Answers and verdicts of all responses."""
    if isinstance(benchmark.grader, FinalScore):
        return benchmark.grader.grade_episodes(rollouts)
    answers = [benchmark.extractor.extract(text) for text in rollouts.texts]
    references = [rollouts.prompt(row).reference for row in range(len(rollouts))]
    return answers, [grade.verdict for grade in benchmark.grader.grade_all(answers, references)]


def _by_prompt(values: Sequence[T], k: int) -> tuple[tuple[T, ...], ...]:
    """Values of responses, k to a prompt."""
    return tuple(tuple(values[row : row + k]) for row in range(0, len(values), k))
