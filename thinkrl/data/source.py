"""Where prompts come from, and what every source shares: question text, templates, JSON values."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from thinkrl.config.component import UserError
from thinkrl.rollouts.prompt import Message, Prompt

_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)\}")


class DataError(UserError):
    """Data that cannot be used. The message says what is wrong, where, and what to do."""


class PromptSource(Protocol):
    """A frozen dataclass that yields the same prompts, in the same order, each time it is asked.

    One whose prompts belong together, so many in a row (a question and its twin), says so with `together`: a stage
    keeps them in one batch.
    """

    def prompts(self) -> Sequence[Prompt]:
        """All prompts; ids are unique. Raises DataError when there are none or they cannot be read."""
        ...


def question_text(prompt: Prompt) -> str:
    """The bare question with white space collapsed: equal for the same question under other wordings.

    It is the `question` of the metadata where the source knows it, else the last user turn.
    """
    question = prompt.metadata.get("question")
    if not isinstance(question, str):
        question = next((turn.content for turn in reversed(prompt.messages) if turn.role == "user"), "")
    return " ".join(question.split())


def different_questions(drawn: Iterable[Prompt], left_out: PromptSource | None) -> Iterator[Prompt]:
    """Those of `drawn` whose question is neither that of an earlier one nor asked by `left_out`, in order."""
    taken = {question_text(prompt) for prompt in left_out.prompts()} if left_out else set()
    for prompt in drawn:
        question = question_text(prompt)
        if question not in taken:
            taken.add(question)
            yield prompt


def check_template(template: str) -> None:
    """Raises ValueError unless `template` has a field such as {question}."""
    if not _PLACEHOLDER.search(template):
        raise ValueError(f"template must contain a field such as {{question}}, got {template!r}")


def fill_template(template: str, fields: Mapping[str, Any]) -> str:
    """Replaces `{name}` by the field of that name; other braces stay as they are.

    Raises ValueError when the template names no field at all, with the nearest names.
    """
    names = _PLACEHOLDER.findall(template)
    if not any(name in fields for name in names):
        near = [near for name in names for near in difflib.get_close_matches(name, fields, n=1)]
        known = near or sorted(fields)
        raise ValueError(f"template must contain a field such as {{{known[0]}}}, got {template!r}")
    return _PLACEHOLDER.sub(lambda match: str(fields.get(match[1], match[0])), template)


def question_messages(question: str, system: str) -> tuple[Message, ...]:
    """One user turn, after a system turn when there is one."""
    user = Message("user", question)
    return (Message("system", system), user) if system else (user,)


def json_value(value: Any) -> Any:
    """`value` as JSON values: tuples and sets become lists, numpy scalars numbers, anything else its text."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else str(value)
    if isinstance(value, Mapping):
        return {str(key): json_value(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((json_value(item) for item in value), key=repr)
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]
    if hasattr(value, "tolist"):
        return json_value(value.tolist())
    return str(value)
