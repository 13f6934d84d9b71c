"""Starts the processes of a run on this machine, and ends all of them when one is lost.

The first process has this terminal; what the others print is kept and shown when they are the ones that failed.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import typer

from thinkrl.parallel.lifeline import ALIVE, lifeline
from thinkrl.parallel.place import Place

LOST_RANK_EXIT = 75
"""Exit code of a process that ended because another did: never the one to blame."""
INTERRUPT_EXIT = 130

LOOK_SECONDS = 0.05
BLAME_SECONDS = 2.0
"""How long to wait, after a process has failed, for the one whose end it may only have felt."""
FEEL_SECONDS = 5.0
"""How long the others have to notice by themselves that one is lost, and to say what they waited for."""
TERMINATE_SECONDS = 10.0
"""How long the others then have to end by themselves before they are killed."""
LAST_SECONDS = 600.0
"""How long the others may take to end after the first of them ended well."""
COMMAND = (sys.executable, "-P", "-m", "thinkrl")
_SHOWN_LINES = 15


@dataclass
class _Process:
    rank: int
    popen: subprocess.Popen[bytes]
    output: Path | None
    """What it prints, unless it prints to this terminal."""

    @property
    def code(self) -> int | None:
        return self.popen.poll()


def wanted_processes(tree: Mapping[str, Any]) -> int:
    """The number of processes that the learners of a composed recipe ask for; 1 where a value is not a number,
    which building the recipe then says."""
    stages = tree.get("stages") or {}
    learners = [tree.get("learner"), *(stage.get("learner") for stage in stages.values() if isinstance(stage, Mapping))]
    wanted = [learner.get("processes", 1) for learner in learners if isinstance(learner, Mapping)]
    return max([1, *(number for number in wanted if type(number) is int)])


def launch(processes: int, arguments: Sequence[str]) -> int:
    """Runs `thinkrl ARGUMENTS` in `processes` processes and returns the exit code for all of them."""
    with tempfile.TemporaryDirectory(prefix="thinkrl-ranks-") as folder, lifeline() as alive:
        started = _start(processes, arguments, Path(folder), alive)
        try:
            with _forwarding(started):
                return _supervise(started)
        finally:
            _end(started)


def _start(processes: int, arguments: Sequence[str], folder: Path, alive: int) -> list[_Process]:
    port = _free_port()
    threads = max(1, len(os.sched_getaffinity(0)) // processes) if hasattr(os, "sched_getaffinity") else 1
    started: list[_Process] = []
    for rank in range(processes):
        place = Place(rank, processes, rank, "127.0.0.1", port)
        # Threads of one process must not take the cores of the next.
        own = {"OMP_NUM_THREADS": str(threads), **os.environ, **place.environment(), ALIVE: str(alive)}
        output = None if rank == 0 else folder / f"rank{rank}"
        log: IO[bytes] | None = None if output is None else output.open("wb")
        try:
            popen = subprocess.Popen(
                [*COMMAND, *arguments],
                env=own,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT if log else None,
                pass_fds=(alive,),
                start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on once
            )
        except BaseException:
            _end(started)
            raise
        finally:
            if log is not None:
                log.close()
        started.append(_Process(rank, popen, output))
    return started


def _supervise(started: Sequence[_Process]) -> int:
    """Waits until all have ended, or one has failed and the others were stopped."""
    first_end: float | None = None
    while True:
        codes = [process.code for process in started]
        if any(code not in (None, 0, INTERRUPT_EXIT) for code in codes):
            return _fail(started)
        if None not in codes:
            return max(code for code in codes if code is not None)
        if any(code is not None for code in codes):
            first_end = first_end or time.monotonic()
            if time.monotonic() - first_end > LAST_SECONDS:
                late = [str(process.rank) for process in started if process.code is None]
                typer.echo(
                    f"error: ranks {', '.join(late)} go on {LAST_SECONDS:.0f} s after the others ended", err=True
                )
                return 1
        time.sleep(LOOK_SECONDS)


def _fail(started: Sequence[_Process]) -> int:
    """Finds the process that failed first, ends the others, and says what happened."""
    deadline = time.monotonic() + BLAME_SECONDS
    culprit = _culprit(started)
    while culprit is None or (culprit.code == LOST_RANK_EXIT and time.monotonic() < deadline):
        time.sleep(LOOK_SECONDS)
        culprit = _culprit(started)
    code = culprit.code or 1
    deadline = time.monotonic() + FEEL_SECONDS
    while any(process.code is None for process in started) and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
    _end(started)
    if culprit.rank == 0 and code > 0:  # it has said so itself, on this terminal
        return code
    how = f"was ended by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
    typer.echo(
        f"error: rank {culprit.rank} of {len(started)} (pid {culprit.popen.pid}) {how}, so the others were stopped;"
        f" the same command goes on from the last checkpoint{_last_lines(culprit)}",
        err=True,
    )
    return code if code > 0 else 1


def _culprit(started: Sequence[_Process]) -> _Process | None:
    """A process that failed: one that a signal ended before one that gave up, and one that only felt it last."""
    failed = [process for process in started if process.code not in (None, 0, INTERRUPT_EXIT)]

    def order(process: _Process) -> tuple[int, int]:
        code = process.code or 0
        return (0 if code < 0 else 2 if code == LOST_RANK_EXIT else 1, process.rank)

    return min(failed, key=order) if failed else None


def _end(started: Sequence[_Process]) -> None:
    """Ends what still runs: asked first, killed after a while."""
    for process in started:
        if process.code is None:
            _send(process, signal.SIGTERM)
    deadline = time.monotonic() + TERMINATE_SECONDS
    for process in started:
        try:
            process.popen.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            _send(process, signal.SIGKILL)
            process.popen.wait()


def _send(process: _Process, number: int) -> None:
    """Signals the process and all it started (reward workers, engines)."""
    with suppress(ProcessLookupError):
        os.killpg(process.popen.pid, number)


def _last_lines(process: _Process) -> str:
    if process.output is None:
        return ""
    lines = process.output.read_text(errors="replace").strip().splitlines()[-_SHOWN_LINES:]
    return ". Its last lines:\n" + "\n".join(f"  {line}" for line in lines) if lines else ". It printed nothing"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _forwarding(started: Sequence[_Process]) -> Iterator[None]:
    """Passes Ctrl-C on, once: the processes finish the step in hand and save it. A second one, or a request to
    terminate, ends them."""
    asked = 0

    def interrupt(number: int, frame: object) -> None:
        nonlocal asked
        asked += 1
        if asked > 1:
            raise KeyboardInterrupt
        for process in started:
            if process.code is None:
                process.popen.send_signal(signal.SIGINT)

    def terminate(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, terminate)
    signal.signal(signal.SIGHUP, terminate)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
