"""Tables of plain values on disk: one parquet file, readable by any table tool, whole or not there."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from thinkrl.tracking.atomic import replace_file
from thinkrl.tracking.errors import RunError


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Writes rows of numbers and texts, all with the same keys; the same rows give the same bytes. Returns `path`.

    Raises ValueError for rows with other keys than the first, RunError when the disk refuses.
    """
    names = list(rows[0]) if rows else []
    for number, row in enumerate(rows):
        if list(row) != names:
            raise ValueError(f"row {number} has the keys {list(row)}, the first has {names}")
    table = pa.table({name: pa.array([row[name] for row in rows]) for name in names})
    with replace_file(path) as aside:
        pq.write_table(table, aside)
    return path


def read_table(path: Path) -> list[dict[str, Any]]:
    """The rows that `write_table` wrote. Raises RunError for a file that is missing or damaged."""
    try:
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise RunError(f"{path} is no readable table: {error}") from error
    return rows
