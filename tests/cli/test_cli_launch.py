"""The launcher over small programs that stand in for ranks: who is started, who is blamed, who is ended."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from thinkrl.cli import launch as launching
from thinkrl.cli.app import app
from thinkrl.cli.launch import LOST_RANK_EXIT, launch, wanted_processes
from thinkrl.parallel.place import Place

RANK = "import os, signal, sys, time\nrank = int(os.environ['RANK'])\n"


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch):
    """Sets what each rank runs."""

    def set_program(text: str) -> list[str]:
        monkeypatch.setattr(launching, "COMMAND", (sys.executable, "-c"))
        monkeypatch.setattr(launching, "TERMINATE_SECONDS", 1.0)
        monkeypatch.setattr(launching, "FEEL_SECONDS", 1.0)
        return [RANK + textwrap.dedent(text)]

    return set_program


def test_each_process_is_told_its_place(program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    text = f"""
        import json
        open(f"{tmp_path}/{{rank}}", "w").write(json.dumps(dict(os.environ)))
    """
    assert launch(3, program(text)) == 0
    told = [json.loads((tmp_path / str(rank)).read_text()) for rank in range(3)]
    assert [(t["RANK"], t["LOCAL_RANK"], t["WORLD_SIZE"]) for t in told] == [(str(r), str(r), "3") for r in range(3)]
    assert len({(t["MASTER_ADDR"], t["MASTER_PORT"]) for t in told}) == 1
    cores = len(os.sched_getaffinity(0))
    assert {t["OMP_NUM_THREADS"] for t in told} == {str(max(1, cores // 3))}, "threads do not take each other's cores"


def test_only_the_first_prints_to_this_terminal(program, capfd: pytest.CaptureFixture[str]) -> None:
    assert launch(2, program("print('hello from', rank, flush=True)")) == 0
    assert capfd.readouterr().out == "hello from 0\n"


def test_a_killed_rank_is_named_and_the_others_are_ended(program, capfd: pytest.CaptureFixture[str]) -> None:
    text = """
        if rank == 1:
            print("about to be killed", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
    """
    begun = time.monotonic()
    assert launch(2, program(text)) == 1
    assert time.monotonic() - begun < 10
    said = capfd.readouterr().err
    assert "rank 1 of 2" in said
    assert "was ended by SIGKILL" in said
    assert "about to be killed" in said


def test_the_others_have_time_to_say_what_they_waited_for(program, capfd: pytest.CaptureFixture[str]) -> None:
    text = f"""
        if rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.5)
        print("rank 0 waited for the others", flush=True)
        sys.exit({LOST_RANK_EXIT})
    """
    assert launch(2, program(text)) == 1
    said = capfd.readouterr()
    assert "rank 0 waited for the others" in said.out
    assert "rank 1 of 2" in said.err


def test_the_one_who_failed_is_blamed_not_the_one_who_noticed_first(program, capfd: pytest.CaptureFixture[str]) -> None:
    text = f"""
        if rank == 2:
            time.sleep(0.5)
            raise ValueError("the real reason")
        sys.exit({LOST_RANK_EXIT} if rank else 0)
    """
    assert launch(3, program(text)) == 1
    said = capfd.readouterr().err
    assert "rank 2 of 3" in said
    assert "ended with exit code 1" in said
    assert "ValueError: the real reason" in said


def test_what_the_first_process_says_itself_is_not_said_again(program, capfd: pytest.CaptureFixture[str]) -> None:
    text = f"""
        if rank == 0:
            print("error: bad configuration", file=sys.stderr)
            sys.exit(2)
        sys.exit({LOST_RANK_EXIT})
    """
    assert launch(2, program(text)) == 2
    assert capfd.readouterr().err == "error: bad configuration\n"


def test_a_rank_that_will_not_end_is_killed(program) -> None:
    text = """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if rank == 1:
            time.sleep(0.5)
            sys.exit(3)
        time.sleep(60)
    """
    begun = time.monotonic()
    assert launch(2, program(text)) == 3
    assert time.monotonic() - begun < 10


def test_ranks_that_go_on_for_ever_after_the_others_are_ended(program, monkeypatch, capfd) -> None:
    monkeypatch.setattr(launching, "LAST_SECONDS", 0.5)
    assert launch(2, program("time.sleep(60 * rank)")) == 1
    assert "ranks 1 go on" in capfd.readouterr().err


COUNT_INTERRUPTS = """
    caught = []
    signal.signal(signal.SIGINT, lambda *_: caught.append(1))
    open(f"{folder}/ready{rank}", "w").close()
    while not caught:
        time.sleep(0.02)
    time.sleep(0.5)
    open(f"{folder}/caught{rank}", "w").write(str(len(caught)))
    sys.exit(130)
"""


def launcher(tmp_path: Path, text: str) -> subprocess.Popen[bytes]:
    """The launcher of two ranks in a process of its own, once both are ready."""
    program = RANK + f"folder = {str(tmp_path)!r}\n" + textwrap.dedent(text)
    start = (
        "import sys; from thinkrl.cli import launch; launch.COMMAND = (sys.executable, '-c');"
        f"sys.exit(launch.launch(2, [{program!r}]))"
    )
    process = subprocess.Popen([sys.executable, "-c", start], start_new_session=True)
    wait_until(lambda: all((tmp_path / f"ready{rank}").exists() for rank in range(2)))
    return process


def wait_until(happened, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_ctrl_c_reaches_each_rank_once(tmp_path: Path) -> None:
    process = launcher(tmp_path, COUNT_INTERRUPTS)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    assert process.wait(20) == 130
    assert [(tmp_path / f"caught{rank}").read_text() for rank in range(2)] == ["1", "1"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_rank_outlives_its_launcher(tmp_path: Path, number: signal.Signals) -> None:
    text = """
        from thinkrl.parallel.lifeline import watch_launcher
        watch_launcher(os.environ)
        open(f"{folder}/ready{rank}", "w").close()
        time.sleep(60)
    """
    process = launcher(tmp_path, text)
    ranks = psutil.Process(process.pid).children()
    assert len(ranks) == 2
    process.send_signal(number)
    process.wait(20)
    wait_until(lambda: not any(rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE for rank in ranks))


@pytest.mark.parametrize(
    ("tree", "count"),
    [
        ({}, 1),
        ({"learner": {"processes": 4}}, 4),
        ({"learner": {"processes": 4}, "stages": {"a": {"learner": {"processes": 4}}, "b": {"steps": 1}}}, 4),
        ({"stages": {"a": {"learner": {"processes": 2}}, "b": None}}, 2),
        ({"learner": {"processes": "two"}}, 1),
        ({"learner": {"processes": True}}, 1),
        ({"learner": None, "stages": None}, 1),
    ],
)
def test_the_number_of_processes_is_read_from_the_recipe(tree, count) -> None:
    assert wanted_processes(tree) == count


def test_a_number_of_processes_that_was_not_asked_for_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in Place(0, 4, 0, "nowhere", 1).environment().items():
        monkeypatch.setenv(name, value)
    arguments = ["run", "quickstart", "scale=smoke", "learner.processes=2", "--dir", str(tmp_path / "run")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert "4 processes were started, but learner.processes is 2: set learner.processes=4" in done.output
    assert not (tmp_path / "run").exists()


def test_learners_of_one_recipe_must_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    done = CliRunner().invoke(app, ["run", "quickstart", "stages.grpo.learner.processes=2", "--dry-run"])
    assert done.exit_code == 2
    assert "learners must agree on processes" in done.output
