"""What a finished run says: held-out measurements prompt by prompt, the metrics log, and what was spent."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from thinkrl.benchmarks.metrics import Scores, prompt_means
from thinkrl.benchmarks.result import BenchmarkResult
from thinkrl.config.component import ConfigError
from thinkrl.config.nearest import suggestion
from thinkrl.reproduction.claim import Spent, Statistic
from thinkrl.tracking.directory import finished_artifacts, wall_seconds
from thinkrl.tracking.metrics import Row, read_rows


@dataclass(frozen=True)
class FinishedRun:
    """The run directory of one arm and seed."""

    path: Path

    @cached_property
    def results(self) -> dict[str, BenchmarkResult]:
        """Held-out results by the name of the stage that measured them, in order."""
        return {
            stage: BenchmarkResult.from_json(path.read_text(encoding="utf-8"))
            for stage, kinds in finished_artifacts(self.path).items()
            for kind, path in kinds.items()
            if kind == "result"
        }

    @cached_property
    def rows(self) -> list[Row]:
        """The metrics log."""
        return read_rows(self.path / "metrics.jsonl")

    def result(self, stage: str | None) -> BenchmarkResult:
        """What the named evaluation found, the last one without a name."""
        names = list(self.results)
        if not names:
            raise ConfigError(f"{self.path} holds no evaluation: the recipe needs an evaluate stage to be checked")
        if stage is not None and stage not in self.results:
            raise ConfigError(f"{self.path} holds no evaluation '{stage}': {suggestion(stage, names)}")
        return self.results[stage or names[-1]]

    def per_prompt(self, metric: str, stage: str | None) -> tuple[tuple[str, ...], Scores]:
        """Prompt ids, and the mean of `metric` over each prompt's responses, [n]."""
        result = self.result(stage)
        known = list(result.measures)
        if metric not in known:
            raise ConfigError(f"'{metric}' is not measured on held-out prompts: {suggestion(metric, known)}")
        return result.prompt_ids, prompt_means(result.measured(metric))

    def logged(self, metric: str, stage: str | None, statistic: Statistic) -> float:
        """One number made of a column of the log; `mean` is that of the last quarter of the steps."""
        stage = stage or self._last_training_stage
        rows = [row for row in self.rows if row["stage"] == stage]
        values = [float(row[metric] or 0.0) for row in rows if isinstance(row.get(metric), int | float)]
        if not values:
            columns = sorted({key for row in rows for key in row})
            raise ConfigError(f"stage '{stage}' of {self.path} logs no '{metric}': {suggestion(metric, columns)}")
        if statistic == "last":
            return values[-1]
        if statistic == "slope":
            return float(np.polyfit(np.arange(len(values)), values, 1)[0]) if len(values) > 1 else float("nan")
        return float(np.mean(values[-max(1, len(values) // 4) :]))

    @property
    def _last_training_stage(self) -> str:
        stages = [str(row["stage"]) for row in self.rows if "loss" in row]
        if not stages:
            raise ConfigError(f"{self.path} holds no training stage")
        return stages[-1]

    def spent(self) -> dict[Spent, float]:
        """Prompts asked, optimizer steps made and tokens sampled, over all stages but evaluations."""
        updates: dict[str, float] = {}
        for row in self.rows:
            if "weights_version" in row:
                updates[str(row["stage"])] = float(row["weights_version"] or 0)
        return {
            "prompts": sum(float(row.get("asked_prompts") or 0) for row in self.rows),
            "updates": sum(updates.values()),
            "sampled_tokens": sum(
                float(row.get("sampled_tokens") or 0) + float(row.get("monitor_tokens") or 0) for row in self.rows
            ),
        }

    @property
    def seconds(self) -> float:
        """Seconds of all steps, those taken from the cache included."""
        return sum(float(value or 0) for row in self.rows for key, value in row.items() if key.startswith("seconds/"))

    @cached_property
    def record(self) -> dict[str, Any]:
        """The run's record, empty where it cannot be read."""
        try:
            record = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}

    @property
    def wall_seconds(self) -> float:
        """Seconds by the clock, from opening the run to its end, over all its starts that were not killed."""
        return wall_seconds(self.record)

    @property
    def commit(self) -> str:
        """The commit that ran, with a plus where it had changes; empty outside a checkout."""
        git = self.record.get("git") or {}
        return str(git.get("commit", "")) + ("+" if git.get("dirty") else "")
