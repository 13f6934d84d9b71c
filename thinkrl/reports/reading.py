"""A run directory as a report sees it: whatever is there is read, and what cannot be read is said, never raised."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from thinkrl.benchmarks.result import BenchmarkResult
from thinkrl.config.component import ConfigError, UserError
from thinkrl.tracking.directory import wall_seconds
from thinkrl.tracking.metrics import Row, read_rows

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PART = "seconds/"


@dataclass(frozen=True)
class StageLine:
    """A stage of a run. status: pending, running or finished. seconds: by the clock, None while it has not ended.

    reused: whether its rows were made by another run, before this one came to the stage.
    """

    name: str
    kind: str
    status: str
    seconds: float | None
    rows: int
    reused: bool
    artifacts: tuple[str, ...]


@dataclass(frozen=True)
class RunReading:
    """One run. problems: what could not be read, in words."""

    path: Path
    record: Mapping[str, Any]
    config: Mapping[str, Any]
    origins: Mapping[str, str]
    rows: tuple[Row, ...]
    results: Mapping[str, BenchmarkResult]
    problems: tuple[str, ...] = ()
    by_stage: Mapping[str, tuple[Row, ...]] = field(default_factory=dict)

    @property
    def recipe(self) -> str:
        """Name of the recipe."""
        return str(self.record.get("recipe") or self.config.get("name") or self.path.name)

    @property
    def seed(self) -> int | None:
        """The run's seed."""
        seed = self.record.get("seed")
        return seed if isinstance(seed, int) else None

    @property
    def overrides(self) -> tuple[str, ...]:
        """Overrides of the command line, the seed left out."""
        given = self.record.get("overrides") or ()
        return tuple(str(text) for text in given if str(text).lstrip("+").partition("=")[0] != "seed")

    @property
    def stages(self) -> tuple[StageLine, ...]:
        """The stages in order."""
        stored = self.record.get("stages") or {}
        keys = sorted(stored, key=lambda key: int(key.partition("_")[0]) if key.partition("_")[0].isdigit() else 0)
        return tuple(self._stage(key.partition("_")[2], stored[key]) for key in keys)

    @property
    def finished(self) -> bool:
        """Whether every stage is finished."""
        return bool(self.stages) and all(stage.status == "finished" for stage in self.stages)

    @property
    def outcome(self) -> str:
        """How the run ended, or that it has not."""
        if self.finished:
            return "finished"
        starts = self.record.get("starts") or [{}]
        end = str(starts[-1].get("end") or "")
        if not self.stages:
            return f"stopped before its first stage: {end}" if end else "not begun"
        here = next((stage.name for stage in self.stages if stage.status != "finished"), "")
        if end == "interrupted":
            return f"interrupted in stage {here}"
        return f"stopped in stage {here}: {end}" if end else f"in stage {here}: still running, or killed"

    @property
    def wall_seconds(self) -> float:
        """Seconds between the beginnings and the ends of all starts; what a kill cut off is not known and left out.
        Where no end is noted, those of the finished stages."""
        return wall_seconds(self.record) or sum(stage.seconds or 0.0 for stage in self.stages)

    def folder(self, stage: str) -> Path | None:
        """The folder of a stage."""
        keys = [str(key) for key in self.record.get("stages") or {}]
        return next((self.path / "stages" / key for key in keys if key.partition("_")[2] == stage), None)

    def _stage(self, name: str, stored: Mapping[str, Any]) -> StageLine:
        begun, ended = _moment(stored.get("started")), _moment(stored.get("finished"))
        rows = self.by_stage.get(name, ())
        last = rows[-1].get("time") if rows else None
        configured = (self.config.get("stages") or {}).get(name) or {}
        return StageLine(
            name=name,
            kind=str(configured.get("_target_", "")).rpartition(".")[2],
            status=str(stored.get("status", "")),
            seconds=ended - begun if begun is not None and ended is not None else None,
            rows=len(rows),
            reused=isinstance(last, int | float) and begun is not None and last < begun - 1,
            artifacts=tuple(stored.get("artifacts") or ()),
        )


def find_runs(paths: list[Path]) -> list[Path]:
    """The run directories that `paths` name: themselves, or all those below them.

    Raises ConfigError for a path without any.
    """
    found: list[Path] = []
    for path in paths:
        if (path / "run.json").is_file():
            runs = [path]
        else:
            runs = sorted(record.parent for depth in ("*", "*/*") for record in path.glob(f"{depth}/run.json"))
        if not runs:
            raise ConfigError(f"{path} holds no run: no run.json in it (thinkrl run makes runs/RECIPE/NAME)")
        found += [run for run in runs if run not in found]
    return found


def read_run(path: Path) -> RunReading:
    """Reads a run directory, finished or not.

    Raises ConfigError when not even its run.json can be read.
    """
    try:
        record = json.loads((path / "run.json").read_text(encoding="utf-8"))
        if not isinstance(record, dict):
            raise ValueError("not an object")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} holds no run that can be read: {error}") from error
    problems: list[str] = []
    rows: list[Row] = _tried(lambda: read_rows(path / "metrics.jsonl"), [], problems)
    by_stage: dict[str, list[Row]] = {}
    for row in rows:
        by_stage.setdefault(str(row.get("stage")), []).append(with_step_seconds(row))
    return RunReading(
        path=path,
        record=record,
        config=_tried(lambda: _mapping(path / "config.yaml"), {}, problems),
        origins=_tried(lambda: _mapping(path / "origins.yaml"), {}, problems),
        rows=tuple(rows),
        results=_results(path, record, problems),
        problems=tuple(problems),
        by_stage={stage: tuple(own) for stage, own in by_stage.items()},
    )


def with_step_seconds(row: Row) -> Row:
    """The row with the sum of its parts of time, `seconds`."""
    parts = [value for key, value in row.items() if key.startswith(_PART) and isinstance(value, int | float)]
    return {**row, "seconds": float(sum(parts))} if parts else row


def _results(path: Path, record: Mapping[str, Any], problems: list[str]) -> dict[str, BenchmarkResult]:
    found = {}
    for key, stage in (record.get("stages") or {}).items():
        made = (stage.get("artifacts") or {}).get("result")
        if made is None:
            continue
        result = _tried(partial(_result, path / str(made.get("path", ""))), None, problems)
        if result is not None:
            found[key.partition("_")[2]] = result
    return found


def _result(path: Path) -> BenchmarkResult:
    return BenchmarkResult.from_json(path.read_text(encoding="utf-8"))


def _mapping(path: Path) -> dict[str, Any]:
    value = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} is not a mapping")
    return value


def _tried(read: Callable[[], Any], otherwise: Any, problems: list[str]) -> Any:
    try:
        return read()
    except (OSError, ValueError, KeyError, UserError, yaml.YAMLError) as error:
        problems.append(f"{type(error).__name__}: {error}")
        return otherwise


def _moment(text: object) -> float | None:
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return None
