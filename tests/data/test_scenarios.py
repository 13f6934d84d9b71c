"""Scenarios of simulated users from a file: what the policy sees, and what it does not."""

import json
from pathlib import Path
from typing import Any

import pytest

from thinkrl.data.scenarios import ScenarioPrompts
from thinkrl.data.source import DataError
from thinkrl.rollouts.prompt import Message

ROW = {"persona": "a baker", "hidden_goal": "praise", "first_message": "the bread failed", "age": 7}


def write(folder: Path, *rows: Any) -> str:
    path = folder / "people.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_the_policy_sees_system_turn_and_first_words_alone(tmp_path: Path) -> None:
    path = write(tmp_path, ROW, {**ROW, "hidden_goal": "advice"})
    first, second = ScenarioPrompts(path, opening="first_message", system="be kind").prompts()
    assert first.messages == (Message("system", "be kind"), Message("user", "the bread failed"))
    assert (first.prompt_id, first.reference, second.prompt_id, second.reference) == (
        "people-0", "praise", "people-1", "advice",
    )  # fmt: skip
    assert first.metadata == {"persona": "a baker"}
    (silent,) = ScenarioPrompts(path, size=1).prompts()
    assert silent.messages == ()
    assert silent.metadata == {"persona": "a baker", "first_message": "the bread failed"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"persona": "x"}], "line 1 has no text in column 'hidden_goal'"),
        ([ROW, {**ROW, "hidden_goal": " "}], "line 2 has no text in column 'hidden_goal'"),
        ([{**ROW, "first_message": 3}], "line 1 has no text in column 'first_message'"),
        ([], "holds no scenario"),
    ],
)
def test_rows_that_lack_something_are_named(tmp_path: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        ScenarioPrompts(write(tmp_path, *rows), opening="first_message").prompts()


def test_bad_fields() -> None:
    with pytest.raises(ValueError, match="path must end with"):
        ScenarioPrompts("people.txt")
    with pytest.raises(ValueError, match="hidden must name a column"):
        ScenarioPrompts("people.jsonl", hidden="")
