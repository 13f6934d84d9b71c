"""Responses that the policy wrote in part: what it was given is read, tokenized on its own, and named everywhere."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinkrl.data.chat import ChatRenderer
from thinkrl.data.preferences import FilePreferences, Preference, preferences_text, read_preferences
from thinkrl.data.source import DataError
from thinkrl.data.traces import FileTraces, Trace, read_traces, write_traces
from thinkrl.models.tiny import tiny_tokenizer
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.rollouts.spans import given_spans, stretches
from thinkrl.rollouts.store import FinishReason, Origin, Response
from thinkrl.tasks.worded_thinking import WordedThinking

PROMPT = Prompt("a", (Message("user", "?"),), "7", "test", {})
SAID = Trace(PROMPT, "call [7] so 7", ((5, 6), (6, 7), (7, 8)))
PLAIN = Trace(Prompt("b", (Message("user", "?"),), "7", "test", {}), "7")


def test_stretches_by_hand() -> None:
    assert stretches(5, ()) == [((0, 5), False)]
    assert stretches(0, ()) == [((0, 0), False)]
    assert stretches(6, [(0, 2), (2, 3), (5, 6)]) == [
        ((0, 2), True), ((2, 3), True), ((3, 5), False), ((5, 6), True)
    ]  # fmt: skip
    assert stretches(3, [(1, 2)]) == [((0, 1), False), ((1, 2), True), ((2, 3), False)]


@pytest.mark.parametrize("bad", [[(2, 2)], [(3, 2)], [(0, 9)], [(-1, 2)], [(2, 4), (3, 5)], [(4, 5), (1, 2)]])
def test_ranges_that_cannot_be_are_refused(bad: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="given must hold ascending ranges"):
        stretches(8, bad)
    with pytest.raises(ValueError, match="given must hold"):
        Trace(PROMPT, "12345678", tuple(bad))
    with pytest.raises(ValueError, match="given must hold"):
        Preference(PROMPT, "x", "12345678", (), tuple(bad))


def test_traces_round_trip_and_plain_ones_are_written_as_before(tmp_path: Path) -> None:
    path = write_traces(tmp_path / "traces.jsonl", [SAID, PLAIN])
    assert read_traces(path) == [SAID, PLAIN] == FileTraces(str(path)).traces()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows[0]["given"] == [[5, 6], [6, 7], [7, 8]]
    assert "given" not in rows[1]
    assert FileTraces(str(write_traces(tmp_path / "turned.jsonl", [PLAIN, SAID]))).traces() == [PLAIN, SAID]


@pytest.mark.parametrize(
    ("value", "message"),
    [("x", "pairs of whole numbers"), ([[1]], "pairs of whole numbers"), ([[0, True]], "pairs of whole numbers"),
     ([[0, 2.0]], "pairs of whole numbers"), ([[3, 99]], "ascending ranges of the 13 characters")],
)  # fmt: skip
def test_a_file_with_bad_ranges_is_named(tmp_path: Path, value: Any, message: str) -> None:
    path = write_traces(tmp_path / "traces.jsonl", [SAID])
    path.write_text(json.dumps({**json.loads(path.read_text()), "given": value}) + "\n")
    with pytest.raises(DataError, match=rf"traces\.jsonl line 1: .*{message}"):
        read_traces(path)


def test_turns_of_a_tool_in_a_completion_are_given(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    turns = [("assistant", "call "), ("tool", "[7]"), ("tool", ""), ("assistant", " so 7")]
    row = {"prompt": "?", "completion": [{"role": role, "content": text} for role, text in turns]}
    path.write_text(json.dumps(row) + "\n" + json.dumps({"prompt": "?", "completion": "7"}))
    said, plain = FileTraces(str(path)).traces()
    assert (said.response, said.given) == ("call [7] so 7", ((5, 8),))
    assert (plain.response, plain.given) == ("7", ())
    for bad in ([turns[0], ("user", "no"), turns[-1]], turns[:2]):
        row = {"prompt": "?", "completion": [{"role": role, "content": text} for role, text in bad]}
        path.write_text(json.dumps(row))
        with pytest.raises(DataError, match="several with turns of a tool between"):
            FileTraces(str(path)).traces()


def test_preferences_say_what_was_given_on_either_side(tmp_path: Path) -> None:
    both = Preference(PROMPT, "a[7]b", "c", ((1, 4),))
    plain = Preference(PROMPT, "x", "y")
    path = tmp_path / "pairs.jsonl"
    path.write_text(preferences_text([both, plain]))
    assert read_preferences(path) == [both, plain] == FilePreferences(str(path)).preferences()
    assert "given" not in path.read_text().splitlines()[1]


def test_a_response_of_which_some_is_given_is_not_reworded() -> None:
    class Source:
        def traces(self) -> list[Trace]:
            return [SAID]

    with pytest.raises(DataError, match="prompt a: a response of which some is given"):
        WordedThinking(Source()).traces()


RENDERER = ChatRenderer(tiny_tokenizer("byte", ("<think>", "</think>", "ab")))


@settings(max_examples=60, deadline=None)
@given(text=st.text(st.sampled_from("ab<>é🎉\n"), max_size=12), edges=st.sets(st.integers(0, 12), max_size=6))
def test_ids_of_parts_are_those_of_each_part_alone(text: str, edges: set[int]) -> None:
    cuts = sorted(edge for edge in edges if edge <= len(text))
    spans = [(a, b) for a, b in zip(cuts[::2], cuts[1::2], strict=False)]
    ids, mask = RENDERER.response_parts(text, spans, end=True)
    expected: list[int] = []
    for (first, last), is_given in stretches(len(text), spans):
        part = RENDERER.tokenizer(text[first:last], add_special_tokens=False)["input_ids"]
        assert mask[len(expected) : len(expected) + len(part)].tolist() == [is_given] * len(part)
        expected += part
    assert ids.tolist() == [*expected, RENDERER.end_id]
    assert not mask[-1]
    plain = RENDERER.response_parts(text, (), end=True)
    assert np.array_equal(plain[0], RENDERER.response_ids(text, end=True))
    assert not plain[1].any()


def test_two_parts_are_not_joined_in_one_token() -> None:
    assert len(RENDERER.response_parts("ab", (), end=False)[0]) == 1
    ids, mask = RENDERER.response_parts("ab", [(1, 2)], end=False)
    assert (len(ids), mask.tolist()) == (2, [False, True])


def test_what_a_template_opens_begins_the_first_part() -> None:
    tokenizer = tiny_tokenizer("byte", ("<think>", "</think>"))
    tokenizer.chat_template = tokenizer.chat_template.replace("assistant\n'", "assistant\n<think>'")
    renderer = ChatRenderer(tokenizer)
    assert renderer.opening == "<think>"
    ids, mask = renderer.response_parts("a[7]", [(1, 4)], end=False)
    assert tokenizer.decode(ids) == "<think>a[7]"
    assert mask.tolist() == [False, False, True, True, True]
    assert tokenizer.decode(renderer.response_parts("<think>a", (), end=False)[0]) == "<think>a"


def test_spans_of_a_response_follow_its_tokens() -> None:
    """Tokens of 2, 1, 3 and 1 characters; the second and the last are given, and a given one that writes nothing."""
    given, sampled = Origin.GIVEN, Origin.SAMPLED
    origins = np.asarray([sampled, given, sampled, given, sampled, given], dtype=np.uint8)
    ends = np.asarray([2, 3, 6, 6, 7, 9], dtype=np.int32)
    blank = np.zeros(6, dtype=np.float32)
    response = Response(
        "r", "g", "123456789", FinishReason.STOP, np.arange(6, dtype=np.int32), origins, blank, blank,
        np.zeros(6, dtype=np.int32), ends,
    )  # fmt: skip
    assert given_spans(response) == ((2, 3), (7, 9))
