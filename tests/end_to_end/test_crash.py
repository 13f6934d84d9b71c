"""Kill the run anywhere, start it again: tokens, weights and metrics equal those of an undisturbed run."""

import random
import signal
import time
from pathlib import Path

import pytest
from cli_process import finish, small_quickstart, start
from run_contents import files, metric_rows

KILLS = [
    [("row", 2)],
    [("tensors", 3)],
    [("tensors", 40), ("tensors", 2)],
    [("checkpoint", 2)],
    [("rollouts", 3), ("row", 2)],
    [("model", 2)],
    [("stage", 6)],
]


def check_equal(run: Path, reference: Path) -> None:
    assert metric_rows(run) == metric_rows(reference)
    assert files(run) == files(reference)


def test_two_runs_are_equal_to_the_byte(undisturbed: Path, tmp_path: Path) -> None:
    assert finish(start(small_quickstart(tmp_path / "run"), tmp_path / "log")) == 0
    check_equal(tmp_path / "run", undisturbed)
    assert len(metric_rows(undisturbed)) == 3 + 1 + 2 + 1 + 1 + 4 + 1


@pytest.mark.parametrize("kills", KILLS, ids=lambda kills: "_then_".join(f"{place}{count}" for place, count in kills))
def test_killed_and_started_again(kills: list[tuple[str, int]], undisturbed: Path, tmp_path: Path) -> None:
    for kill in kills:
        assert finish(start(small_quickstart(tmp_path / "run"), tmp_path / "log", kill)) == -signal.SIGKILL
    assert finish(start(small_quickstart(tmp_path / "run"), tmp_path / "log")) == 0, (tmp_path / "log").read_text()
    check_equal(tmp_path / "run", undisturbed)


def test_interrupted_and_started_again(undisturbed: Path, tmp_path: Path) -> None:
    process = start(small_quickstart(tmp_path / "run"), tmp_path / "log")
    wait_for_rows(tmp_path / "run", 9)
    signal_process(process.pid, signal.SIGINT)
    assert finish(process) == 130
    log = (tmp_path / "log").read_text()
    assert "the same command" in log
    assert "Traceback" not in log
    assert finish(start(small_quickstart(tmp_path / "run"), tmp_path / "log")) == 0
    check_equal(tmp_path / "run", undisturbed)


@pytest.mark.slow
def test_ten_random_kills(undisturbed: Path, tmp_path: Path) -> None:
    rng = random.Random()
    begun = time.monotonic()
    assert finish(start(small_quickstart(tmp_path / "timing"), tmp_path / "log")) == 0
    whole = time.monotonic() - begun
    for attempt in range(10):
        run = tmp_path / f"run{attempt}"
        for _ in range(rng.choice([1, 2])):
            process = start(small_quickstart(run), tmp_path / "log")
            time.sleep(rng.uniform(0.1, whole))
            process.kill()
            process.join()
        assert finish(start(small_quickstart(run), tmp_path / "log")) == 0, (tmp_path / "log").read_text()
        check_equal(run, undisturbed)


def wait_for_rows(run: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if (run / "metrics.jsonl").exists() and (run / "metrics.jsonl").read_text().count("\n") >= count:
            return
        time.sleep(0.01)
    raise AssertionError(f"no {count} metric rows within two minutes")


def signal_process(pid: int | None, number: int) -> None:
    import os

    assert pid is not None
    os.kill(pid, number)
