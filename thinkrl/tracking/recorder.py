"""Where a stage reports a step: one row in the metrics file, then its copies."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from thinkrl.tracking.directory import RunDirectory
from thinkrl.tracking.metrics import MetricsLog, Value
from thinkrl.tracking.progress import ProgressDisplay
from thinkrl.tracking.tracker import OpenTracker

PARTS = ("sample", "reward", "logprobs", "update", "checkpoint", "wait", "signals", "companions")
"""What the time of a step is spent on; every row has each as `seconds/<part>`."""


class Stopwatch:
    """Adds up wall-clock seconds by part: `with watch("sample"): ...`.

    Inside another part the inner one counts alone, so that the parts never add up to more than the time that passed.
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._inner: list[float] = []

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Counts the time inside the block as `part`, also when it ends with an error."""
        _check_part(part)
        begun = time.perf_counter()
        self._inner.append(0.0)
        try:
            yield
        finally:
            passed = time.perf_counter() - begun
            self.add(part, passed - self._inner.pop())
            if self._inner:
                self._inner[-1] += passed

    def add(self, part: str, seconds: float) -> None:
        """Counts `seconds` measured elsewhere as `part`."""
        _check_part(part)
        self._seconds[part] = self._seconds.get(part, 0.0) + seconds

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds so far, by part."""
        return dict(self._seconds)

    def take(self) -> dict[str, float]:
        """Seconds since the last `take`, by part; counting starts again at 0.

        The checkpoint after a row is written counts in the next row.
        """
        taken, self._seconds = self._seconds, {}
        return taken


class Recorder:
    """Writes the rows of a run and passes copies to a tracker and to the progress display."""

    def __init__(self, directory: RunDirectory, tracker: OpenTracker, progress: ProgressDisplay) -> None:
        self._log = MetricsLog(directory.path / "metrics.jsonl")
        self._tracker = tracker
        self._progress = progress

    @property
    def position(self) -> dict[str, int]:
        """Where the metrics file ends (JSON values), for a checkpoint and for `rewind`."""
        return self._log.position

    def rewind(self, position: object) -> None:
        """Cuts off the rows written after `position`; the steps that made them are about to be repeated."""
        self._log.rewind(position)

    def record(self, stage: str, step: int, values: Mapping[str, Any], seconds: Mapping[str, float]) -> None:
        """Appends the row of a completed step.

        values: numbers or texts by name, in the order they should stand; what depends on the clock
            (tokens per second) must have a name that starts with `time`.
        seconds: by part (see `PARTS`); a part that is not there is 0.
        """
        number = self._log.row_count
        row: dict[str, Any] = {"row": number, "stage": stage, "step": step}
        clash = sorted(key for key in values if key in row or key == "time" or key.startswith("seconds/"))
        if clash:
            raise ValueError(f"values must not name what the recorder adds itself, got {clash}")
        for part in seconds:
            _check_part(part)
        row.update(values)
        row.update({f"seconds/{part}": float(seconds.get(part, 0.0)) for part in PARTS})
        row["time"] = time.time()
        self._log.append(row)
        self._tracker.log(number, row)
        self._progress.step({"step": step, **values})

    def replay(self, row: Mapping[str, Any]) -> None:
        """Appends a row that another run recorded for the same work, under this run's next row number."""
        number = self._log.row_count
        own = {**row, "row": number}
        self._log.append(own)
        self._tracker.log(number, own)
        self._progress.step(own)

    def samples(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Value]]) -> None:
        """Passes a table of samples to the tracker; it belongs to the row that is recorded next."""
        self._tracker.log_samples(self._log.row_count, name, columns, rows)

    def message(self, text: str) -> None:
        """Shows a line to the user."""
        self._progress.message(text)

    def close(self, exit_code: int = 0) -> None:
        """Finishes tracker and display and closes the metrics file."""
        self._tracker.finish(exit_code)
        self._progress.close()
        self._log.close()


def _check_part(part: str) -> None:
    if part not in PARTS:
        raise ValueError(f"a part must be one of {', '.join(PARTS)}, got {part!r}")
