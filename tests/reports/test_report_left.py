"""Every `thinkrl run` leaves a page, however it ends, and the page never changes how it ends."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from run_files import write_run
from typer.testing import CliRunner

from thinkrl.cli.app import app
from thinkrl.reports import writing
from thinkrl.stages import runner
from thinkrl.tracking.errors import RunError

Ending = Callable[[BaseException, int], tuple[int, str, Path]]


@pytest.fixture
def ending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ending:
    """Runs a recipe whose run, of the process of that id, ends with an error; exit code, output and directory."""

    def end(error: BaseException, pid: int) -> tuple[int, str, Path]:
        def run_experiment(experiment: object, composed: object, directory: Path) -> None:
            start = {"time": "2026-11-25T04:30:00+00:00", "pid": pid, "ended": "2026-11-25T04:31:00+00:00"}
            write_run(
                directory, unfinished="rl", record={"starts": [{**start, "end": f"{type(error).__name__}: {error}"}]}
            )
            raise error

        monkeypatch.setattr(runner, "run_experiment", run_experiment)
        done = CliRunner().invoke(app, ["run", "quickstart", "scale=smoke", "--dir", str(tmp_path / "run")])
        return done.exit_code, done.output, tmp_path / "run"

    return end


def test_a_run_that_failed_leaves_a_page_that_says_why(ending: Ending) -> None:
    code, said, run = ending(RunError("the disk is full"), os.getpid())
    assert code == 1
    assert "the disk is full" in said
    assert "stopped in stage rl: RunError: the disk is full" in (run / "report.html").read_text()


def test_so_does_one_that_was_interrupted(ending: Ending) -> None:
    code, said, run = ending(KeyboardInterrupt(), os.getpid())
    assert code == 130
    assert "the same command goes on" in said
    assert (run / "report.html").is_file()


@pytest.mark.parametrize("trouble", [ValueError("a bad number"), KeyboardInterrupt(), MemoryError()])
def test_a_page_that_fails_changes_nothing(
    ending: Ending, monkeypatch: pytest.MonkeyPatch, trouble: BaseException
) -> None:
    def fail(paths: object) -> None:
        raise trouble

    monkeypatch.setattr(writing, "make_report", fail)
    code, said, run = ending(RunError("the disk is full"), os.getpid())
    assert code == 1
    assert "the disk is full" in said
    assert "no report was made" in said
    assert not (run / "report.html").exists()


def test_what_another_process_runs_is_left_alone(ending: Ending) -> None:
    code, _, run = ending(RunError("in use by another process"), os.getpid() + 1)
    assert code == 1
    assert not (run / "report.html").exists()


def test_a_page_of_ones_own_is_kept(ending: Ending, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path / "mine", record={"starts": [{"pid": os.getpid()}]})
    (run / "report.html").write_text("my own page")
    writing.leave_report(run)
    assert (run / "report.html").read_text() == "my own page"
