"""What only heavy columns tell of a response, its length and whether it holds a text, read as far as there is time."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from thinkrl.tracking.errors import RunError
from thinkrl.viewer.table import RolloutTable, list_lengths
from thinkrl.viewer.values import loaded


class Budget:
    """The time of one call. Something is read in each, however short it is, so that calls come to an end."""

    def __init__(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds
        self.used = False

    @property
    def left(self) -> bool:
        """Whether there is time to read on."""
        return not self.used or time.monotonic() < self._deadline


class Scan:
    """One value a response, read from a file's heavy columns as far as there was time."""

    def __init__(self, batches: Iterator[Any], value: Callable[[Any], NDArray[Any]], empty: NDArray[Any]) -> None:
        self._batches: Iterator[Any] | None = batches
        self._value = value
        self._parts = [empty]

    @property
    def done(self) -> bool:
        """Whether nothing is left to read."""
        return self._batches is None

    def advance(self, budget: Budget) -> NDArray[Any]:
        """Values of the first rows, as many as are known when the time is over. A torn file ends it."""
        while self._batches is not None and budget.left:
            budget.used = True
            try:
                batch = next(self._batches, None)
            except RunError:
                batch = None
            if batch is None:
                self._batches = None
            else:
                self._parts.append(self._value(batch))
        if len(self._parts) > 1:
            self._parts = [np.concatenate(self._parts)]
        return self._parts[0]


def length_scan(table: RolloutTable) -> Scan:
    """Tokens of each response."""
    name = table.length_column()
    return Scan(
        table.batches([name] if name else []), lambda batch: list_lengths(batch.column(0)), np.zeros(0, dtype=np.int64)
    )


def text_scan(table: RolloutTable, text: str) -> Scan:
    """Whether each response, or its prompt, holds `text`."""

    def holds(batch: Any) -> NDArray[Any]:
        found = np.zeros(batch.num_rows, dtype=np.bool_)
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        if _is_text(columns.get("text")):
            found |= _flags(pc.match_substring(columns["text"], text, ignore_case=True))
        if _is_text(columns.get("messages")):
            prompts = columns["messages"].dictionary_encode()  # one for all responses of a group
            asked = np.asarray([_asks(prompt, text) for prompt in prompts.dictionary.to_pylist()], dtype=np.bool_)
            places = prompts.indices.to_numpy(zero_copy_only=False)
            known = ~np.isnan(places.astype(np.float64))
            found[known] |= asked[places[known].astype(np.int64)]
        return found

    return Scan(table.batches(["text", "messages"]), holds, np.zeros(0, dtype=np.bool_))


def _asks(messages: str | None, text: str) -> bool:
    """Whether a turn of a prompt holds `text`, in any case."""
    turns = loaded(messages)
    contents = [turn.get("content") for turn in turns if isinstance(turn, dict)] if isinstance(turns, list) else [turns]
    return any(text.lower() in str(content).lower() for content in contents if content is not None)


def _flags(column: Any) -> NDArray[np.bool_]:
    return np.asarray(pc.fill_null(column, False).to_numpy(zero_copy_only=False), dtype=np.bool_)


def _is_text(column: Any) -> bool:
    return column is not None and bool(pa.types.is_string(column.type) or pa.types.is_large_string(column.type))
