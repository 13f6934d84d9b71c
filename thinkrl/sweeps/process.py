"""One run in a process of its own, which ends when this one does, can be stopped, and says why it failed."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from thinkrl.parallel.lifeline import ALIVE, lifeline

POLL_SECONDS = 0.1
LAST_STEP_SECONDS = 900.0
"""How long a run that is asked to stop may take to finish the step in hand and save it."""
_SHOWN_LINES, _LONGEST = 4, 500

Look = Callable[[], str]
"""Says why the run should stop; empty while it should not."""


@dataclass(frozen=True)
class Ended:
    """How a process ended. code: negative where a signal did. stopped: why it was asked to stop, if it was."""

    code: int
    stopped: str = ""
    last_words: str = ""

    @property
    def why(self) -> str:
        """Why it failed, in a line."""
        if self.code < 0:
            return f"ended by {_signal_name(-self.code)}: {self.last_words}"
        return f"exit code {self.code}: {self.last_words}"


def run_process(
    command: Sequence[str],
    log: Path,
    environment: Mapping[str, str],
    cwd: Path,
    look: Look = lambda: "",
    owner: int | None = None,
) -> Ended:
    """Runs `command`, appending what it prints to `log`.

    look: asked again and again while it runs. owner: a process that this one ends with, where that is its parent.
    On KeyboardInterrupt the process is asked to finish the step in hand and waited for; a second one ends it.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with lifeline() as alive, log.open("ab") as output:
        offset = output.tell()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**environment, ALIVE: str(alive)},
            cwd=cwd,
            pass_fds=(alive,),
            start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on once
        )
        try:
            stopped = _wait(process, look, owner if owner == os.getppid() else None)
        except KeyboardInterrupt:
            _ask_to_stop(process)
            raise
        finally:
            if process.poll() is None:
                _end(process)
        return Ended(process.returncode, stopped, _last_words(log, offset))


def _wait(process: subprocess.Popen[bytes], look: Look, parent: int | None) -> str:
    while process.poll() is None:
        if parent is not None and os.getppid() != parent:
            raise SystemExit("the command that this process worked for is gone")
        reason = look()
        if reason:
            _ask_to_stop(process)
            return reason
        time.sleep(POLL_SECONDS)
    return ""


def _ask_to_stop(process: subprocess.Popen[bytes]) -> None:
    """As Ctrl-C does; waits until the step in hand is saved."""
    process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + LAST_STEP_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the process and all it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last_words(log: Path, offset: int) -> str:
    """The last error that was printed from `offset` on, else the last line."""
    with log.open("rb") as file:
        file.seek(offset)
        text = file.read().decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return "it printed nothing"
    errors = [index for index, line in enumerate(lines) if line.startswith("error: ")]
    start = errors[-1] if errors else len(lines) - 1
    return " ".join(lines[start : start + _SHOWN_LINES])[:_LONGEST].removeprefix("error: ")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
