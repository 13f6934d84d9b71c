"""A pool of processes that may be killed: every request has a deadline, and the pool goes on after it.

Workers are plain subprocesses, not children of `multiprocessing`: they start from any thread and from any
process (also a daemonic one), and never import the caller's main module. The parent keeps the clock with
`poll` on the pipe, so a worker stuck inside one C call is killed all the same. A worker sets itself an alarm
beyond the deadline, so that it ends even if its parent was killed while it hung.
"""

import atexit
import contextlib
import json
import os
import queue
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from thinkrl.config.component import UserError

START_SECONDS = 120.0
"""How long a worker may take to import its libraries."""


class WorkerTimeoutError(Exception):
    """The deadline passed; the worker was killed."""


class WorkerDiedError(Exception):
    """The worker ended by itself, as it does beyond its memory limit."""


class WorkerStartError(UserError):
    """Workers cannot be started: no answer's fault, so never a verdict."""


@dataclass(frozen=True)
class PoolSpec:
    """What identifies a pool: the module its workers run, how many, and their memory limit in MiB."""

    module: str
    workers: int
    memory_mib: int


class _Worker:
    """One process that answers JSON lines with JSON lines."""

    def __init__(self, spec: PoolSpec) -> None:
        path = os.pathsep.join(part for part in sys.path if part)
        self.process = subprocess.Popen(
            [sys.executable, "-m", spec.module, str(spec.memory_mib)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # Set iteration order reaches sympy's results; a fixed seed keeps grading the same in every run.
            env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "0"},
        )
        try:
            self._read(START_SECONDS)
        except (WorkerTimeoutError, WorkerDiedError) as error:
            raise WorkerStartError(
                f"the process that checks answers does not start: {error}."
                f" `{sys.executable} -m {spec.module} {spec.memory_mib}` shows why"
            ) from error

    def ask(self, request: Any, seconds: float) -> Any:
        """The answer to `request`, within `seconds`; kills the worker otherwise."""
        line = json.dumps({"seconds": seconds, "request": request}) + "\n"
        try:
            assert self.process.stdin is not None
            self.process.stdin.write(line.encode())
            self.process.stdin.flush()
        except OSError as error:
            self.kill()
            raise WorkerDiedError("the worker is gone") from error
        return self._read(seconds)

    def _read(self, seconds: float) -> Any:
        assert self.process.stdout is not None
        pipe = self.process.stdout.fileno()
        ready = select.poll()
        ready.register(pipe, select.POLLIN | select.POLLHUP)
        deadline, received = time.monotonic() + seconds, b""
        while not received.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not ready.poll(left * 1000):
                self.kill()
                raise WorkerTimeoutError(f"no answer within {seconds:g} s")
            chunk = os.read(pipe, 65536)
            if not chunk:
                self.kill()
                raise WorkerDiedError(f"the worker ended with code {self.process.returncode}")
            received += chunk
        return json.loads(received)

    def kill(self) -> None:
        """Ends the process and closes its pipes."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


class WorkerPool:
    """Up to `spec.workers` processes, started when first needed; a killed one is replaced at its next turn."""

    def __init__(self, spec: PoolSpec) -> None:
        self.spec = spec
        self._places: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(spec.workers):
            self._places.put(None)

    def ask(self, request: Any, seconds: float) -> Any:
        """The answer of a free worker; `seconds` count from the moment it has the request.

        Raises WorkerTimeoutError or WorkerDiedError; the pool can be asked again after either. Raises
        WorkerStartError where no process can be started.
        """
        worker = self._places.get()
        try:
            if worker is None or worker.process.poll() is not None:
                worker = _Worker(self.spec)
            return worker.ask(request, seconds)
        finally:
            self._places.put(worker if worker is not None and worker.process.poll() is None else None)

    def map(self, ask_one: Callable[[Any], Any], requests: Sequence[Any]) -> list[Any]:
        """`ask_one` of every request, over as many threads as there are workers, in order."""
        if len(requests) < 2:
            return [ask_one(request) for request in requests]
        with ThreadPoolExecutor(min(self.spec.workers, len(requests))) as threads:
            return list(threads.map(ask_one, requests))

    def close(self) -> None:
        """Kills the workers that are free."""
        for _ in range(self.spec.workers):
            with contextlib.suppress(queue.Empty):
                worker = self._places.get_nowait()
                if worker is not None:
                    worker.kill()


_pools: dict[PoolSpec, WorkerPool] = {}
_lock = threading.Lock()


def shared_pool(spec: PoolSpec) -> WorkerPool:
    """This process's pool for `spec`, made at the first call and closed at exit."""
    with _lock:
        if spec not in _pools:
            _pools[spec] = WorkerPool(spec)
        return _pools[spec]


def _close_all() -> None:
    for pool in _pools.values():
        pool.close()


def _forget() -> None:
    """In a forked child: the pipes belong to the parent, so the child begins with no pools."""
    global _lock
    _pools.clear()
    _lock = threading.Lock()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_forget)
