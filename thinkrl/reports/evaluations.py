"""Held-out results of every configuration after every stage, with intervals, and what each stage changed."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan

from thinkrl.benchmarks.metrics import prompt_means
from thinkrl.benchmarks.result import BenchmarkResult, compare
from thinkrl.reports.configurations import Configuration
from thinkrl.reproduction.statistics import student_interval
from thinkrl.tracking.metrics import Row

MEANS = ("format_rate", "thinking_tokens", "response_tokens", "truncation_rate")


@dataclass(frozen=True)
class Measured:
    """A number with its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Evaluation:
    """One evaluation stage of one configuration.

    accuracy, change: over prompts where one run is given, by Student's t over seeds where several are. change: since
    the evaluation before it under the same protocol, on the same prompts; None where there is none.
    numbers: pass@k, majority and the means of MEANS, over seeds.
    """

    label: str
    stage: str
    model: str
    benchmark: str
    protocol: str
    seeds: int
    prompts: int
    samples: int
    accuracy: Measured
    change: Measured | None
    numbers: dict[str, float]
    per_seed: tuple[float, ...]


def evaluations(configurations: Sequence[Configuration]) -> tuple[Evaluation, ...]:
    """Every evaluation, stage by stage in the order of the first configuration that has it."""
    found: list[Evaluation] = []
    for configuration in configurations:
        earlier: list[list[BenchmarkResult]] = []
        for stage in configuration.stages:
            results = [run.results[stage] for run in configuration.runs if stage in run.results]
            results = [result for result in results if result.protocol == results[0].protocol]
            rows = [run.by_stage[stage][-1] for run in configuration.runs if stage in run.by_stage]
            if results:
                found.append(_evaluation(configuration.label, stage, results, earlier))
                earlier.append(results)
            elif rows and all("accuracy_low" in row for row in rows):
                found.append(_from_log(configuration.label, stage, rows))
    order = {name: place for place, name in enumerate(dict.fromkeys(e.stage for e in found))}
    return tuple(sorted(found, key=lambda evaluation: order[evaluation.stage]))


def _evaluation(
    label: str, stage: str, results: Sequence[BenchmarkResult], earlier: Sequence[Sequence[BenchmarkResult]]
) -> Evaluation:
    first = results[0]
    names = [
        *(f"pass@{size}" for size in first.pass_at if size > 1),
        *([f"maj@{first.k}"] if first.k > 1 else []),
        *MEANS,
    ]
    every = [result.metrics() for result in results]
    if len(results) == 1:
        accuracy = Measured(first.accuracy, first.interval.low, first.interval.high)
    else:
        accuracy = Measured(*student_interval([result.accuracy for result in results]))
    return Evaluation(
        label=label,
        stage=stage,
        model=first.model,
        benchmark=first.protocol.benchmark,
        protocol=first.protocol.hash,
        seeds=len(results),
        prompts=first.n,
        samples=first.k,
        accuracy=accuracy,
        change=_change(results, earlier),
        numbers={name: sum(metrics.get(name, nan) for metrics in every) / len(every) for name in names},
        per_seed=tuple(result.accuracy for result in results),
    )


def _from_log(label: str, stage: str, rows: Sequence[Row]) -> Evaluation:
    """What the metrics log says of an evaluation whose result this version cannot read: no change since another."""
    values = [_number(row, "accuracy") for row in rows]
    names = [name for name in rows[0] if name.startswith(("pass@", "maj@")) or name in MEANS]
    alone = Measured(values[0], _number(rows[0], "accuracy_low"), _number(rows[0], "accuracy_high"))
    return Evaluation(
        label=label,
        stage=stage,
        model="",
        benchmark="",
        protocol="not known",
        seeds=len(rows),
        prompts=int(_number(rows[0], "prompts")),
        samples=0,
        accuracy=alone if len(rows) == 1 else Measured(*student_interval(values)),
        change=None,
        numbers={name: sum(_number(row, name) for row in rows) / len(rows) for name in names},
        per_seed=tuple(values),
    )


def _number(row: Row, name: str) -> float:
    value = row.get(name)
    return float(value) if isinstance(value, int | float) else nan


def _change(results: Sequence[BenchmarkResult], earlier: Sequence[Sequence[BenchmarkResult]]) -> Measured | None:
    """Paired with the last earlier evaluation under the same protocol, seed by seed."""
    before = next((old for old in reversed(earlier) if old[0].protocol == results[0].protocol), None)
    if before is None:
        return None
    pairs = [(old, new) for new in results for old in before if old.seed == new.seed]
    if not pairs:
        return None
    if len(pairs) == 1:
        paired = compare(*pairs[0]).paired
        return Measured(paired.difference, paired.interval.low, paired.interval.high)
    return Measured(*student_interval([_difference(old, new) for old, new in pairs]))


def _difference(old: BenchmarkResult, new: BenchmarkResult) -> float:
    """Mean difference over the prompts that both answered."""
    before = dict(zip(old.prompt_ids, prompt_means(old.scores).tolist(), strict=True))
    after = zip(new.prompt_ids, prompt_means(new.scores).tolist(), strict=True)
    both = [value - before[name] for name, value in after if name in before]
    kept = [value for value in both if value == value]
    return sum(kept) / len(kept) if kept else nan
