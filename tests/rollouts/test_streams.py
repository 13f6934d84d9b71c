import subprocess
import sys
from hashlib import blake2b

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinkrl.rollouts.streams import generator, stream_key

PARTS = st.lists(st.one_of(st.integers(-(2**70), 2**70), st.text(max_size=6)), max_size=5)


def test_key_is_blake2b_of_tagged_parts_with_lengths() -> None:
    expected = blake2b(b"s6:samplei1:7" + b"i2:-3", digest_size=8).digest()
    assert stream_key("sample", 7, -3) == int.from_bytes(expected, "little")


@given(PARTS, PARTS)
def test_different_parts_have_different_keys(left: list[str | int], right: list[str | int]) -> None:
    same = [(type(part), part) for part in left] == [(type(part), part) for part in right]
    assert (stream_key(*left) == stream_key(*right)) == same


@given(PARTS)
def test_key_has_64_bits(parts: list[str | int]) -> None:
    assert 0 <= stream_key(*parts) < 2**64


def test_boundaries_between_parts_count() -> None:
    keys = {stream_key("ab", "c"), stream_key("a", "bc"), stream_key("abc"), stream_key("1"), stream_key(1)}
    assert len(keys) == 5


def test_numpy_integers_are_integers() -> None:
    assert stream_key(np.int64(5)) == stream_key(5)


@pytest.mark.parametrize("part", [True, 1.0, None, b"x"])
def test_other_types_are_refused(part: object) -> None:
    with pytest.raises(TypeError, match="whole numbers"):
        stream_key(part)  # type: ignore[arg-type]


def test_key_is_the_same_in_another_process() -> None:
    program = "from thinkrl.rollouts.streams import stream_key; print(stream_key('order', 3))"
    environment = {"PYTHONHASHSEED": "77"}
    printed = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert int(printed.stdout) == stream_key("order", 3)


def test_generators_repeat_and_do_not_touch_global_state() -> None:
    np.random.seed(0)
    before = np.random.get_state()[1].copy()  # type: ignore[index]
    assert np.array_equal(generator("x", 1).random(8), generator("x", 1).random(8))
    assert not np.array_equal(generator("x", 1).random(8), generator("x", 2).random(8))
    assert np.array_equal(before, np.random.get_state()[1])  # type: ignore[index]


def test_streams_of_neighbouring_positions_look_independent() -> None:
    draws = np.stack([generator("sample", step).standard_normal(2000) for step in range(12)])
    correlations = np.corrcoef(draws)[np.triu_indices(12, 1)]
    # 66 correlations of 2000 pairs: standard deviation 0.022, so 0.1 is 4.5 deviations.
    assert np.abs(correlations).max() < 0.1
