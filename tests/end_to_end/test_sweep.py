"""`thinkrl sweep` with real runs: from the command line to a table, and killed half way."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from cli_process import SMALL, finish, start

from thinkrl.sweeps.folder import SweepFolder
from thinkrl.tracking.metrics import read_rows, without_times

SIZES = [override for override in SMALL if override != "reuse=false"]


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def test_a_sweep_runs_and_says_which_point_is_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("THINKRL_CACHE", str(tmp_path / "cache"))
    args = [
        "sweep",
        "quickstart",
        *SIZES,
        "stages.grpo.learner.learning_rate=0.0,1e-3",
        "--dir",
        str(tmp_path / "sweep"),
    ]
    code = finish(start(args, tmp_path / "log"))
    log = (tmp_path / "log").read_text()
    assert code == 0, log
    found = results(tmp_path / "sweep")
    assert found["choice"]["stage"] == "validation"
    assert [run["status"] for point in found["points"] for run in point["runs"]] == ["finished"] * 2
    assert all(point["test"] is not None and point["chosen"]["n"] == 1 for point in found["points"])
    assert found["best"] in [point["point"] for point in found["points"]]
    assert "the best   thinkrl run quickstart" in log
    page = (tmp_path / "sweep" / "report.html").read_text()
    assert "stages.grpo.learner.learning_rate=0.001" in page
    # The stages before the swept value were computed once.
    logs = [path.read_text() for path in sorted((tmp_path / "sweep" / "logs").iterdir())]
    assert sum("cold_start: the same work was done before" in text for text in logs) == 1


@pytest.mark.slow
def test_a_sweep_killed_half_way_gives_eight_results_and_none_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("THINKRL_CACHE", str(tmp_path / "cache"))
    args = ["sweep", "quickstart", *SIZES, "stages.grpo.learner.learning_rate=1e-5,1e-3",
            "reward.terms.true_steps.weight=0.2,0.4", "seed=0,1", "--dir", str(tmp_path / "sweep")]  # fmt: skip
    folder = SweepFolder(tmp_path / "sweep")
    begun = start(args, tmp_path / "log")
    deadline = time.monotonic() + 1800
    try:
        while sum(state.status == "finished" for state in folder.states()) < 4 or not rows_of_the_running(folder):
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            assert begun.is_alive(), (tmp_path / "log").read_text()
            time.sleep(0.05)
    finally:
        os.kill(begun.pid, signal.SIGKILL)
        begun.join()
    before = {state.name: state for state in folder.states() if state.status == "finished"}
    kept = {name: read_rows(folder.run(name) / "metrics.jsonl") for name in before}
    assert 4 <= len(before) < 8
    assert finish(start(args, tmp_path / "log"), 1800) == 0, (tmp_path / "log").read_text()
    states = {state.name: state for state in folder.states()}
    assert len(states) == 8
    assert {state.status for state in states.values()} == {"finished"}
    for name, state in states.items():
        rows = read_rows(folder.run(name) / "metrics.jsonl")
        steps = [(row["stage"], row["step"]) for row in rows]
        assert len(steps) == len(set(steps)), "no step twice"
        record = json.loads((folder.run(name) / "run.json").read_text())
        assert len(record["starts"]) <= state.starts
        if name in before:
            assert state == before[name]
            assert rows == kept[name]
    assert sum(state.starts for state in states.values()) <= 9, "one run was cut off, and begun a second time"
    assert sum(len(point["runs"]) for point in results(tmp_path / "sweep")["points"]) == 8
    # The run that was cut off gives what it gives alone.
    (cut,) = [state for state in states.values() if state.starts == 2]
    alone = ["run", "quickstart", *folder.record()["fixed"], *cut.point, f"seed={cut.seed}", "reuse=false"]
    assert finish(start([*alone, "--dir", str(tmp_path / "alone")], tmp_path / "alone.log"), 900) == 0
    again = [without_times(row) for row in read_rows(tmp_path / "alone" / "metrics.jsonl")]
    assert [without_times(row) for row in read_rows(folder.run(cut.name) / "metrics.jsonl")] == again


def rows_of_the_running(folder: SweepFolder) -> bool:
    running = [state for state in folder.states() if state.status == "running"]
    return any(len(read_rows(folder.run(state.name) / "metrics.jsonl")) > 2 for state in running)
