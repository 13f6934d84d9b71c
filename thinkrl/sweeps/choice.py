"""By what the best point of a sweep is chosen: a metric of one evaluation, or a column of the metrics log."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isnan, nan
from typing import Any

from thinkrl.benchmarks.metrics import accuracy_interval, bootstrap_interval, prompt_means
from thinkrl.reproduction.readings import FinishedRun
from thinkrl.reproduction.statistics import student_interval


@dataclass(frozen=True)
class Measured:
    """A mean over n runs with its 95% interval: Student's over seeds, and of one run that over its prompts."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Choice:
    """What decides between points.

    metric: of an evaluation (`evaluated`), or a column of the log, of which the mean over the last quarter of the
    steps is taken. stage: where it is read. test_stage: the evaluation that is shown beside it and decides nothing;
    empty where there is none. on_validation: whether `stage` asks none of the test prompts.
    """

    metric: str
    stage: str
    test_stage: str = ""
    evaluated: bool = True
    on_validation: bool = False
    minimize: bool = False

    @property
    def words(self) -> str:
        """What decides, in words."""
        best = "lowest" if self.minimize else "highest"
        if not self.evaluated:
            return f"{best} {self.metric} of stage {self.stage}, mean over the last quarter of its steps"
        prompts = "validation prompts" if self.on_validation else "the test prompts"
        return f"{best} {self.metric} of stage {self.stage}, on {prompts}"

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Choice":
        """What `as_json` gave."""
        return cls(**stored)

    def value(self, run: FinishedRun) -> float:
        """What decides, of one finished run; NaN where nothing had a verdict. ConfigError where it is not there."""
        if not self.evaluated:
            return run.logged(self.metric, self.stage, "mean")
        _, values = run.per_prompt(self.metric, self.stage)
        known = values[~_nans(values)]
        return float(known.mean()) if len(known) else nan

    def measure(self, runs: Mapping[int, FinishedRun]) -> Measured:
        """What decides, over the finished runs of a point, by seed."""
        return self._over(runs, self.stage)

    def measure_test(self, runs: Mapping[int, FinishedRun]) -> Measured | None:
        """The same metric on the test prompts; None where it is not measured on others."""
        if not self.evaluated or not self.test_stage or self.test_stage == self.stage:
            return None
        return self._over(runs, self.test_stage)

    def better(self, a: float, b: float) -> bool:
        """Whether `a` is better than `b`; a number is better than none."""
        if isnan(a) or isnan(b):
            return isnan(b) and not isnan(a)
        return a < b if self.minimize else a > b

    def _over(self, runs: Mapping[int, FinishedRun], stage: str) -> Measured:
        at = Choice(self.metric, stage, evaluated=self.evaluated)
        values = [at.value(run) for run in runs.values()]
        known = [value for value in values if not isnan(value)]
        if len(known) == 1 and self.evaluated:
            (only,) = (run for run, value in zip(runs.values(), values, strict=True) if not isnan(value))
            return at._over_prompts(only)
        return Measured(*student_interval(known), len(known))

    def _over_prompts(self, run: FinishedRun) -> Measured:
        values = run.result(self.stage).measured(self.metric)
        found = (
            accuracy_interval(values, seed=0)
            if self.metric == "accuracy"
            else bootstrap_interval(prompt_means(values), seed=0)
        )
        return Measured(self.value(run), found.low, found.high, 1)


def _nans(values: Any) -> Any:
    return values != values
