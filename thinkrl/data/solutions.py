"""Solutions of problems, one a row, right and wrong ones: the form of RewardMATH and of RewardBench's mathematics."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinkrl.config.component import PromptCount
from thinkrl.data.comparisons import Comparison
from thinkrl.data.files import check_file, read_rows
from thinkrl.data.source import DataError, json_value
from thinkrl.rollouts.prompt import Message


@dataclass(frozen=True)
class SolutionColumns:
    """Which columns of a row are what; those of the files of RewardMATH (arXiv 2410.01729), where nothing is said.

    A solution is a text, or a list of texts, which are its steps.
    """

    problem: str = "problem"
    """Column with the problem."""
    identity: str = "problem_id"
    """Column that all solutions of a problem share."""
    solution: str = "eval_solution"
    """Column with the solution."""
    kind: str = "solution_reference"
    """Column that tells right solutions from wrong ones."""
    right: str = "human_to_GPT-4"
    """Its value where the solution is right; all others are wrong."""
    reference: str = "answer"
    """Column with the problem's answer; empty for none."""
    subset: str = ""
    """Column with the name of the subset, such as `subject`; empty for none."""


@dataclass(frozen=True)
class FileSolutions:
    """Each problem of a local file as one comparison: its right solution, or solutions, against its wrong ones."""

    path: str
    """A .jsonl, .json (a list of objects) or .parquet file."""
    columns: SolutionColumns = SolutionColumns()
    """Which columns are what."""
    separator: str = "\n"
    """What joins the steps of a solution."""
    size: PromptCount = 1_000_000
    """At most this many problems, in the order of the file."""

    def __post_init__(self) -> None:
        check_file(self.path, self.size)

    def comparisons(self) -> Sequence[Comparison]:
        """Reads the file. Raises DataError naming the row that cannot be read, or the problem without a right solution
        or without a wrong one."""
        found = [
            self._comparison(name, rows) for name, rows in _by_problem(read_rows(Path(self.path)), self.columns).items()
        ]
        if not found:
            raise DataError(f"{self.path} holds no rows")
        return found[: self.size]

    def _comparison(self, name: str, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> Comparison:
        columns = self.columns
        problem, reference = _shared(rows, columns.problem), None
        if columns.reference:
            reference = _shared(rows, columns.reference)
        sides: dict[bool, list[str]] = {True: [], False: []}
        for where, row in rows:
            sides[_value(where, row, columns.kind) == columns.right].append(self._text(where, row))
        for right, side in sides.items():
            if not side:
                kinds = sorted({str(row[columns.kind]) for _, row in rows})
                raise DataError(
                    f"{self.path}: problem {name} has no {'right' if right else 'wrong'} solution, told by"
                    f" {columns.right!r} in column {columns.kind!r}; there are {', '.join(kinds)}"
                )
        subset = str(_shared(rows, columns.subset)) if columns.subset else ""
        metadata = {"reference": json_value(reference)}
        message = Message("user", str(problem))
        return Comparison(name, (message,), tuple(sides[True]), tuple(sides[False]), subset, metadata)

    def _text(self, where: str, row: Mapping[str, Any]) -> str:
        value = _value(where, row, self.columns.solution)
        if isinstance(value, str):
            return value
        if isinstance(value, list | tuple) and value and all(isinstance(step, str) for step in value):
            return self.separator.join(value)
        raise DataError(f"{where}: {self.columns.solution} must be a text or its steps, got {json_value(value)!r:.60}")


def _by_problem(
    rows: Iterable[tuple[str, Mapping[str, Any]]], columns: SolutionColumns
) -> dict[str, list[tuple[str, Mapping[str, Any]]]]:
    found: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    for where, row in rows:
        found.setdefault(str(_value(where, row, columns.identity)), []).append((where, row))
    return found


def _shared(rows: Sequence[tuple[str, Mapping[str, Any]]], column: str) -> Any:
    """What all rows of a problem say in `column`."""
    (first, row), *others = rows
    value = _value(first, row, column)
    for where, other in others:
        if _value(where, other, column) != value:
            raise DataError(f"{where}: {column} must be that of the same problem in {first}, got {other[column]!r:.60}")
    return value


def _value(where: str, row: Mapping[str, Any], column: str) -> Any:
    if row.get(column) is None:
        raise DataError(f"{where}: no value in column {column!r}; the columns are {', '.join(sorted(row))}")
    return row[column]
