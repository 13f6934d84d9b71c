"""What a benchmark found: every verdict, the numbers made of them, and the protocol they stand under."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from math import isnan, nan
from typing import Any

import numpy as np

from thinkrl.benchmarks.metrics import (
    Interval,
    PairedDifference,
    Scores,
    accuracy,
    accuracy_interval,
    majority_at_k,
    overthought,
    paired_difference,
    pass_at_k,
)
from thinkrl.benchmarks.protocol import EvaluationProtocol
from thinkrl.config.component import UserError
from thinkrl.grading.verdict import Verdict

MEASURES = {
    "accuracy": "scores",
    "format_rate": "well_formed",
    "thinking_tokens": "thinking_lengths",
    "response_tokens": "response_lengths",
    "truncation_rate": "truncated",
}
"""Metrics with one value a response, and the field that holds the values."""
ANYTIME = "anytime_accuracy"
"""The mean over all cuts of the accuracy of early answers, a metric of benchmarks that force some."""
AT_CUT = "accuracy@"
"""Begins the name of the accuracy at one cut, such as `accuracy@0.25`."""
_MARKS = {Verdict.CORRECT: 1.0, Verdict.WRONG: 0.0}


def measures(cuts: Iterable[str]) -> tuple[str, ...]:
    """Metrics with one value a response, where answers are forced at the named `cuts`."""
    at_cuts = tuple(f"{AT_CUT}{cut}" for cut in cuts)
    return (*MEASURES, *((ANYTIME, *at_cuts) if at_cuts else ()))


class ProtocolMismatch(UserError):
    """Two results were measured under different protocols; the message names the fields."""


class ResultError(UserError):
    """A text that is no stored result, or one that was edited."""


@dataclass(frozen=True)
class BenchmarkResult:
    """n prompts with k samples each. Rows of `verdicts`, `answers` and measures follow `prompt_ids`.

    well_formed: whether a response is one well-formed think part and one answer part.
    thinking_lengths, response_lengths: sampled tokens of each response; 0 thinking where there is none.
    truncated: whether a response was cut at the token limit.
    dropped, shortened: prompts that were too long, and so not asked, or asked in part.
    early: by the cut of the thinking, the mean score of the answers forced there; None without a verdict.
    """

    protocol: EvaluationProtocol
    model: str
    seed: int
    prompt_ids: tuple[str, ...]
    verdicts: tuple[tuple[Verdict, ...], ...]
    answers: tuple[tuple[str | None, ...], ...]
    well_formed: tuple[tuple[bool, ...], ...]
    thinking_lengths: tuple[tuple[int, ...], ...]
    response_lengths: tuple[tuple[int, ...], ...]
    truncated: tuple[tuple[bool, ...], ...]
    dropped: int = 0
    shortened: int = 0
    early: Mapping[str, tuple[tuple[float | None, ...], ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        fixed = ("verdicts", "answers", "well_formed", "thinking_lengths", "response_lengths", "truncated")
        columns = {name: getattr(self, name) for name in fixed}
        for name, rows in {**columns, **{f"early {cut}": rows for cut, rows in self.early.items()}}.items():
            if len(rows) != len(self.prompt_ids) or any(len(row) != self.k for row in rows):
                raise ValueError(f"{name} must have {self.k} entries for each of {len(self.prompt_ids)} prompts")

    @property
    def n(self) -> int:
        """Prompts asked."""
        return len(self.prompt_ids)

    @property
    def k(self) -> int:
        """Samples a prompt."""
        return self.protocol.samples

    @cached_property
    def scores(self) -> Scores:
        """1, 0 or NaN (no verdict), float64 [n, k]."""
        rows = [[_MARKS.get(verdict, nan) for verdict in row] for row in self.verdicts]
        return np.asarray(rows, dtype=np.float64).reshape(self.n, self.k)

    @cached_property
    def accuracy(self) -> float:
        """Mean over prompts of the mean over samples that have a verdict."""
        return accuracy(self.scores)

    @cached_property
    def interval(self) -> Interval:
        """95% interval of the accuracy over prompts."""
        return accuracy_interval(self.scores, seed=0)

    @cached_property
    def pass_at(self) -> dict[int, float]:
        """Unbiased pass@k for powers of two up to k, and k."""
        sizes = {1 << power for power in range(self.k.bit_length())} | {self.k}
        return {size: pass_at_k(self.scores, size) for size in sorted(sizes) if size <= self.k}

    @cached_property
    def majority(self) -> float:
        """Accuracy of the most frequent of the k answers."""
        return majority_at_k(self.answers, self.scores)

    @cached_property
    def early_scores(self) -> Scores:
        """Scores of the early answers, float64 [n, k, cuts]; NaN without a verdict."""
        cuts = [np.asarray(rows, dtype=np.float64).reshape(self.n, self.k) for rows in self.early.values()]
        return np.stack(cuts, axis=2) if cuts else np.zeros((self.n, self.k, 0))

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of all metrics with one value a response."""
        return measures(self.early)

    def measured(self, metric: str) -> Scores:
        """One value a response, float64 [n, k]: what the mean of that name is made of. ValueError for another name."""
        if metric not in self.measures:
            raise ValueError(f"metric must be one of {', '.join(self.measures)}, got '{metric}'")
        if metric == "accuracy":
            return self.scores
        if metric == ANYTIME:
            means: Scores = self.early_scores.mean(axis=2)
            return means
        if metric.startswith(AT_CUT):
            scores: Scores = self.early_scores[:, :, list(self.early).index(metric.removeprefix(AT_CUT))]
            return scores
        return np.asarray(getattr(self, MEASURES[metric]), dtype=np.float64).reshape(self.n, self.k)

    def mean(self, metric: str) -> float:
        """Mean of `measured(metric)` over all responses that have a value; NaN without any."""
        values = self.measured(metric)
        if metric not in MEASURES or metric == "accuracy":
            return accuracy(values)
        return float(values.mean()) if values.size else nan

    def count(self, verdict: Verdict) -> int:
        """Responses with this verdict."""
        return sum(row.count(verdict) for row in self.verdicts)

    def flat_verdicts(self) -> list[str]:
        """Verdicts in the order of the rollouts: prompt after prompt, sample after sample."""
        return [verdict.value for row in self.verdicts for verdict in row]

    def metrics(self) -> dict[str, float]:
        """Every number by name, for a metrics row."""
        passes = {f"pass@{size}": value for size, value in self.pass_at.items() if size > 1}
        return {
            "accuracy": self.accuracy,
            "accuracy_low": self.interval.low,
            "accuracy_high": self.interval.high,
            **passes,
            **({f"maj@{self.k}": self.majority} if self.k > 1 else {}),
            **{name: self.mean(name) for name in self.measures if name != "accuracy"},
            **({"overthought": overthought(self.early_scores)} if self.early else {}),
            "ungradable": float(self.count(Verdict.UNGRADABLE)),
            "timeouts": float(self.count(Verdict.TIMEOUT)),
            "prompts": float(self.n),
            "prompts_dropped": float(self.dropped),
            "prompts_shortened": float(self.shortened),
        }

    def to_json(self) -> str:
        """All verdicts, the protocol with its hash and words, and every metric (null where there is no number)."""
        summary = {name: None if isnan(value) else value for name, value in self.metrics().items()}
        protocol = {"hash": self.protocol.hash, "words": self.protocol.words}
        return json.dumps({**asdict(self), "summary": summary, "protocol_id": protocol}, indent=1, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "BenchmarkResult":
        """Reads what `to_json` wrote; the numbers are made again from the verdicts.

        Raises ResultError for any other text, and when the stored protocol no longer has its stored hash.
        """
        try:
            values: dict[str, Any] = json.loads(text)
            values.pop("summary")
            stored = values.pop("protocol_id")["hash"]
            protocol = EvaluationProtocol(**values.pop("protocol"))
            verdicts = tuple(tuple(Verdict(verdict) for verdict in row) for row in values.pop("verdicts"))
            answers = tuple(tuple(row) for row in values.pop("answers"))
            values |= {name: tuple(map(tuple, values[name])) for name in MEASURES.values() if name != "scores"}
            values["early"] = {cut: tuple(map(tuple, rows)) for cut, rows in values.pop("early", {}).items()}
            prompt_ids = tuple(values.pop("prompt_ids"))
            result = cls(protocol=protocol, prompt_ids=prompt_ids, verdicts=verdicts, answers=answers, **values)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ResultError(f"this is no benchmark result: {type(error).__name__}: {error}") from error
        if protocol.hash != stored:
            raise ResultError(f"the protocol has the hash {protocol.hash}, not {stored}: the result was edited")
        return result


@dataclass(frozen=True)
class Comparison:
    """b - a on the prompts both answered. `differing` names protocol fields when it was forced."""

    paired: PairedDifference
    differing: tuple[str, ...] = ()


def compare(a: BenchmarkResult, b: BenchmarkResult, force: bool = False) -> Comparison:
    """Paired difference in accuracy, b - a.

    Raises ProtocolMismatch when protocols differ and `force` is off; ValueError without a common prompt.
    """
    differing = tuple(a.protocol.differences(b.protocol))
    if differing and not force:
        raise ProtocolMismatch(
            f"{a.model} and {b.model} were measured under different protocols ({a.protocol.hash},"
            f" {b.protocol.hash}); these fields differ: {', '.join(differing)}. Force the comparison to see it anyway"
        )
    rows_of_b = {name: row for row, name in enumerate(b.prompt_ids)}
    pairs = [(row, rows_of_b[name]) for row, name in enumerate(a.prompt_ids) if name in rows_of_b]
    if not pairs:
        raise ValueError("a and b must have prompts in common, got none")
    rows = np.asarray(pairs)
    return Comparison(paired_difference(a.scores[rows[:, 0]], b.scores[rows[:, 1]]), differing)
