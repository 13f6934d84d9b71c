"""The contract of a tracker: a copy of the metrics somewhere a browser can see them.

`metrics.jsonl` is the truth. A tracker that fails never stops a run, and a row that was replayed
after a resume reaches it once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from thinkrl.tracking.directory import RunDirectory
from thinkrl.tracking.metrics import Value


class OpenTracker(Protocol):
    """A tracker that follows one run."""

    def log(self, row_number: int, row: Mapping[str, Value]) -> None:
        """Sends row `row_number` (from 0) of the metrics file; a row that was sent before is left out."""
        ...

    def log_samples(self, row_number: int, name: str, columns: Sequence[str], rows: Sequence[Sequence[Value]]) -> None:
        """Sends a table of samples that belongs to row `row_number`, before or right after that row."""
        ...

    def finish(self, exit_code: int) -> None:
        """Sends what is left and closes; 0 means that the run ended as it should."""
        ...


class Tracker(Protocol):
    """A component that opens trackers."""

    def open(self, run: RunDirectory, config: Mapping[str, Any], name: str) -> OpenTracker:
        """Follows `run` under `name`, showing `config` beside it. Never raises because of the service."""
        ...


@dataclass(frozen=True)
class NoTracker:
    """Sends nothing anywhere; the metrics file holds everything."""

    def open(self, run: RunDirectory, config: Mapping[str, Any], name: str) -> OpenTracker:
        """Opens a tracker that does nothing."""
        return _Nothing()


class _Nothing:
    def log(self, row_number: int, row: Mapping[str, Value]) -> None:
        """Does nothing."""

    def log_samples(self, row_number: int, name: str, columns: Sequence[str], rows: Sequence[Sequence[Value]]) -> None:
        """Does nothing."""

    def finish(self, exit_code: int) -> None:
        """Does nothing."""
