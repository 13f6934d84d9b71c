"""A process that must not outlive the one that started it, however that ends: it watches a pipe that closes with it."""

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

ALIVE = "THINKRL_LAUNCHER"
"""Names the pipe that closes when the launcher is gone."""


@contextmanager
def lifeline() -> Iterator[int]:
    """The reading end of a pipe that nothing is written to: it ends when this process does.

    Pass it on (`pass_fds`) with its number in the environment as ALIVE, to a process that leads a group of its own.
    """
    reading, writing = os.pipe()
    try:
        yield reading
    finally:
        os.close(reading)
        os.close(writing)


def watch_launcher(environment: Mapping[str, str]) -> None:
    """Ends this process when the launcher that started it is gone, however it ended."""
    if ALIVE not in environment:
        return
    pipe = int(environment[ALIVE])

    def wait() -> None:
        os.read(pipe, 1)
        os.killpg(0, signal.SIGKILL)  # with the workers it has started

    threading.Thread(target=wait, name="launcher", daemon=True).start()
