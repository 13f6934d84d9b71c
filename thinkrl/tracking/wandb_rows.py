"""Which rows W&B has: a cursor on disk, checked against the file that its client wrote.

The client holds rows back for a moment before it writes them, and loses those when the process is
killed. What really is in the file says which rows a resumed run must send again.

The file is a LevelDB log: 7 bytes of header, then blocks of 32 KiB that hold chunks of a 7-byte
head (checksum 4, length 2, kind 1) and data; a record is one whole chunk or a first, middle and
last one. Each record is a protocol buffer of the client's own type.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from thinkrl.tracking.atomic import write_text

_BLOCK = 32768
_FILE_HEAD = 7
_CHUNK_HEAD = 7
_WHOLE, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


@dataclass(frozen=True)
class SentRows:
    """Rows 0 to `rows` - 1 were sent; those from `first` on went through `file`, which the client writes."""

    run: Path
    rows: int = 0
    first: int = 0
    file: str = ""

    @classmethod
    def load(cls, run: Path) -> "SentRows":
        """The cursor of the run directory `run`; no rows when there is none or it cannot be read."""
        try:
            stored = json.loads((run / "wandb" / "cursor.json").read_text())
            return cls(run, int(stored["rows"]), int(stored["first"]), str(stored["file"]))
        except (OSError, ValueError, KeyError, TypeError):
            return cls(run)

    def save(self, rows: int) -> None:
        """Notes that all rows before number `rows` were sent."""
        file = os.path.relpath(self.file, self.run) if os.path.isabs(self.file) else self.file
        text = json.dumps({"rows": rows, "first": self.first, "file": file})
        write_text(self.run / "wandb" / "cursor.json", text + "\n")

    def confirmed(self) -> int:
        """How many of the sent rows did not get lost with a killed client."""
        path = self.run / self.file
        if not self.file or not path.exists():
            return self.rows  # synced and removed
        try:
            steps = [int(row["_step"]) for row in read_history(path) if "_step" in row]
        except (OSError, ValueError, ImportError):
            return self.rows
        return max([self.first, *(step // 2 + 1 for step in steps if step % 2 == 0)])


def read_history(path: Path) -> list[dict[str, Any]]:
    """The logged rows, in order, up to where the file ends or was cut off.

    Raises ValueError when `path` is not such a file.
    """
    protocol: Any = import_module("wandb.proto.wandb_internal_pb2")
    rows = []
    for data in _records(path.read_bytes(), path):
        record = protocol.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append({item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items})
    return rows


def _records(content: bytes, path: Path) -> Iterator[bytes]:
    if content[:4] != b":W&B":
        raise ValueError(f"{path} is not a W&B run file")
    place, pending = _FILE_HEAD, b""
    while place + _CHUNK_HEAD <= len(content):
        room = _BLOCK - place % _BLOCK
        if room < _CHUNK_HEAD:
            place += room  # too little left in this block for a head: zeros
            continue
        size, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        data = content[place + _CHUNK_HEAD : place + _CHUNK_HEAD + size]
        if kind not in (_WHOLE, _FIRST, _MIDDLE, _LAST) or len(data) < size:
            return  # cut off here
        place += _CHUNK_HEAD + size
        pending = data if kind in (_WHOLE, _FIRST) else pending + data
        if kind in (_WHOLE, _LAST):
            yield pending
