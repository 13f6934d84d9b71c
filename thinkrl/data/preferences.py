"""Preferences: prompts with two responses, of which one is better."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from thinkrl.config.component import PromptCount
from thinkrl.data.files import check_file, read_rows
from thinkrl.data.rows import Row, RowReader, RowSchema
from thinkrl.data.source import DataError, json_value
from thinkrl.data.traces import read_given, stored_prompt
from thinkrl.rollouts.prompt import Prompt
from thinkrl.rollouts.spans import Span, stretches

_KEYS = frozenset({"prompt_id", "messages", "reference", "source", "metadata", "chosen", "rejected"})
_GIVEN = ("chosen_given", "rejected_given")

Rows = Sequence[tuple[str, Mapping[str, Any]]]
"""Pairs of (where, row)."""


@dataclass(frozen=True)
class Preference:
    """A prompt, the response to prefer, and the one to avoid.

    chosen_given, rejected_given: character ranges that the policy reads and does not write (see `Trace`).
    """

    prompt: Prompt
    chosen: str
    rejected: str
    chosen_given: tuple[Span, ...] = ()
    rejected_given: tuple[Span, ...] = ()

    def __post_init__(self) -> None:
        stretches(len(self.chosen), self.chosen_given)
        stretches(len(self.rejected), self.rejected_given)


class PreferenceSource(Protocol):
    """A frozen dataclass that yields the same preferences, in the same order, each time it is asked."""

    def preferences(self) -> Sequence[Preference]:
        """All preferences. Raises DataError when there are none or they cannot be read."""
        ...


@dataclass(frozen=True)
class FilePreferences:
    """Preferences of a jsonl, json or parquet file, or as another stage wrote them.

    A row has a prompt (text or turns), and chosen and rejected responses (text or one assistant turn). Responses may
    also be whole conversations, alike up to their last turn: what stands before it is the prompt.
    """

    path: str
    """A .jsonl, .json or .parquet file."""
    prompt: str = "prompt"
    """Column with the prompt; not read where responses are whole conversations."""
    chosen: str = "chosen"
    """Column with the response to prefer."""
    rejected: str = "rejected"
    """Column with the response to avoid."""
    size: PromptCount = 1_000_000
    """At most this many preferences, from the start of the file."""
    system: str = ""
    """System turn, where the data has none; empty for none."""
    template: str = "{question}"
    """User turn for prompts given as text."""

    def __post_init__(self) -> None:
        check_file(self.path, self.size, self.template)

    def preferences(self) -> Sequence[Preference]:
        """Reads the file. Raises DataError for a row that lacks a response, or whose responses answer two prompts."""
        path = Path(self.path)
        rows = list(islice(read_rows(path), self.size))
        if rows and rows[0][1].keys() - set(_GIVEN) == _KEYS:
            return [_preference(where, row) for where, row in rows]
        sides = zip(rows, self._read(rows, self.chosen), self._read(rows, self.rejected), strict=True)
        return [self._pair(where, chosen, rejected) for (where, _), chosen, rejected in sides]

    def _read(self, rows: Rows, column: str) -> list[Row]:
        """The prompts with the responses of one column."""
        first = rows[0][1].get(column) if rows else None
        if isinstance(first, list | tuple) and len(first) > 1:
            schema = RowSchema(kind="messages", messages=column)
        else:
            schema = RowSchema(kind="prompt_completion", prompt=self.prompt, completion=column)
        return RowReader(schema, Path(self.path).stem, self.system, self.template).read(rows, self.size, self.path)

    def _pair(self, where: str, chosen: Row, rejected: Row) -> Preference:
        for column, row in ((self.chosen, chosen), (self.rejected, rejected)):
            if row.response is None:
                raise DataError(f"{where}: no response in column {column!r}")
        if chosen.prompt.messages != rejected.prompt.messages:
            raise DataError(f"{where}: {self.chosen} and {self.rejected} must answer the same prompt")
        texts = (self.prompt, self.chosen, self.rejected)
        metadata = {key: value for key, value in chosen.prompt.metadata.items() if key not in texts}
        prompt = replace(chosen.prompt, reference=None, metadata=metadata)
        return Preference(prompt, chosen.response or "", rejected.response or "", chosen.given, rejected.given)


def preferences_text(preferences: Sequence[Preference]) -> str:
    """One JSON object a line, for a file that `read_preferences` and `FilePreferences` read."""
    return "".join(json.dumps(_row(one), ensure_ascii=False, sort_keys=True) + "\n" for one in preferences)


def read_preferences(path: Path) -> list[Preference]:
    """Reads what `preferences_text` wrote. Raises DataError naming file and line."""
    return [_preference(where, row) for where, row in read_rows(path)]


def _row(one: Preference) -> Any:
    given = {name: getattr(one, name) for name in _GIVEN if getattr(one, name)}
    return json_value({**asdict(one.prompt), "chosen": one.chosen, "rejected": one.rejected, **given})


def _preference(where: str, row: Mapping[str, Any]) -> Preference:
    if row.keys() - set(_GIVEN) != _KEYS:
        raise DataError(f"{where}: expected the keys {sorted(_KEYS)}, got {sorted(row)}")
    sides = [row["chosen"], row["rejected"]]
    given = [read_given(where, text, row.get(name)) for text, name in zip(sides, _GIVEN, strict=True)]
    return Preference(stored_prompt(row), *sides, *given)
