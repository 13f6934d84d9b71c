"""Ctrl-C, kills between two stages, and what a stage tells the tracker."""

import io
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from test_stage_reuse import rows_of

from thinkrl.rollouts.store import Rollouts
from thinkrl.stages import evaluate
from thinkrl.stages.context import StageContext
from thinkrl.stages.evaluate import Evaluate
from thinkrl.stages.experiment import check_pipeline
from thinkrl.stages.records import sample_table
from thinkrl.stages.runner import Run
from thinkrl.tracking.checkpoints import CheckpointStore
from thinkrl.tracking.directory import RunDirectory
from thinkrl.tracking.errors import RunError
from thinkrl.tracking.progress import ProgressDisplay
from thinkrl.tracking.recorder import Recorder
from thinkrl.tracking.state import RunState

Start = Callable[..., Run]


def test_ctrl_c_after_the_last_step_of_a_stage_stops_before_the_next(
    start: Start, counting: Any, done: list[Any]
) -> None:
    with pytest.raises(KeyboardInterrupt, match="before stage 'second'"):
        start("a", {"first": counting(interrupt=True), "second": counting()})
    assert {name for name, _ in done} == {"first"}
    run = start("a", {"first": counting(), "second": counting()})
    assert [row["step"] for row in rows_of(run)] == [1, 2, 3, 1, 2, 3]


def test_checkpoints_that_a_kill_left_in_a_finished_stage_go(start: Start, counting: Any) -> None:
    run = start("a", {"count": counting()})
    store = CheckpointStore(run.directory / "stages" / "0_count" / "checkpoints")
    store.save(RunState(2))
    start("a", {"count": counting()})
    assert store.steps() == []


def test_ctrl_c_during_an_evaluation_leaves_one_row(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[int] = []

    def measure(*_: Any) -> Any:
        measured.append(1)
        os.kill(os.getpid(), signal.SIGINT)
        result = SimpleNamespace(flat_verdicts=list, to_json=lambda: "{}", metrics=lambda: {"accuracy": 0.5})
        return result, SimpleNamespace(calls=())

    monkeypatch.setattr(evaluate, "evaluate_model", measure)
    monkeypatch.setattr(evaluate, "replace", lambda result, **_: result)
    monkeypatch.setattr(StageContext, "load_policy", lambda *_: None)
    monkeypatch.setattr(StageContext, "write_rollouts", lambda *_: None)
    benchmark: Any = SimpleNamespace(
        selected=list, samples=1, early=None, sampling=SimpleNamespace(max_new_tokens=1), environment=None
    )
    sampler: Any = SimpleNamespace(check=lambda: None, open=lambda _: SimpleNamespace(close=lambda: None))
    stages = {"score": Evaluate(benchmark=benchmark, sampler=sampler)}
    with pytest.raises(KeyboardInterrupt):
        start("a", stages, reuse=False)
    run = start("a", stages, reuse=False)
    assert measured == [1]
    assert [row["accuracy"] for row in rows_of(run)] == [0.5]
    assert run.produced["score"]["result"].path.read_text() == "{}"


def test_a_table_of_samples_holds_one_response_a_group(rollouts: Rollouts) -> None:
    columns = {"reward": [0.5, 1.0, 0.0, 2.0], "advantage": np.asarray([1.0, np.nan, 3.0, 4.0]), "v": rollouts.logprobs}
    headings, rows = sample_table(rollouts, columns)
    assert headings == ["prompt", "response", "reward", "advantage"], "what has a value a token is left out"
    assert rows == [["question 0", "answer 1/p0 0", 0.5, 1.0], ["question 1", "answer 1/p1 0", 0.0, 3.0]]
    assert all(type(value) in (str, float) for row in rows for value in row)
    assert len(sample_table(rollouts, columns, count=1)[1]) == 1


def test_samples_reach_the_tracker_with_the_row_of_their_step(rollouts: Rollouts, tmp_path: Path) -> None:
    sent: list[tuple[int, str, int]] = []
    tracker: Any = SimpleNamespace(
        log=lambda number, row: None,
        log_samples=lambda number, name, columns, rows: sent.append((number, name, len(rows))),
        finish=lambda code: None,
    )
    display = ProgressDisplay(Console(file=io.StringIO()))
    with RunDirectory.open(tmp_path / "run", "a: 1", "", {}) as run:
        recorder = Recorder(run, tracker, display)
        recorder.record("earlier", 1, {}, {})
        rest: Any = dict.fromkeys(("seed", "model", "produced", "progress", "checkpoints", "start", "interrupt"))
        context = StageContext(name="grpo", index=0, count=1, folder=tmp_path, **(rest | {"recorder": recorder}))
        context.write_rollouts(1, rollouts, {"reward": [0.0] * 4})
        recorder.close()
    assert sent == [(1, "grpo/samples", 2)]


def test_words_about_a_recipe_may_change_between_starts(start: Start, counting: Any) -> None:
    start("a", {"count": counting()}, {"claim": "it counts", "reuse": True})
    start("a", {"count": counting()}, {"claim": "it counts to three", "reuse": False})
    with pytest.raises(RunError, match="other: "):
        start("a", {"count": counting()}, {"other": 1})


@pytest.mark.parametrize("name", ["base", "previous", "a b", "../up", "", "-x"])
def test_names_that_are_no_folder_or_mean_something_else_are_refused(name: str, counting: Any) -> None:
    with pytest.raises(ValueError, match="stages must have names"):
        check_pipeline({name: counting()})


def test_the_record_says_how_every_start_ended(start: Start, counting: Any, tmp_path: Path) -> None:
    def ends(name: str) -> list[str]:
        return [s["end"] for s in json.loads((tmp_path / name / "run.json").read_text())["starts"]]

    with pytest.raises(RuntimeError):
        start("a", {"count": counting(fail_at=2)})
    start("a", {"count": counting()})
    assert ends("a") == ["RuntimeError: as asked", "finished"]
    with pytest.raises(KeyboardInterrupt):
        start("b", {"first": counting(interrupt=True), "second": counting()})
    assert ends("b") == ["interrupted"]
