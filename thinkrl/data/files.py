"""Prompts from local files: jsonl, json and parquet."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinkrl.config.component import PromptCount
from thinkrl.data.rows import USUAL, RowReader, RowSchema
from thinkrl.data.source import DataError, check_template
from thinkrl.rollouts.prompt import Prompt

SUFFIXES = (".jsonl", ".json", ".parquet")


def check_file(path: str, size: int, template: str | None = None) -> None:
    """Raises ValueError for a file of another kind, for no rows, and for a template without a field."""
    if Path(path).suffix not in SUFFIXES:
        raise ValueError(f"path must end with {', '.join(SUFFIXES)}, got {path!r}")
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    if template is not None:
        check_template(template)


@dataclass(frozen=True)
class FilePrompts:
    """Prompts of one file, in the file's order. Ids are `<file name>-<row>` unless the schema names a column."""

    path: str
    """A .jsonl, .json (a list of objects) or .parquet file."""
    schema: RowSchema = USUAL
    """Which columns are what."""
    size: PromptCount = 1_000_000
    """At most this many prompts, from the start of the file."""
    system: str = ""
    """System turn, where the data has none; empty for none."""
    template: str = "{question}"
    """User turn for questions and prompts given as text."""

    def __post_init__(self) -> None:
        check_file(self.path, self.size, self.template)

    def prompts(self) -> Sequence[Prompt]:
        """Reads the file. Raises DataError naming file and line, or row, that cannot be read."""
        reader = RowReader(self.schema, Path(self.path).stem, self.system, self.template)
        return [row.prompt for row in reader.read(read_rows(Path(self.path)), self.size, self.path)]


def read_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Pairs of (where, row) of a jsonl, json or parquet file; `where` names file and line, or row.

    Raises DataError for a missing, unreadable or corrupt file.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    if path.suffix == ".jsonl":
        yield from _read_jsonl(path)
    elif path.suffix == ".json":
        yield from _read_json(path)
    elif path.suffix == ".parquet":
        yield from _read_parquet(path)
    else:
        raise DataError(f"{path} must end with {', '.join(SUFFIXES)}")


def _read_jsonl(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    # Bytes end lines at \n alone; text would also end them at the separators that JSON strings may hold.
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                where = f"{path} line {number}"
                yield where, _object(_parse(line, where), where)


def _read_json(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    rows = _parse(path.read_bytes(), str(path))
    if not isinstance(rows, list):
        raise DataError(f"{path} must hold a list of objects, got {type(rows).__name__}")
    for number, row in enumerate(rows):
        where = f"{path} row {number}"
        yield where, _object(row, where)


def _read_parquet(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    # Imported here: composing a configuration must not wait for it.
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    yield f"{path} row {number}", row
                    number += 1
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is no readable parquet file: {error}") from error


def _parse(data: bytes, where: str) -> Any:
    try:
        return json.loads(data.decode("utf-8-sig"))
    except ValueError as error:
        raise DataError(f"{where}: not valid JSON: {error}") from error


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{where}: must be an object, got {type(value).__name__}")
    return value
