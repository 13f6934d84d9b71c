"""Whole runs by two processes: killed, stopped and gone on with, they come to what one process comes to."""

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from cli_process import finish, small_quickstart, start
from run_contents import files, metric_rows
from safetensors.torch import load_file
from test_crash import check_equal, wait_for_rows

PLAIN = ("learner.processes=2",)
STAGE_3 = ("learner=deepspeed", "learner.processes=2", "learner.zero_stage=3")
LIMIT = 1e-5


def started(run: Path, overrides: tuple[str, ...], log: Path) -> Any:
    return start([*small_quickstart(run), *overrides], log)


def finished(run: Path, overrides: tuple[str, ...], log: Path) -> str:
    assert finish(started(run, overrides, log)) == 0, log.read_text()
    return log.read_text()


def rank_of(launcher: Any, rank: int) -> psutil.Process:
    children = psutil.Process(launcher.pid).children()
    return next(child for child in children if child.environ().get("RANK") == str(rank))


def check_like(run: Path, reference: Path) -> None:
    """The same rows, once each, and the same weights, up to the order of sums."""
    rows, expected = metric_rows(run), metric_rows(reference)
    assert [row["row"] for row in rows] == list(range(len(expected)))
    for row, other in zip(rows, expected, strict=True):
        numbers, others = ({k: v for k, v in r.items() if isinstance(v, float | int)} for r in (row, other))
        assert numbers == pytest.approx(others, rel=LIMIT, abs=1e-5)
        assert {k: v for k, v in row.items() if k not in numbers} == {k: v for k, v in other.items() if k not in others}
    for path in sorted((reference / "stages").glob("*/model/model.safetensors")):
        found, wanted = load_file(run / path.relative_to(reference)), load_file(path)
        assert found.keys() == wanted.keys()
        for name, weight in wanted.items():
            assert float((found[name] - weight).norm()) < LIMIT * float(weight.norm()), name
    assert files(run).keys() == files(reference).keys()


def test_a_killed_process_ends_the_run_by_name_and_the_same_command_goes_on(undisturbed: Path, tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    launcher = started(run, PLAIN, log)
    wait_for_rows(run, 9)
    lost = rank_of(launcher, 1)
    lost.kill()
    assert finish(launcher, 30) == 1
    said = log.read_text()
    assert f"rank 1 of 2 (pid {lost.pid}) was ended by SIGKILL" in said
    assert "rank 0 of 2 waited for the others at '" in said
    assert "Traceback" not in said
    finished(run, PLAIN, log)
    check_like(run, undisturbed)


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
def test_ctrl_c_under_deepspeed_saves_the_step_in_hand(undisturbed: Path, tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    launcher = started(run, STAGE_3, log)
    wait_for_rows(run, 9)
    os.kill(launcher.pid, signal.SIGINT)
    assert finish(launcher, 60) == 130
    said = log.read_text()
    assert said.count("Ctrl-C: finishing this step") == 1
    assert "the same command" in said
    assert "Traceback" not in said
    done = len(metric_rows(run))
    assert "continuing after step" in finished(run, STAGE_3, log)[len(said) :] or done in (9, 13)
    check_like(run, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [PLAIN, STAGE_3], ids=["torch", "stage 3"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_run_goes_on_bit_for_bit(overrides: tuple[str, ...], rank: int, tmp_path: Path) -> None:
    finished(tmp_path / "whole", overrides, tmp_path / "log")
    launcher = started(tmp_path / "run", overrides, tmp_path / "log")
    for rows in (2, 9):
        wait_for_rows(tmp_path / "run", rows)
        rank_of(launcher, rank).kill()
        assert finish(launcher, 60) == 1
        launcher = started(tmp_path / "run", overrides, tmp_path / "log")
    assert finish(launcher) == 0
    check_equal(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(undisturbed: Path, tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    launcher = started(run, PLAIN, log)
    wait_for_rows(run, 9)
    rank_of(launcher, 1).kill()
    assert finish(launcher, 30) == 1
    finished(run, ("learner.processes=3",), log)
    check_like(run, undisturbed)


@pytest.mark.slow
def test_torchrun_starts_the_processes_as_well(undisturbed: Path, tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "thinkrl",
        *small_quickstart(tmp_path / "run"), *PLAIN,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    check_like(tmp_path / "run", undisturbed)


@pytest.mark.slow
def test_srun_starts_the_processes_as_well(undisturbed: Path, tmp_path: Path) -> None:
    """Its environment, that is: there is no Slurm here."""
    command = [sys.executable, "-m", "thinkrl", *small_quickstart(tmp_path / "run"), *PLAIN]
    slurm = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NODELIST": "localhost"}
    processes = [
        subprocess.Popen(command, env={**os.environ, **slurm, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)})
        for rank in range(2)
    ]
    assert [process.wait(240) for process in processes] == [0, 0]
    check_like(tmp_path / "run", undisturbed)
