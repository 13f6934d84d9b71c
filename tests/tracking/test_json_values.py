import json
import math
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinkrl.tracking.json_values import dump_json, load_json

texts = st.text() | st.sampled_from(["NaN", "\\NaN", "\\\\-Infinity", "\\", "Infinity"])
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.sampled_from(["NaN", "\\NaN"]),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


@given(values)
def test_what_is_written_reads_back_with_its_types_and_order(value: Any) -> None:
    back = load_json(dump_json(value))
    assert repr(back) == repr(value)  # tells 1 from 1.0 and from True, and -0.0 from 0.0


@given(st.floats(allow_nan=False))
def test_floats_keep_every_bit(value: float) -> None:
    assert struct.pack("<d", load_json(dump_json(value))) == struct.pack("<d", value)


def test_non_finite_numbers_are_valid_json_for_any_reader() -> None:
    text = dump_json({"a": math.nan, "b": math.inf, "c": -math.inf})
    assert json.loads(text, parse_constant=pytest.fail) == {"a": "NaN", "b": "Infinity", "c": "-Infinity"}
    back = load_json(text)
    assert math.isnan(back["a"])
    assert back["b"] == math.inf
    assert back["c"] == -math.inf


def test_line_separators_of_unicode_do_not_split_a_line() -> None:
    text = dump_json({"text": "a\u2028b\u2029c\u0085d\ne"})
    assert len(text.splitlines()) == 1
    assert load_json(text) == {"text": "a\u2028b\u2029c\u0085d\ne"}


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"a": {"b": object()}}, "a.b: object"),
        ({"a": [1, {1: 2}]}, r"a\[1\]: keys must be strings, got 1"),
        ({1, 2}, "set"),
    ],
)
def test_values_that_would_change_are_refused_by_place(value: Any, place: str) -> None:
    with pytest.raises(ValueError, match=place):
        dump_json(value)


def test_a_bare_nan_in_a_file_is_not_json() -> None:
    with pytest.raises(ValueError, match="NaN is not JSON"):
        load_json('{"a": NaN}')
