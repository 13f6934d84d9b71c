"""Judged responses: what reward models learn from, and what they read of a response."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from thinkrl.config.component import PromptCount
from thinkrl.data.files import check_file, read_rows
from thinkrl.data.rows import USUAL, RowReader, RowSchema
from thinkrl.data.source import DataError, fill_template, question_text
from thinkrl.rollouts.prompt import Prompt
from thinkrl.rollouts.spans import read_response

if TYPE_CHECKING:
    from thinkrl.data.chat import ChatRenderer


@dataclass(frozen=True)
class JudgedResponse:
    """A prompt, a response, and what it is worth: 1 for right or better, 0 for wrong or worse, or between."""

    prompt: Prompt
    response: str
    worth: float


class JudgedSource(Protocol):
    """A frozen dataclass that yields the same judged responses, in the same order, each time it is asked."""

    def judged(self) -> Sequence[JudgedResponse]:
        """All of them. Raises DataError when there are none or they cannot be read."""
        ...


@dataclass(frozen=True)
class FileJudged:
    """Judged responses of a jsonl, json or parquet file: a prompt, a response, and a number or truth value.

    Rows with the same prompt are responses to one prompt. A row may also hold a better and a worse response: name their
    columns in `schema.completion` and `worse`; they are worth 1 and 0.
    """

    path: str
    """A .jsonl, .json or .parquet file."""
    schema: RowSchema = USUAL
    """Which columns are prompt and response."""
    worth: str = "worth"
    """Column that says what the response is worth; not read where there is a `worse` column."""
    worse: str = ""
    """Column with a worse response than that of the schema; empty where each row has one response."""
    second: str = ""
    """Column with a second label beside that of `worth`, such as a judge's beside a rule's: rows are left out on which
    they differ, one being above 1/2 and the other not (Cooper, arXiv 2508.05613); empty for one label."""
    size: PromptCount = 1_000_000
    """At most this many rows, from the start of the file."""
    system: str = ""
    """System turn, where the data has none; empty for none."""
    template: str = "{question}"
    """User turn for questions and prompts given as text."""

    def __post_init__(self) -> None:
        check_file(self.path, self.size, self.template)
        if self.second and self.worse:
            raise ValueError(f"second must be empty where pairs are read, got {self.second!r}")

    def judged(self) -> Sequence[JudgedResponse]:
        """Reads the file. Raises DataError for a row without a response or without a number, and where no two labels
        agree."""
        path = Path(self.path)
        rows = RowReader(self.schema, path.stem, self.system, self.template).read(read_rows(path), self.size, self.path)
        found: list[JudgedResponse] = []
        for number, row in enumerate(rows):
            where = f"{self.path} row {number}"
            if row.response is None:
                raise DataError(f"{where} has no response to judge")
            other = row.prompt.metadata.get(self.worse) if self.worse else None
            if self.worse and not isinstance(other, str):
                raise DataError(f"{where} has no text in column {self.worse!r}")
            worth = 1.0 if self.worse else _number(row.prompt.metadata, self.worth, where)
            if self.second and (worth > 0.5) != (_number(row.prompt.metadata, self.second, where) > 0.5):
                continue
            found.append(JudgedResponse(row.prompt, row.response, worth))
            if isinstance(other, str):
                found.append(JudgedResponse(row.prompt, other, 0.0))
        if not found:
            raise DataError(f"{self.path} has no row on which {self.worth!r} and {self.second!r} agree")
        return found


def _number(row: Mapping[str, object], column: str, where: str) -> float:
    value = row.get(column)
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise DataError(f"{where} must have a number from 0 to 1 or a truth value in {column!r}, got {value!r}")
    return float(value)


def pairs_of(judged: Sequence[JudgedResponse]) -> list[tuple[int, int]]:
    """Places of a better and a worse response to one prompt: the best with the worst, then the next, each once.

    Prompts are told apart by their turns, so that rows of a file with the same question belong together.
    """
    by_prompt: dict[object, list[int]] = {}
    for place, one in enumerate(judged):
        by_prompt.setdefault(one.prompt.messages, []).append(place)
    pairs = []
    for places in by_prompt.values():
        ordered = sorted(places, key=lambda place: -judged[place].worth)
        ends = zip(ordered[: len(ordered) // 2], reversed(ordered), strict=False)
        pairs += [(better, worse) for better, worse in ends if judged[better].worth > judged[worse].worth]
    return pairs


@dataclass(frozen=True)
class JudgedText:
    """What a reward model reads of a response: a conversation, or a text of its own; it is judged at the last token."""

    part: Literal["response", "answer"] = "response"
    """All of the response, or what stands in its last `<answer>` alone; without one, nothing is read."""
    template: str = ""
    """A text with {question}, {response}, and {reference} where it is read; empty writes the chat template's turns."""
    keep_ends: tuple[int, int] | None = None
    """Characters at the beginning and at the end of which response and reference keep no more than these, where they
    have more than both together, as (500, 1000); null reads all of them."""

    def __post_init__(self) -> None:
        if self.template and "{response}" not in self.template:
            raise ValueError(f"template must contain {{response}}, got {self.template!r}")
        if self.keep_ends is not None and not (min(self.keep_ends) >= 0 and max(self.keep_ends) > 0):
            raise ValueError(f"keep_ends must be 0 or more characters each, and not 0 both, got {self.keep_ends}")

    def token_ids(self, prompt: Prompt, response: str, renderer: "ChatRenderer") -> NDArray[np.int32] | None:
        """What is read, in the reward model's tokens, [t]; None where the response has no such part."""
        if self.part == "answer":
            answer = read_response(response).answer
            if answer is None:
                return None
            response = response[slice(*answer)].strip()
        response = self._shortened(response)
        if not self.template:
            turns = renderer.prompt_ids(prompt.messages), renderer.response_ids(response, end=True)
            return np.concatenate(turns).astype(np.int32)
        reference = self._shortened(str(prompt.reference))
        fields = {"question": question_text(prompt), "response": response, "reference": reference}
        ids = renderer.tokenizer(fill_template(self.template, fields), add_special_tokens=False)["input_ids"]
        return np.asarray(ids, dtype=np.int32)

    def _shortened(self, text: str) -> str:
        if self.keep_ends is None or len(text) <= sum(self.keep_ends):
            return text
        first, last = self.keep_ends
        return text[:first] + text[len(text) - last :]
