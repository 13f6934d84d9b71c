"""The metrics file: one JSON object a line, only ever appended to. It is the truth; trackers hold copies.

NaN and infinities are the strings "NaN", "Infinity" and "-Infinity" (see `json_values`). What the
clock decides stands in keys that start with `seconds/` or `time`, so that two runs can be compared
without them (`without_times`).
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from thinkrl.tracking.errors import RunError, disk_errors
from thinkrl.tracking.json_values import dump_json, load_json

Value = float | int | str | bool | None
Row = dict[str, Value]

_TIMES = ("seconds/", "time")


def without_times(row: Mapping[str, Value]) -> Row:
    """The part of `row` that an exact repetition of the run repeats."""
    return {key: value for key, value in row.items() if not key.startswith(_TIMES)}


def read_rows(path: Path) -> list[Row]:
    """All whole rows of a metrics file, which may still be growing.

    Raises RunError naming file and line when a line is not a JSON object. A last line without its
    line end is a write that was cut off, and is left out.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    return [_parse(line, path, number) for number, line in enumerate(lines, start=1)]


def _parse(line: bytes, path: Path, number: int) -> Row:
    try:
        row = load_json(line)
    except ValueError as error:
        raise RunError(f"{path}, line {number}: not a row of metrics ({error})") from error
    if not isinstance(row, dict):
        raise RunError(f"{path}, line {number}: expected a JSON object, found {type(row).__name__}")
    return row


class MetricsLog:
    """Appends rows to `path`. Opening cuts off a last line that a killed process left unfinished."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            content = path.read_bytes()
            self._bytes = content.rfind(b"\n") + 1
            self._rows = content.count(b"\n")
            os.ftruncate(self._file, self._bytes)

    @property
    def row_count(self) -> int:
        """Rows in the file: the number that the next row gets."""
        return self._rows

    @property
    def position(self) -> dict[str, int]:
        """Where the file ends, in bytes and rows, for `rewind`. What stands before it is on the disk."""
        with disk_errors(self.path):
            os.fsync(self._file)
        return {"bytes": self._bytes, "rows": self._rows}

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds a row whole or not at all. Numpy scalars become Python numbers of the same value."""
        plain = {key: value.item() if isinstance(value, np.generic) else value for key, value in row.items()}
        line = dump_json(plain).encode() + b"\n"
        with disk_errors(self.path, needed=len(line)):
            try:
                left = line
                while left:
                    left = left[os.write(self._file, left) :]
            except BaseException:
                os.ftruncate(self._file, self._bytes)
                raise
        self._bytes += len(line)
        self._rows += 1

    def rewind(self, position: object) -> None:
        """Cuts off the rows written after `position`, as `position` gave it (or JSON gave it back).

        Raises RunError when the file does not reach that far: its rows were lost or changed.
        """
        if not isinstance(position, Mapping) or set(position) != {"bytes", "rows"}:
            raise ValueError(f"position must be what MetricsLog.position returned, got {position!r}")
        size, rows = int(position["bytes"]), int(position["rows"])
        kept = self.path.read_bytes()[:size]
        if len(kept) < size or kept.count(b"\n") != rows or not (kept == b"" or kept.endswith(b"\n")):
            raise RunError(
                f"{self.path} does not hold the {rows} rows ({size} bytes) that the checkpoint continues from; "
                "it was changed or lost. Restore it, or start again with another --dir"
            )
        with disk_errors(self.path):
            os.ftruncate(self._file, size)
            os.fsync(self._file)
        self._bytes, self._rows = size, rows

    def rows(self) -> list[Row]:
        """All rows so far. Raises RunError naming file and line of a corrupt one."""
        return read_rows(self.path)

    def close(self) -> None:
        """Closes the file; calling it twice does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
