"""Untrusted Python, run where it can reach nothing and use little."""

import atexit
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from thinkrl.sandbox.execution import Execution
from thinkrl.sandbox.means import find_means, installed_packages
from thinkrl.sandbox.prepared import Bounds, Prepared

_BLOCK = 4096
_MIB = 1 << 20


@dataclass(frozen=True)
class PythonSandbox:
    """Runs programs, each in a sandbox of its own: no network, no file but its scratch folder, no other process.

    A program is the text of a Python script. It begins with the same environment, the same seed of hashes and of
    `random`, and an empty scratch folder in memory; nothing of it is left when it has ended. Limits count all its
    processes together, except where their meaning says each.
    """

    wall_seconds: float = 5.0
    """Longest time by the clock."""
    cpu_seconds: int = 5
    """Most processor time, whole seconds; of each process to the second, of all of them within a second more."""
    memory_mib: int = 512
    """Most memory, in MiB: of each process exactly, of all of them as looked at twenty times a second."""
    processes: int = 16
    """Most processes and threads at once."""
    open_files: int = 64
    """Most open files of each process."""
    file_mib: int = 16
    """Largest file, in MiB."""
    disk_mib: int = 32
    """Most that all files may hold, in MiB; one file for every 4 KiB of it."""
    output_kib: int = 64
    """Most that each of the two output streams may carry, in KiB; more ends the program."""
    packages: bool = False
    """Whether programs can import the packages installed beside this one, or the standard library alone."""

    def __post_init__(self) -> None:
        for name in (
            "wall_seconds", "cpu_seconds", "processes", "open_files", "file_mib", "disk_mib", "output_kib"
        ):  # fmt: skip
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if self.memory_mib < 64:
            raise ValueError(f"memory_mib must be at least 64, which an interpreter needs, got {self.memory_mib}")
        if self.open_files < 8:
            raise ValueError(f"open_files must be at least 8, got {self.open_files}")

    def run_all(self, programs: Sequence[str]) -> list[Execution]:
        """What each program did, in order; as many run at once as this process may use cores.

        Raises SandboxError where no sandbox can be made.
        """
        find_means()
        bounds = Bounds(self.wall_seconds, self.cpu_seconds, 1024 * self.output_kib, _MIB * self.memory_mib)

        def run(program: str) -> Execution:
            return _spares.take(self).run(program, bounds)

        if len(programs) < 2:
            return [run(program) for program in programs]
        with ThreadPoolExecutor(min(len(programs), _cores())) as threads:
            return list(threads.map(run, programs))

    def prepare(self) -> Prepared:
        """A sandbox that has just been started."""
        means = find_means()
        settings: dict[str, Any] = {
            "packages": installed_packages() if self.packages else [],
            "disk_bytes": _MIB * self.disk_mib,
            "disk_files": _MIB * self.disk_mib // _BLOCK,
            "limits": {
                "CPU": self.cpu_seconds,
                "AS": _MIB * self.memory_mib,
                "NPROC": self.processes + means.own_processes,
                "NOFILE": self.open_files,
                "FSIZE": _MIB * self.file_mib,
            },
        }
        return means.prepare(settings)


class Spares:
    """Sandboxes started ahead, as many of a kind as this process has cores: starting one takes longer than most
    programs, and it is done while others run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ready: dict[PythonSandbox, list[Prepared]] = {}

    def take(self, kind: PythonSandbox) -> Prepared:
        """The one that was started first; another is started in its place."""
        with self._lock:
            ready = self._ready.setdefault(kind, [])
            ready += [kind.prepare() for _ in range(_cores() + 1 - len(ready))]
            return ready.pop(0)

    def close(self) -> None:
        """Ends those that wait."""
        with self._lock:
            for ready in self._ready.values():
                while ready:
                    ready.pop().close()

    def abandon(self) -> None:
        """In a forked child: they belong to the parent."""
        self._lock = threading.Lock()
        for ready in self._ready.values():
            for one in ready:
                one.abandon()
        self._ready = {}


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_spares = Spares()
atexit.register(_spares.close)
os.register_at_fork(after_in_child=_spares.abandon)
