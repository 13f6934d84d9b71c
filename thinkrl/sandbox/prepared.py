"""A sandbox that stands ready for one program: started ahead, used once, and gone with everything in it."""

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinkrl.sandbox.execution import Execution, Limit, SandboxError, limit_of

START_SECONDS = 30.0
"""How long a sandbox may take to start."""
_END_SECONDS = 5.0
_WATCH_SECONDS = 0.05
_TICKS = os.sysconf("SC_CLK_TCK")
_READY = b"ready\n"


@dataclass(frozen=True)
class Bounds:
    """What is counted from outside: seconds, bytes of each output stream, bytes of memory of all processes."""

    wall_seconds: float
    cpu_seconds: float
    output_bytes: int
    memory_bytes: int


class Prepared:
    """A started sandbox. `command` is told the ends of two pipes, by which it is given a program and says how it went.

    The other end of the first closes with this process, however that ends, and the sandbox ends with it.
    """

    def __init__(self, command: Sequence[str], settings: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        control, self._control = os.pipe()
        self._status, status = os.pipe()
        told = json.dumps({**settings, "control": control, "status": status})
        try:
            self._process = subprocess.Popen(
                [*command, told],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(control, status),
                env=dict(environment),
                cwd="/",
            )
        except OSError as error:
            os.close(self._control)
            os.close(self._status)
            raise SandboxError(f"{command[0]} cannot be started: {error.strerror}") from error
        finally:
            os.close(control)
            os.close(status)
        self._ready = False

    def wait_ready(self) -> None:
        """Waits until it stands. Raises SandboxError, with the reason, where it does not within `START_SECONDS`."""
        if self._ready:
            return
        told, deadline = b"", time.monotonic() + START_SECONDS
        while not told.endswith(b"\n"):
            if not select.select([self._status], [], [], max(0.0, deadline - time.monotonic()))[0]:
                break
            part = os.read(self._status, 4096)
            if not part:
                break
            told += part
        self._ready = told == _READY
        if not self._ready:
            reason = told.decode(errors="replace").removeprefix("failed ").strip() or self._last_words()
            self.close()
            raise SandboxError(reason)

    def watched(self) -> bool:
        """Whether its processes can be seen from here, without which memory and time of all could not be limited."""
        return self._used() != (0, 0)

    def run(self, program: str, bounds: Bounds) -> Execution:
        """Runs `program`, and ends the sandbox. Raises SandboxError where the sandbox itself fails."""
        self.wait_ready()
        source = program.encode("utf-8", errors="replace")
        begin = time.monotonic()
        try:
            with contextlib.suppress(BrokenPipeError):
                _write(self._control, len(source).to_bytes(8, "little") + source)
            streams, limit = self._follow(bounds, begin + bounds.wall_seconds)
        finally:
            self.close()
        seconds = time.monotonic() - begin
        stdout, stderr = (bytes(part[: bounds.output_bytes]).decode(errors="replace") for part in streams[:2])
        if limit is not None:
            return Execution(stdout, stderr, None, limit=limit, seconds=seconds)
        try:
            told = json.loads(streams[2])
        except ValueError as error:
            raise SandboxError(f"a sandbox ended without saying how: {stderr[-500:] or 'no output'}") from error
        if "limit" in told:
            return Execution(stdout, stderr, None, limit=Limit(told["limit"]), seconds=seconds)
        code = int(told["code"])
        return Execution(
            stdout,
            stderr,
            code if code >= 0 else None,
            signal.Signals(-code).name if code < 0 else "",
            limit_of(code, stderr, told["cpu_seconds"], bounds.cpu_seconds),
            seconds,
        )

    def close(self) -> None:
        """Ends the sandbox, and returns when all its processes are gone. It may be called more than once."""
        for end in (self._control, self._status):
            if end >= 0:
                os.close(end)
        self._control = self._status = -1
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            for pid in [*_below(self._process.pid), self._process.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.wait()

    def abandon(self) -> None:
        """In a forked child: lets go of the pipes, so that the sandbox ends with the parent."""
        for end in (self._control, self._status):
            if end >= 0:
                os.close(end)
        self._control = self._status = -1

    def _follow(self, bounds: Bounds, deadline: float) -> tuple[list[bytearray], Limit | None]:
        """Everything that comes from the two streams and the status pipe, until all close or a limit is reached."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        pipes = [self._process.stdout.fileno(), self._process.stderr.fileno(), self._status]
        streams = [bytearray() for _ in pipes]
        waiting = select.poll()
        for pipe in pipes:
            waiting.register(pipe, select.POLLIN | select.POLLHUP)
        left, look = len(pipes), time.monotonic() + _WATCH_SECONDS
        while left:
            now = time.monotonic()
            if now >= deadline:
                return streams, Limit.WALL
            if now >= look:
                reached = self._beyond(bounds)
                if reached is not None:
                    return streams, reached
                look = time.monotonic() + _WATCH_SECONDS
            for pipe, _ in waiting.poll(max(1.0, 1000 * (min(deadline, look) - now))):
                part, stream = os.read(pipe, 65536), streams[pipes.index(pipe)]
                if not part:
                    waiting.unregister(pipe)
                    left -= 1
                stream += part
                if len(stream) > bounds.output_bytes and pipe != self._status:
                    return streams, Limit.OUTPUT
        return streams, None

    def _beyond(self, bounds: Bounds) -> Limit | None:
        """Whether all processes together use more than they may; each alone is held by the kernel."""
        memory, ticks = self._used()
        if memory > bounds.memory_bytes:
            return Limit.MEMORY
        return Limit.CPU if ticks / _TICKS > bounds.cpu_seconds + 1 else None

    def _used(self) -> tuple[int, int]:
        """Bytes of memory and clock ticks of processor time that all processes use, files' pages left out."""
        memory, ticks = 0, 0
        for pid in _below(self._process.pid):
            with contextlib.suppress(OSError, ValueError, IndexError):
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                memory += 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssShmem")))
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += sum(map(int, fields[11:15]))
        return memory, ticks

    def _last_words(self) -> str:
        """The last line that a sandbox which did not start wrote to its error stream."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            os.close(self._control)
            self._control = -1
            text = self._process.communicate(timeout=_END_SECONDS)[1].decode(errors="replace").strip()
            return text.rpartition("\n")[2] or f"it ended with code {self._process.returncode}"
        return f"it did not start within {START_SECONDS:g} s"


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _below(pid: int) -> list[int]:
    """Every process that descends from `pid`, children first seen first."""
    found, left = [], [pid]
    while left:
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{(parent := left.pop())}/task"):
                with contextlib.suppress(OSError):
                    children = Path(f"/proc/{parent}/task/{task}/children").read_text().split()
                    found += (new := [int(child) for child in children])
                    left += new
    return found
