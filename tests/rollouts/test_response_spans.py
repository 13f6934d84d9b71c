"""Spans of thinking and answer, and their tokens."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinkrl.rollouts.spans import ResponseParts, read_response, token_range

# The machine may be busy: a slow example is no failure here.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


def texts(text: str, prefix: str = "") -> tuple[str | None, str | None, bool]:
    parts = read_response(text, prefix)
    return (
        text[slice(*parts.think)] if parts.think else None,
        text[slice(*parts.answer)] if parts.answer else None,
        parts.well_formed,
    )


@pytest.mark.parametrize(
    ("text", "think", "answer", "well_formed"),
    [
        ("<think>a</think><answer>b</answer>", "a", "b", True),
        (" <think>a\nb</think>\n<answer>b</answer>\n", "a\nb", "b", True),
        ("<think></think><answer></answer>", "", "", True),
        ("", None, None, False),
        ("no tags", None, None, False),
        ("<think>a", "a", None, False),
        ("<think>a<answer>b</answer>", "a", "b", False),
        ("<think>a</think>b", "a", None, False),
        ("<think>a</think><answer>b", "a", None, False),
        ("a</think><answer>b</answer>", None, "b", False),
        ("<answer>b</answer>", None, "b", False),
        ("x<think>a</think><answer>b</answer>", "a", "b", False),
        ("<think>a</think>x<answer>b</answer>", "a", "b", False),
        ("<think>a</think><answer>b</answer>x", "a", "b", False),
        ("<think>a</think><answer>b</answer><answer>c</answer>", "a", "c", False),
        ("<think>a</think><answer>b</answer><answer>c", "a", "b", False),
        ("<think>a<answer>x</answer></think><answer>b</answer>", "a<answer>x</answer>", "b", False),
        ("<think>a<think>b</think>c</think><answer>d</answer>", "a<think>b", "d", False),
        ("<think>a</think><answer>b<answer>c</answer></answer>", "a", "c", False),
        ("<answer>b</answer><think>a</think>", "a", None, False),
        ("<think>a</think><answer>b<think></answer>", "a", None, False),
        ("<Think>a</Think>", None, None, False),
    ],
)
def test_parts(text: str, think: str | None, answer: str | None, well_formed: bool) -> None:
    assert texts(text) == (think, answer, well_formed)
    assert bool(read_response(text).problems) != well_formed


def test_prefix_counts_for_the_tags_but_not_for_the_ranges() -> None:
    assert texts("a</think><answer>b</answer>", prefix="<think>\n") == ("a", "b", True)
    assert texts("think>a</think><answer>b</answer>", prefix="<") == ("a", "b", True)


def test_problems_are_named() -> None:
    assert read_response("<think>a</think>x").problems == ("no <answer>", "no </answer>")
    assert read_response("<think>a</think>x<answer>b</answer>").problems == ("text between </think> and <answer>",)
    assert read_response("<think><think>a</think><answer>b</answer>").problems == ("<think> 2 times",)
    assert read_response("<answer>b</answer><think>a</think>").problems[0].startswith("tags out of order")


PIECES = st.lists(st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "a", " ", "\n"]), max_size=12)


@given(PIECES, st.integers(0, 3))
def test_ranges_lie_in_the_text_and_hold_no_own_end_tag(pieces: list[str], cut: int) -> None:
    prefix, text = "".join(pieces[:cut]), "".join(pieces[cut:])
    parts = read_response(text, prefix)
    for span, tag in ((parts.think, "</think>"), (parts.answer, "</answer>")):
        if span is not None:
            assert 0 <= span[0] <= span[1] <= len(text)
            assert tag not in text[slice(*span)]
    if parts.think and parts.answer:
        assert parts.think[1] <= parts.answer[0]
    # The definition, written out: well formed is one pattern and nothing else.
    tags = [p for p in pieces if p.startswith("<")]
    outside = (prefix + text).split("<think>")[0] + (prefix + text).rpartition("</answer>")[2]
    between = (prefix + text).partition("</think>")[2].partition("<answer>")[0]
    expected = tags == ["<think>", "</think>", "<answer>", "</answer>"] and not (outside + between).strip()
    assert parts.well_formed == expected


@pytest.mark.parametrize("piece", ["<think>", "</think>", "<answer>", "<answer></answer>", "<", "<think", "</"])
def test_linear_time(piece: str) -> None:
    begin = time.process_time()
    assert isinstance(read_response(piece * 30_000), ResponseParts)
    assert time.process_time() - begin < 2.0


def test_token_range_by_hand() -> None:
    # Tokens: "<think>" "ab" "c" "" "d" "</think>" and a stop token that writes nothing.
    ends = np.asarray([7, 9, 10, 10, 11, 19, 19], dtype=np.int32)
    assert token_range(ends, 7, 11) == (1, 5)
    assert token_range(ends, 8, 10) == (1, 3)
    assert token_range(ends, 10, 11) == (3, 5)
    assert token_range(ends, 0, 19) == (0, 6)
    assert token_range(ends, 9, 9) == (2, 2)
    assert token_range(np.zeros(0, dtype=np.int32), 0, 0) == (0, 0)
    with pytest.raises(ValueError, match="ascending"):
        token_range(ends, 5, 4)


@given(st.lists(st.integers(0, 3), max_size=12), st.data())
def test_token_range_is_the_tokens_that_touch(widths: list[int], data: st.DataObject) -> None:
    ends = np.cumsum(widths, dtype=np.int32) if widths else np.zeros(0, dtype=np.int32)
    total = int(ends[-1]) if len(ends) else 0
    start = data.draw(st.integers(0, total))
    end = data.draw(st.integers(start, total))
    first, stop = token_range(ends, start, end)
    begins = [int(e) - w for e, w in zip(ends, widths, strict=True)]
    writing = [i for i, (b, w) in enumerate(zip(begins, widths, strict=True)) if w and b < end and b + w > start]
    if start < end:
        assert writing == [i for i in range(first, stop) if widths[i]]
        assert all(start <= begins[i] < end for i in range(first, stop) if not widths[i])
    else:
        assert first == stop
