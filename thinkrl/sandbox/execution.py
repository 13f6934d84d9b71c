"""What a sandboxed program did: its output, how it ended, and which limit ended it."""

import signal
from dataclasses import dataclass, field
from enum import StrEnum

from thinkrl.config.component import UserError


class SandboxError(UserError):
    """Sandboxes cannot be made or kept here: never a program's fault, so never its result."""


class Limit(StrEnum):
    """A limit that a program ran into."""

    WALL = "wall time"
    CPU = "processor time"
    MEMORY = "memory"
    PROCESSES = "processes"
    OPEN_FILES = "open files"
    FILE_SIZE = "file size"
    DISK = "disk"
    OUTPUT = "output"


@dataclass(frozen=True)
class Execution:
    """One program's run.

    stdout, stderr: what it wrote, cut at the limit on output; after `WALL` or `OUTPUT` how much of either had come
        depends on timing, up to that cut. exit_code: None where a signal or a limit ended it. signal: its name.
    limit: the limit it ran into, also where the program itself ended with the error that a limit causes.
    seconds: wall time, which no comparison of executions reads.
    """

    stdout: str
    stderr: str
    exit_code: int | None
    signal: str = ""
    limit: Limit | None = None
    seconds: float = field(default=0.0, compare=False)

    @property
    def succeeded(self) -> bool:
        """Whether the program ended by itself, with exit code 0."""
        return self.exit_code == 0


_ERRORS = {
    "MemoryError": Limit.MEMORY,
    "BlockingIOError: [Errno 11]": Limit.PROCESSES,
    "RuntimeError: can't start new thread": Limit.PROCESSES,
    "OSError: [Errno 24]": Limit.OPEN_FILES,
    "OSError: [Errno 27]": Limit.FILE_SIZE,
    "OSError: [Errno 28]": Limit.DISK,
}
"""How the last line of a traceback begins where a limit made a call fail."""


def limit_of(code: int, stderr: str, cpu_seconds: float, cpu_limit: float) -> Limit | None:
    """The limit that a program ran into which ended with `code` (negative: the number of a signal)."""
    if code == -signal.SIGXCPU or (code == -signal.SIGKILL and cpu_seconds >= cpu_limit):
        return Limit.CPU
    if code == 0:
        return None
    last = stderr.rstrip().rpartition("\n")[2]
    return next((limit for start, limit in _ERRORS.items() if last.startswith(start)), None)
