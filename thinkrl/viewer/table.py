"""A rollout file read in parts: the rows and columns that are asked for, never all of it.

A file that lacks columns is read without them; only a file that is no parquet is refused.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from thinkrl.tracking.errors import RunError

LENGTH_COLUMNS = ("origins", "token_ids", "char_ends", "logprobs")
"""Columns whose rows are as long as the response; the first that a file has is the cheapest to read."""
_BATCH = 128
_BUFFER = 1 << 18


class RolloutTable:
    """An open rollout file. Not for several threads at once."""

    def __init__(self, path: Path) -> None:
        """Raises RunError when the file is not whole or not parquet."""
        self.path = path
        try:
            self._file = pq.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER)
            schema = self._file.schema_arrow
        except (OSError, pa.ArrowException) as error:
            raise RunError(f"{path} is not a rollout file: {error}") from error
        self.names: tuple[str, ...] = tuple(schema.names)
        self.list_names: tuple[str, ...] = tuple(field.name for field in schema if _is_number_list(field.type))
        """Columns with a list of numbers a response: token by token, step by step."""
        counts = [self._file.metadata.row_group(i).num_rows for i in range(self._file.metadata.num_row_groups)]
        self._starts: list[int] = [0, *np.cumsum(counts).tolist()]

    @property
    def row_count(self) -> int:
        """Responses in the file."""
        return self._starts[-1]

    def columns(self, names: Iterable[str]) -> dict[str, pa.ChunkedArray]:
        """Whole columns by name, those that are there."""
        wanted = self._present(names)
        if not wanted:
            return {}
        with _readable(self.path):
            table = self._file.read(columns=wanted)
        return {name: table[name] for name in wanted}

    def take(self, rows: Sequence[int], names: Iterable[str]) -> pa.Table | None:
        """The rows of these numbers, ascending, with the columns that are there; None where there is none of them.

        Raises IndexError for a row that is not there.
        """
        wanted, numbers = self._present(names), sorted(set(rows))
        if numbers and not 0 <= numbers[0] <= numbers[-1] < self.row_count:
            raise IndexError(f"rows {numbers[0]} to {numbers[-1]} of {self.row_count}")
        by_group: dict[int, list[int]] = {}
        for row in numbers:
            by_group.setdefault(bisect_right(self._starts, row) - 1, []).append(row)
        if not wanted or not numbers:
            return None
        taken = [batch for group, own in by_group.items() for batch in self._take_group(group, own, wanted)]
        return pa.Table.from_batches(taken)

    def rows(self, rows: Sequence[int], names: Iterable[str]) -> dict[int, dict[str, Any]]:
        """Rows by their number: lists of numbers as arrays, all else as Python values."""
        numbers = sorted(set(rows))
        found: dict[int, dict[str, Any]] = {row: {} for row in numbers}
        table = self.take(numbers, names)
        if table is None:
            return found
        for name in table.column_names:
            as_array = name in self.list_names
            for row, value in zip(numbers, table[name], strict=True):
                if as_array:
                    found[row][name] = value.values.to_numpy(zero_copy_only=False) if value.is_valid else None
                else:
                    found[row][name] = value.as_py()
        return found

    def batches(self, names: Iterable[str]) -> Iterator[pa.RecordBatch]:
        """All rows in order, a few at a time, with the columns that are there."""
        wanted = self._present(names)
        if not wanted:
            return
        with _readable(self.path):
            yield from self._file.iter_batches(batch_size=2 * _BATCH, columns=wanted)

    def length_column(self) -> str | None:
        """The column to count a response's tokens by."""
        return next((name for name in LENGTH_COLUMNS if name in self.list_names), None)

    def _take_group(self, group: int, rows: list[int], names: list[str]) -> list[pa.RecordBatch]:
        """Decodes a row group up to the last row wanted, and keeps the rows wanted."""
        taken, begin = [], self._starts[group]
        with _readable(self.path):
            for batch in self._file.iter_batches(batch_size=_BATCH, row_groups=[group], columns=names):
                here = [row - begin for row in rows if begin <= row < begin + batch.num_rows]
                if here:
                    taken.append(batch.take(pa.array(here, pa.int64())))
                begin += batch.num_rows
                if begin > rows[-1]:
                    break
        return taken

    def _present(self, names: Iterable[str]) -> list[str]:
        return [name for name in dict.fromkeys(names) if name in self.names]


def list_lengths(column: Any) -> NDArray[np.int64]:
    """Values in each list of a column, 0 where there is none."""
    lengths = pc.fill_null(pc.list_value_length(column), 0)
    return np.asarray(lengths.to_numpy(zero_copy_only=False), dtype=np.int64)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns what a torn file raises into a RunError."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise RunError(f"{path} cannot be read: {error}") from error


def _is_number_list(kind: Any) -> bool:
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return bool(lists and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)))
