"""Files of responses: what is read, and the message for every kind of line that cannot be."""

import json
from pathlib import Path
from typing import Any

import pytest

from thinkrl.data.responses import GivenResponse, read_responses
from thinkrl.data.source import DataError
from thinkrl.rollouts.prompt import Message
from thinkrl.rollouts.store import FinishReason

PLAIN = {"prompt_id": "a", "response": "x"}


def read(folder: Path, *lines: Any) -> list[GivenResponse]:
    path = folder / "r.jsonl"
    data = b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)
    path.write_bytes(data)
    return read_responses(path)


def test_all_keys_are_read(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    (one,) = read(
        tmp_path,
        {
            **PLAIN, "response_id": "r", "prompt": turns, "reference": {"k": [1]}, "finish_reason": "length",
            "token_count": 3, "signals": {"judge": 1}, "metadata": {"level": 2},
        },
    )  # fmt: skip
    assert one.prompt.messages == (Message("system", "s"), Message("user", "q"))
    assert (one.prompt.prompt_id, one.prompt.reference, one.prompt.metadata) == ("a", {"k": [1]}, {"level": 2})
    assert (one.response_id, one.text, one.finish_reason, one.token_count) == ("r", "x", FinishReason.LENGTH, 3)
    assert one.signals == {"judge": 1}


def test_tokens_make_up_the_response(tmp_path: Path) -> None:
    (one,) = read(tmp_path, {**PLAIN, "response": "ab<t>", "tokens": ["a", "b", "<t>", ""], "token_count": 4})
    assert one.tokens == ("a", "b", "<t>", "")
    for tokens, message in ((["x", "y"], "tokens must make up"), ("x", "list of texts"), ([1], "list of texts")):
        with pytest.raises(DataError, match=message):
            read(tmp_path, {**PLAIN, "tokens": tokens})
    with pytest.raises(DataError, match="token_count is 2, but there are 1 tokens"):
        read(tmp_path, {**PLAIN, "tokens": ["x"], "token_count": 2})


def test_what_one_line_says_of_a_prompt_holds_for_all(tmp_path: Path) -> None:
    lines = [PLAIN, {**PLAIN, "prompt_id": "b"}, {**PLAIN, "prompt": "q", "reference": 0}, PLAIN]
    found = read(tmp_path, *lines)
    assert [one.response_id for one in found] == ["a/0", "b/0", "a/1", "a/2"]
    assert [one.prompt.reference for one in found] == [0, None, 0, 0]
    assert found[0].prompt.messages == (Message("user", "q"),)
    assert found[1].prompt.messages == ()
    assert {one.finish_reason for one in found} == {FinishReason.STOP}


def test_numbers_as_ids_are_given_back_as_they_are(tmp_path: Path) -> None:
    (one,) = read(tmp_path, {"prompt_id": 3, "response": "x", "response_id": 8})
    assert (one.prompt.prompt_id, one.response_id, one.given_ids) == ("3", "8", (3, 8))


def test_a_byte_order_mark_blank_lines_and_line_separators_in_texts_do_no_harm(tmp_path: Path) -> None:
    text = '{"prompt_id": "a", "response": "one\u2028two"}'.encode()
    found = read(tmp_path, b"\xef\xbb\xbf" + text, b"  ", b"\r", text + b"\r")
    assert [(one.text, one.where[-2:]) for one in found] == [("one\u2028two", ":1"), ("one\u2028two", ":4")]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b'{"prompt_id": "a", "response": "x', "not valid JSON at column 32"),
        (b'{"prompt_id": "a", "response": "x"} {}', "one object on one line"),
        (b"\xff", "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b"3", "must be an object with prompt_id and response, got a number"),
        (b'{"prompt_id": "a", "prompt_id": "b", "response": ""}', "'prompt_id' stands twice"),
        (b'{"prompt_id": "a", "response": "", "reference": NaN}', "NaN is not JSON; write null"),
        (b'{"prompt_id": "a", "response": "", "reference": -Infinity}', "-Infinity is not JSON"),
        (b'{"prompt_id": "a", "response": "", "reference": 1e999}', "1e999 is too large"),
        ({"prompt_id": "a", "respnse": "x"}, "unknown key 'respnse'; did you mean response?"),
        ({"prompt_id": "a"}, "response is missing"),
        ({"response": "x"}, "prompt_id is missing"),
        ({**PLAIN, "prompt_id": 1.5}, "prompt_id must be a text, got 1.5"),
        ({**PLAIN, "prompt_id": True}, "prompt_id must be a text, got true"),
        ({**PLAIN, "response": None}, "response must be a text, got null"),
        ({**PLAIN, "finish_reason": "eos"}, "finish_reason must be stop or length"),
        ({**PLAIN, "token_count": 0}, "token_count must be from 1"),
        ({**PLAIN, "token_count": 10**9}, "token_count must be from 1 to 10,000,000"),
        ({**PLAIN, "token_count": 2.0}, "token_count must be a whole number, got 2.0"),
        ({**PLAIN, "signals": [1]}, "signals must be an object"),
        ({**PLAIN, "metadata": "x"}, "metadata must be an object"),
        ({**PLAIN, "prompt": 3}, "prompt must be a text or a list of messages"),
        ({**PLAIN, "prompt": [{"role": "user"}]}, "role and content"),
        ({**PLAIN, "prompt": [{"role": "bot", "content": ""}]}, "the role of a message must be system, user"),
    ],
)
def test_a_bad_line_is_named_with_its_number(tmp_path: Path, line: Any, says: str) -> None:
    with pytest.raises(DataError) as error:
        read(tmp_path, {**PLAIN, "prompt_id": "other"}, line)
    assert f"{tmp_path / 'r.jsonl'}:2: " in str(error.value)
    assert says in str(error.value)


@pytest.mark.parametrize("key", ["prompt", "reference", "metadata"])
def test_lines_that_disagree_about_a_prompt(tmp_path: Path, key: str) -> None:
    values: tuple[Any, Any] = ({"x": 1}, {"x": True}) if key == "metadata" else ("q", "r")
    with pytest.raises(DataError, match=rf"r.jsonl:3: the {key} of prompt_id 'a' is .*, but .*r.jsonl:1 has"):
        read(tmp_path, {**PLAIN, key: values[0]}, PLAIN, {**PLAIN, key: values[1]})


def test_response_ids_are_unique_whether_given_or_not(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"r.jsonl:2: response_id 'a/0' is that of .*r.jsonl:1"):
        read(tmp_path, PLAIN, {**PLAIN, "prompt_id": "b", "response_id": "a/0"})


def test_an_empty_file_is_no_file_of_responses(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no response"):
        read(tmp_path, b"", b" ")
