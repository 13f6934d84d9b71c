"""Rows of a table or a jsonl file, in the usual schemas, as prompts and responses."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from thinkrl.data.source import DataError, fill_template, json_value, question_messages
from thinkrl.rollouts.prompt import Message, Prompt, Role
from thinkrl.rollouts.spans import Span

SchemaKind = Literal["auto", "messages", "prompt_completion", "question_answer"]
_ROLES: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "tool": "tool",
}


@dataclass(frozen=True)
class RowSchema:
    """Which columns of a row are the prompt, the response and the reference.

    messages: a list of turns; a last assistant turn is the response.
    prompt_completion: prompt (text or turns) and completion (text or turns, may be missing). A completion of several
    turns is one response, as it stands; what its turns of role tool say is given and carries no loss.
    question_answer: question and answer; text up to `####` (GSM8K) is the response, what follows the reference.
    A column may be a path into nested values, such as reward_model.ground_truth.
    """

    kind: SchemaKind = "auto"
    """Which of the three; auto takes the first whose columns are there."""
    messages: str = "messages"
    """Column with the turns, each with role and content (or from and value)."""
    prompt: str = "prompt"
    """Column with the prompt of prompt_completion."""
    completion: str = "completion"
    """Column with the completion; may be missing from the data."""
    question: str = "question"
    """Column with the question."""
    answer: str = "answer"
    """Column with the answer."""
    reference: str = ""
    """Column that verifiers compare with; empty: the answer of question_answer, else the response."""
    identity: str = ""
    """Column with a unique id; empty: the row's number."""


USUAL = RowSchema()
"""The usual column names."""


@dataclass(frozen=True)
class Row:
    """A row that was read: the prompt, the response where the data has one, and which ranges of it are given."""

    prompt: Prompt
    response: str | None = None
    given: tuple[Span, ...] = ()


@dataclass(frozen=True)
class RowReader:
    """Reads rows of one source. `source` begins every prompt id; `where` of a row is named in errors."""

    schema: RowSchema
    source: str
    system: str = ""
    template: str = "{question}"

    def read(self, rows: Iterable[tuple[str, Mapping[str, Any]]], limit: int, place: str = "") -> list[Row]:
        """The first `limit` rows of (where, row) pairs, read from `place`.

        Raises DataError naming the row that cannot be read, or the place that holds none.
        """
        found: list[Row] = []
        for number, (where, row) in enumerate(rows):
            if len(found) == limit:
                break
            try:
                found.append(self._row(number, row))
            except (KeyError, ValueError, TypeError) as error:
                raise DataError(f"{where}: {error.args[0] if error.args else error}") from error
        if not found:
            raise DataError(f"{place or self.source} holds no rows")
        return found

    def _row(self, number: int, row: Mapping[str, Any]) -> Row:
        kind = self._kind(row)
        if kind == "question_answer":
            return self._question_answer(number, row)
        turns = read_turns(_at(row, self.schema.messages if kind == "messages" else self.schema.prompt))
        response: str | None = None
        given: tuple[Span, ...] = ()
        if kind == "prompt_completion":
            response, given = _completion(_at(row, self.schema.completion, missing=None))
            if isinstance(_at(row, self.schema.prompt), str):
                turns = (Message("user", fill_template(self.template, {"question": turns[0].content})),)
        elif turns[-1].role == "assistant":
            turns, response = turns[:-1], turns[-1].content
        if not turns or turns[-1].role == "assistant":
            raise ValueError("the turns before the response must end with another role than assistant")
        if self.system and turns[0].role != "system":
            turns = (Message("system", self.system), *turns)
        reference = _at(row, self.schema.reference) if self.schema.reference else response
        return Row(self._prompt(number, row, turns, reference, {}), response, given)

    def _question_answer(self, number: int, row: Mapping[str, Any]) -> Row:
        question = str(_at(row, self.schema.question))
        answer = _at(row, self.schema.answer)
        reference = _at(row, self.schema.reference) if self.schema.reference else answer
        if isinstance(reference, str) and "####" in reference:
            reference = reference.rpartition("####")[2].strip().replace(",", "")
        scalars = {key: value for key, value in row.items() if isinstance(value, str | int | float)}
        text = fill_template(self.template, {**scalars, "question": question})
        turns = question_messages(text, self.system)
        return Row(self._prompt(number, row, turns, reference, {"question": question}), str(answer))

    def _prompt(
        self, number: int, row: Mapping[str, Any], turns: Sequence[Message], reference: Any, extra: Mapping[str, Any]
    ) -> Prompt:
        schema = self.schema
        name = str(_at(row, schema.identity)) if schema.identity else f"{self.source}-{number}"
        used = {schema.messages, schema.prompt, schema.completion}
        metadata = {**{key: json_value(value) for key, value in row.items() if key not in used}, **extra}
        return Prompt(name, tuple(turns), json_value(reference), self.source, metadata)

    def _kind(self, row: Mapping[str, Any]) -> SchemaKind:
        schema = self.schema
        if schema.kind != "auto":
            return schema.kind
        if schema.messages in row:
            return "messages"
        if schema.prompt in row:
            return "prompt_completion"
        if schema.question in row and schema.answer in row:
            return "question_answer"
        raise ValueError(
            f"no known schema in columns {sorted(row)}: expected {schema.messages}, or {schema.prompt}, or"
            f" {schema.question} and {schema.answer}; name the columns in `schema`"
        )


_REQUIRED = object()


def _at(row: Mapping[str, Any], column: str, missing: Any = _REQUIRED) -> Any:
    """The value of `column`, or along the path of its dots."""
    value: Any = row
    for part in (column,) if column in row else column.split("."):
        if not isinstance(value, Mapping) or part not in value or value[part] is None:
            if missing is not _REQUIRED:
                return missing
            raise KeyError(f"no value in column {column!r}; the columns are {sorted(row)}")
        value = value[part]
    return value


def read_turns(value: Any) -> tuple[Message, ...]:
    """A text, which is a user's turn, or a list of turns with role and content. Raises ValueError for anything else."""
    if isinstance(value, str):
        return (Message("user", value),)
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"turns must be a list of role and content, got {json.dumps(json_value(value))[:80]}")
    return tuple(_message(turn) for turn in value)


def _message(turn: Any) -> Message:
    if not isinstance(turn, Mapping):
        raise ValueError(f"a turn must have role and content, got {turn!r}")
    role = turn.get("role", turn.get("from"))
    content = turn.get("content", turn.get("value"))
    known = _ROLES.get(str(role))
    if known is None or not isinstance(content, str):
        raise ValueError(f"a turn must have a role of {', '.join(_ROLES)} and content as text, got {turn!r}")
    return Message(known, content)


def _completion(value: Any) -> tuple[str | None, tuple[Span, ...]]:
    """The text of a completion, and the ranges of it that tools say."""
    if value is None or isinstance(value, str):
        return value, ()
    turns = read_turns(value)
    if turns[-1].role != "assistant" or any(turn.role not in ("assistant", "tool") for turn in turns):
        raise ValueError("a completion must be text, one assistant turn, or several with turns of a tool between")
    given: list[Span] = []
    end = 0
    for turn in turns:
        if turn.role == "tool" and turn.content:
            given.append((end, end + len(turn.content)))
        end += len(turn.content)
    return "".join(turn.content for turn in turns), tuple(given)
