"""The process behind MathGrader: `python -m thinkrl.grading.math_worker MEMORY_MIB`.

Reads one JSON line per request from standard input and answers with one on standard output.
"""

import contextlib
import json
import os
import resource
import select
import signal
import sys
from typing import Any, BinaryIO


def main() -> None:
    """Serves requests until the parent goes away."""
    # Libraries print; the answers keep a descriptor of their own.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.getppid()
    from thinkrl.grading.math_check import check

    _limit_memory(int(sys.argv[1]))
    _answer(answers, "ready")
    while (line := _next_line(sys.stdin.buffer, parent)) is not None:
        message = json.loads(line)
        # Default action of SIGALRM: the kernel ends the process, whatever it is computing.
        signal.setitimer(signal.ITIMER_REAL, message["seconds"] + 5.0)
        try:
            answer: Any = check(**message["request"])
        except MemoryError:
            answer = {"verdict": "timeout", "note": "checking ran out of memory"}
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        _answer(answers, answer)


def _limit_memory(mebibytes: int) -> None:
    """Limits what is allocated beyond what the libraries already hold."""
    # Systems without /proc do not honour the limit either; there the clock alone protects.
    with contextlib.suppress(OSError, ValueError):
        with open("/proc/self/statm", encoding="ascii") as file:
            held = int(file.read().split()[0]) * resource.getpagesize()
        limit = held + mebibytes * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _next_line(requests: BinaryIO, parent: int) -> bytes | None:
    """The next request; None once standard input is closed or the parent is another process."""
    while not select.select([requests], [], [], 5.0)[0]:
        if os.getppid() != parent:
            return None
    return requests.readline() or None


def _answer(answers: BinaryIO, answer: Any) -> None:
    answers.write(json.dumps(answer).encode() + b"\n")
    answers.flush()


if __name__ == "__main__":
    main()
