"""Server processes that a run starts: each has a log, an end that is noticed, and no life after the run's."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from thinkrl.sampling.vllm_serve import PARENT

_LOG_LINES, _LOG_WIDTH = 12, 200
_STOP_SECONDS = 10.0


class ServerProcess:
    """vLLM's server behind a socket in `folder`, which nobody but this user can reach."""

    def __init__(self, name: str, folder: Path, arguments: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        self.name = name
        self.socket = folder / "socket"
        self._log = folder / "log"
        command = [sys.executable, "-m", "thinkrl.sampling.vllm_serve", *flags(arguments), f"--uds={self.socket}"]
        with self._log.open("wb") as log:
            # A session of its own: Ctrl-C in a terminal asks the run to finish its step, not the server to end.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **environment, PARENT: str(os.getpid())},
            )

    @property
    def pid(self) -> int:
        """Process number of the server; its engine is a child of it, in the same process group."""
        return self._process.pid

    def ended(self) -> str | None:
        """How the process ended, with the last lines of its log; None while it runs."""
        code = self._process.poll()
        if code is None:
            return None
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return f"process {self.pid} {how}{self.log_tail()}"

    def log_tail(self) -> str:
        """The last lines of the log, to be appended to a message."""
        lines = self._log.read_text(errors="replace").strip().splitlines()[-_LOG_LINES:]
        return "".join(f"\n  | {line[:_LOG_WIDTH]}" for line in lines)

    def close(self) -> None:
        """Asks the server to end, and kills its whole group when it has not within ten seconds."""
        if self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_SECONDS)
        _kill_group(self._process.pid)
        self._process.wait()


def flags(arguments: Mapping[str, Any]) -> list[str]:
    """Engine arguments as the server's command line has them."""
    found = []
    for name, value in arguments.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            found.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            found.append(f"--{flag}={value}")
    return found


def _kill_group(group: int) -> None:
    """Ends what is left of a process group, and waits until nothing is."""
    deadline = time.monotonic() + _STOP_SECONDS
    try:
        while time.monotonic() < deadline:
            os.killpg(group, signal.SIGKILL)
            time.sleep(0.02)
    except (ProcessLookupError, PermissionError):
        return
