"""What runs inside a sandbox: a first process that waits for one program, runs it as its child, and ends with it.

Standard library only. When the first process ends, the kernel ends every other process of the sandbox.
"""

import builtins
import json
import os
import platform
import resource
import select
import signal
import sys
import types
from collections.abc import Mapping
from typing import Any

from thinkrl.sandbox.kernel import drop_capabilities, hide_memory, install_filter
from thinkrl.sandbox.system_calls import filter_program

SCRATCH = "/scratch"
"""The one folder that a program may write to; it starts in it."""
PROGRAM = "program.py"
READY = b"ready\n"
_LENGTH_BYTES = 8
_POLL_MILLISECONDS = 200
_NO_CORE_FILE = 1
"""A limit of one byte, not none: core files that go to a program are then left out too."""


def give_up_rights() -> None:
    """No capability, no system call that the filter denies, no look into this process: for all that follows."""
    drop_capabilities()
    hide_memory()
    install_filter(filter_program(platform.machine()))


def serve(settings: Mapping[str, Any], control: int, status: int) -> int:
    """Waits on `control` for a program, runs it, and writes to `status` how it ended. Returns an exit code.

    Where the other end of `control` is closed, everything ends at once: the one who asked is gone. In the child,
    which runs the program, it returns the program's exit code.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # what has no handler does not reach a first process from inside
    os.write(status, READY)
    source = _receive(control)
    if source is None:
        return 0
    child = os.fork()
    if child == 0:
        return _become(source, settings)
    for stream in (1, 2):
        os.close(stream)
    found = _attend(child, control, status, settings["disk_files"])
    if found is not None:
        code, usage = found
        told = {"code": code, "cpu_seconds": usage.ru_utime + usage.ru_stime}
        os.write(status, json.dumps(told).encode() + b"\n")
    os._exit(0)


def _receive(control: int) -> bytes | None:
    received = b""
    while len(received) < _LENGTH_BYTES or len(received) < _LENGTH_BYTES + int.from_bytes(
        received[:_LENGTH_BYTES], "little"
    ):
        part = os.read(control, 65536)
        if not part:
            return None
        received += part
    return received[_LENGTH_BYTES:]


def _attend(child: int, control: int, status: int, most_files: int) -> tuple[int, resource.struct_rusage] | None:
    """Waits for the child, and takes the remains of other processes; None where nobody waits for the outcome, and
    where there are more files than may be, which bubblewrap does not limit."""
    ends = select.poll()
    ends.register(control, select.POLLHUP)
    ends.register(os.pidfd_open(child), select.POLLIN)
    while True:
        ready = ends.poll(_POLL_MILLISECONDS)
        if any(descriptor == control for descriptor, _ in ready):
            return None
        if any(_files(folder) > most_files for folder in (SCRATCH, "/dev/shm")):
            os.write(status, b'{"limit": "disk"}\n')
            return None
        while True:
            found, code, usage = os.wait4(-1, os.WNOHANG)
            if found == child:
                return os.waitstatus_to_exitcode(code), usage
            if found == 0:
                break


def _files(folder: str) -> int:
    counts = os.statvfs(folder)
    return counts.f_files - counts.f_ffree


def _become(source: bytes, settings: Mapping[str, Any]) -> int:
    os.setsid()
    os.closerange(3, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    for name in [name for name in sys.modules if name.partition(".")[0] == "thinkrl"]:
        del sys.modules[name]
    sys.path += settings["packages"]
    os.chdir(SCRATCH)
    with open(PROGRAM, "wb") as file:
        file.write(source)
    if b"random" in source:
        import random

        random.seed(0)
    _limit(settings["limits"])
    return _run(source)


def _limit(limits: Mapping[str, int]) -> None:
    for name, value in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        # A program that catches SIGXCPU is killed a second later.
        resource.setrlimit(kind, (value, value + 1 if name == "CPU" else value))
    for name in ("MEMLOCK", "MSGQUEUE", "NICE", "RTPRIO"):
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (_NO_CORE_FILE, _NO_CORE_FILE))


def _run(source: bytes) -> int:
    """Runs the program as `__main__`; tracebacks begin with its own lines."""
    main = types.ModuleType("__main__")
    main.__dict__.update(__file__=PROGRAM, __builtins__=builtins)
    sys.modules["__main__"] = main
    sys.argv[:] = [PROGRAM]
    try:
        exec(compile(source, PROGRAM, "exec"), main.__dict__)
    except SystemExit as left:
        if left.code is None or isinstance(left.code, int):
            return (left.code or 0) & 0xFF
        print(left.code, file=sys.stderr)
        return 1
    except BaseException as error:
        error.__traceback__ = error.__traceback__.tb_next if error.__traceback__ is not None else None
        sys.excepthook(type(error), error, error.__traceback__)
        return 1
    return 0
