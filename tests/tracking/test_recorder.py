import io
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from thinkrl.tracking.directory import RunDirectory
from thinkrl.tracking.metrics import read_rows, without_times
from thinkrl.tracking.progress import ProgressDisplay
from thinkrl.tracking.recorder import PARTS, Recorder, Stopwatch
from thinkrl.tracking.tracker import NoTracker


class _Rising:
    """A tracker that, like W&B, refuses a row whose number does not rise; it keeps the rest."""

    def __init__(self) -> None:
        self.rows: dict[int, dict[str, Any]] = {}
        self.tables: list[tuple[int, str]] = []
        self.finished: list[int] = []

    def log(self, row_number: int, row: Mapping[str, Any]) -> None:
        if row_number in self.rows:
            return
        assert row_number == len(self.rows), "a row was skipped"
        self.rows[row_number] = dict(row)

    def log_samples(self, row_number: int, name: str, columns: Sequence[str], rows: Sequence[Any]) -> None:
        self.tables.append((row_number, name))

    def finish(self, exit_code: int) -> None:
        self.finished.append(exit_code)


def _quiet() -> ProgressDisplay:
    return ProgressDisplay(Console(file=io.StringIO(), width=200))


def _directory(path: Path) -> RunDirectory:
    return RunDirectory.open(path / "run", "a: 1", "", {})


def test_a_row_has_everything_in_order(tmp_path: Path) -> None:
    with _directory(tmp_path) as run:
        recorder = Recorder(run, NoTracker().open(run, {}, "x"), _quiet())
        before = time.time()
        recorder.record("grpo", 3, {"reward": 0.5, "note": "ok"}, {"sample": 1.5})
        recorder.close()
        (row,) = read_rows(run.path / "metrics.jsonl")
    assert list(row) == ["row", "stage", "step", "reward", "note", *(f"seconds/{part}" for part in PARTS), "time"]
    assert without_times(row) == {"row": 0, "stage": "grpo", "step": 3, "reward": 0.5, "note": "ok"}
    assert row["seconds/sample"] == 1.5
    assert row["seconds/wait"] == 0.0
    assert isinstance(row["time"], float)
    assert before <= row["time"] <= time.time()


def test_a_resumed_run_leaves_the_same_rows_and_a_rising_tracker_loses_none(tmp_path: Path) -> None:
    tracker = _Rising()
    with _directory(tmp_path) as run:
        recorder = Recorder(run, tracker, _quiet())
        positions = []
        for step in range(5):
            recorder.record("grpo", step, {"reward": step / 7}, {})
            positions.append(json.loads(json.dumps(recorder.position)))
        recorder.close(130)
    with _directory(tmp_path) as run:
        recorder = Recorder(run, tracker, _quiet())
        recorder.rewind(positions[2])
        for step in range(3, 9):
            recorder.record("grpo", step, {"reward": step / 7}, {})
        recorder.close()
        rows = read_rows(run.path / "metrics.jsonl")
    assert [without_times(row) for row in rows] == [
        {"row": step, "stage": "grpo", "step": step, "reward": step / 7} for step in range(9)
    ]
    assert [without_times(row) for row in tracker.rows.values()] == [without_times(row) for row in rows]
    assert tracker.finished == [130, 0]


def test_samples_belong_to_the_next_row(tmp_path: Path) -> None:
    tracker = _Rising()
    with _directory(tmp_path) as run:
        recorder = Recorder(run, tracker, _quiet())
        recorder.record("sft", 1, {}, {})
        recorder.samples("responses", ["a"], [["x"]])
        recorder.close()
    assert tracker.tables == [(1, "responses")]


@pytest.mark.parametrize("name", ["row", "stage", "step", "time", "seconds/other"])
def test_values_cannot_replace_what_every_row_has(tmp_path: Path, name: str) -> None:
    with _directory(tmp_path) as run:
        recorder = Recorder(run, _Rising(), _quiet())
        with pytest.raises(ValueError, match="must not name"):
            recorder.record("sft", 1, {name: 1}, {})
        with pytest.raises(ValueError, match=r"a part must be one of sample, .* got 'sampling'"):
            recorder.record("sft", 1, {}, {"sampling": 1.0})
        assert read_rows(run.path / "metrics.jsonl") == []
        recorder.close()


def test_the_stopwatch_adds_up_and_counts_nested_time_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 4.0, 10.0, 20.0, 20.5])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    watch = Stopwatch()
    with watch("sample"), watch("wait"):  # begun at 0 and 1, ended at 4 and 10
        pass
    with watch("sample"):  # 20 to 20.5
        pass
    watch.add("update", 2.0)
    assert watch.seconds == {"wait": 3.0, "sample": 7.5, "update": 2.0}
    assert watch.take() == {"wait": 3.0, "sample": 7.5, "update": 2.0}
    assert watch.seconds == {}


def test_the_stopwatch_counts_what_an_error_ended() -> None:
    watch = Stopwatch()
    with pytest.raises(KeyError), watch("reward"):
        raise KeyError
    assert watch.seconds["reward"] >= 0
    with pytest.raises(ValueError, match="got 'rewards'"), watch("rewards"):
        pytest.fail("a part with a wrong name must not run")


def test_a_replayed_row_keeps_its_content_under_the_next_number(tmp_path: Path) -> None:
    tracker = _Rising()
    with _directory(tmp_path) as run:
        recorder = Recorder(run, tracker, _quiet())
        recorder.record("sft", 1, {"loss": 0.5}, {})
        recorder.replay({"row": 7, "stage": "sft", "step": 2, "loss": 0.25, "seconds/sample": 3.0, "time": 1.0})
        recorder.close()
        rows = read_rows(run.path / "metrics.jsonl")
    assert rows[1] == {"row": 1, "stage": "sft", "step": 2, "loss": 0.25, "seconds/sample": 3.0, "time": 1.0}
    assert tracker.rows[1] == rows[1]
