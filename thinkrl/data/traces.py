"""Supervised traces: prompts with a response to learn from."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from thinkrl.config.component import PromptCount
from thinkrl.data.files import check_file, read_rows
from thinkrl.data.rows import USUAL, RowReader, RowSchema
from thinkrl.data.source import DataError, json_value
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.rollouts.spans import Span, spans_of, stretches
from thinkrl.tracking.atomic import write_text

_KEYS = frozenset({"prompt_id", "messages", "reference", "source", "metadata", "response"})
_GIVEN = "given"


@dataclass(frozen=True)
class Trace:
    """A prompt and the response to imitate.

    given: character ranges of the response, in order, that the policy reads and does not write, such as what a tool
    says: they carry no loss. Each of them, and each stretch between, is tokenized on its own, as an environment
    appends it to what was sampled.
    """

    prompt: Prompt
    response: str
    given: tuple[Span, ...] = ()

    def __post_init__(self) -> None:
        stretches(len(self.response), self.given)


class TraceSource(Protocol):
    """A frozen dataclass that yields the same traces, in the same order, each time it is asked."""

    def traces(self) -> Sequence[Trace]:
        """All traces. Raises DataError when there are none or they cannot be read."""
        ...


@dataclass(frozen=True)
class FileTraces:
    """Traces of a jsonl, json or parquet file in the usual schemas, or as another stage wrote them."""

    path: str
    """A .jsonl, .json or .parquet file."""
    schema: RowSchema = USUAL
    """Which columns are what; not read for a file that a stage wrote."""
    size: PromptCount = 1_000_000
    """At most this many traces, from the start of the file."""
    system: str = ""
    """System turn, where the data has none; empty for none."""
    template: str = "{question}"
    """User turn for questions and prompts given as text."""

    def __post_init__(self) -> None:
        check_file(self.path, self.size, self.template)

    def traces(self) -> Sequence[Trace]:
        """Reads the file. Raises DataError for a row without a response."""
        path = Path(self.path)
        if path.suffix == ".jsonl" and next((set(row) for _, row in read_rows(path)), set()) - {_GIVEN} == _KEYS:
            return read_traces(path)[: self.size]
        reader = RowReader(self.schema, path.stem, self.system, self.template)
        rows = reader.read(read_rows(path), self.size, self.path)
        for number, row in enumerate(rows):
            if row.response is None:
                raise DataError(f"{path} row {number} has no response to learn from")
        return [Trace(row.prompt, row.response, row.given) for row in rows if row.response is not None]


def write_traces(path: Path, traces: Sequence[Trace]) -> Path:
    """Writes one JSON object a line; `path` holds all of them or is not touched. Returns `path`."""
    lines = [json.dumps(_row(trace), ensure_ascii=False, sort_keys=True) + "\n" for trace in traces]
    write_text(path, "".join(lines))
    return path


def read_traces(path: Path) -> list[Trace]:
    """Reads what `write_traces` wrote. Raises DataError naming file and line."""
    return [_trace(where, row) for where, row in read_rows(path)]


def stored_prompt(row: Mapping[str, Any]) -> Prompt:
    """The prompt of a line that a stage wrote."""
    messages = tuple(Message(turn["role"], turn["content"]) for turn in row["messages"])
    return Prompt(row["prompt_id"], messages, row["reference"], row["source"], row["metadata"])


def _row(trace: Trace) -> Any:
    given = {_GIVEN: trace.given} if trace.given else {}
    return json_value({**asdict(trace.prompt), "response": trace.response, **given})


def _trace(where: str, row: Mapping[str, Any]) -> Trace:
    if row.keys() - {_GIVEN} != _KEYS:
        raise DataError(f"{where}: expected the keys {sorted(_KEYS)}, got {sorted(row)}")
    return Trace(stored_prompt(row), row["response"], read_given(where, row["response"], row.get(_GIVEN)))


def read_given(where: str, response: str, value: Any) -> tuple[Span, ...]:
    """The ranges of a response that a file says are given; none for null. Raises DataError that names `where`."""
    pairs = [] if value is None else value
    if not isinstance(pairs, list) or any(
        not isinstance(pair, list) or [type(edge) for edge in pair] != [int, int] for pair in pairs
    ):
        raise DataError(f"{where}: given must be a list of pairs of whole numbers, where a stretch begins and ends")
    spans = spans_of(pairs)
    try:
        stretches(len(response), spans)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error
    return spans
