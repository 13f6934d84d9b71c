"""Ctrl-C as a request: the step in hand is finished and saved; a second Ctrl-C stops at once."""

import signal
from collections.abc import Callable
from types import FrameType, TracebackType


class Interrupt:
    """Catches SIGINT while it is entered. Outside the main thread it catches nothing and stays False."""

    def __init__(self, announce: Callable[[str], None]) -> None:
        self.requested = False
        self._announce = announce
        self._previous: signal._HANDLER = None

    def __enter__(self) -> "Interrupt":
        try:
            self._previous = signal.signal(signal.SIGINT, self._handle)
        except ValueError:  # signals can only be caught in the main thread
            self._previous = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt("stopped at once; the same command continues from the last checkpoint")
        self.requested = True
        self._announce("Ctrl-C: finishing this step and saving it (press again to stop at once)")
