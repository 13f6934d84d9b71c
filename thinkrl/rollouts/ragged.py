"""Rows of different lengths without padding."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray


@dataclass(frozen=True, eq=False)
class Ragged:
    """A column of n rows: `values` [total] holds them end to end, row i is `values[offsets[i]:offsets[i+1]]`."""

    values: NDArray[Any]
    offsets: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.values.ndim != 1:
            raise ValueError(f"values must have one axis, got shape {self.values.shape}")
        if len(self.offsets) == 0 or self.offsets[0] != 0 or self.offsets[-1] != len(self.values):
            raise ValueError("offsets must start at 0 and end at the number of values")
        if np.any(np.diff(self.offsets) < 0):
            raise ValueError("offsets must not decrease")

    @classmethod
    def from_rows(cls, rows: Sequence[ArrayLike], dtype: DTypeLike) -> "Ragged":
        """Joins `rows` (each one axis) into one column of `dtype`."""
        arrays = [np.asarray(row, dtype=dtype) for row in rows]
        offsets = np.zeros(len(arrays) + 1, dtype=np.int64)
        np.cumsum([len(array) for array in arrays], out=offsets[1:])
        return cls(np.concatenate(arrays) if arrays else np.zeros(0, dtype=dtype), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> NDArray[Any]:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (self[row] for row in range(len(self)))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Values per row, [n]."""
        return np.diff(self.offsets)

    @property
    def row_ids(self) -> NDArray[np.int64]:
        """The row of each value, [total]."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def with_values(self, values: ArrayLike) -> "Ragged":
        """The same rows holding other `values` [total]."""
        array = np.asarray(values)
        if array.shape != self.values.shape:
            raise ValueError(f"expected {self.values.shape[0]} values, got shape {array.shape}")
        return Ragged(array, self.offsets)

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> "Ragged":
        """The named rows, in the order given."""
        return Ragged.from_rows([self[int(row)] for row in rows], self.values.dtype)

    def sums(self) -> NDArray[np.float64]:
        """Sum of each row, [n]; 0 for an empty row. NaN stays inside its own row."""
        return np.asarray([np.sum(row, dtype=np.float64) for row in self], dtype=np.float64)


def add(a: Ragged | None, b: Ragged | None) -> Ragged | None:
    """The sum of two columns with the same rows, where None stands for zeros."""
    if a is None or b is None:
        return b if a is None else a
    if not np.array_equal(a.offsets, b.offsets):
        raise ValueError("columns must have the same row lengths to be added")
    return a.with_values(a.values + b.values)
