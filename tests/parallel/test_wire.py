import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinkrl.grading.verdict import Verdict
from thinkrl.parallel.wire import decode, encode
from thinkrl.rewards.result import RewardResult, TermResult
from thinkrl.rollouts.ragged import Ragged
from thinkrl.rollouts.store import FinishReason
from thinkrl.sampling.sampler import Sample

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=20,
)


@given(PLAIN)
def test_plain_values_come_back_as_they_were(value):
    back = decode(encode(value))
    assert back == value
    assert repr(back) == repr(value), "0 and -0.0, 1 and True, tuples and lists stay apart"


@given(
    st.sampled_from(["bool", "uint8", "int32", "int64", "float32", "float64"]),
    st.lists(st.integers(0, 4), max_size=3),
    st.integers(0, 1000),
)
def test_arrays_come_back_bit_for_bit(dtype, shape, seed):
    array = np.asarray(np.random.default_rng(seed).random(shape) * 9 - 4).astype(dtype)
    back = decode(encode({"a": [array], "b": array}))
    for found in (back["a"][0], back["b"]):
        assert found.dtype == array.dtype
        assert found.shape == array.shape
        assert found.tobytes() == array.tobytes()
        assert found.flags.writeable


def test_numbers_that_json_has_not_survive():
    back = decode(encode([math.nan, math.inf, -math.inf, np.float64(0.1), np.int32(7)]))
    assert math.isnan(back[0])
    assert back[1:] == [math.inf, -math.inf, 0.1, 7]


def test_samples_and_rewards_are_told():
    ones = np.ones(2, dtype=np.float32)
    sample = Sample(np.asarray([3, 4], np.int32), -ones, ones, FinishReason.LENGTH, 5)
    (back,) = decode(encode([sample]), (Sample, FinishReason))
    assert back.finish_reason is FinishReason.LENGTH
    assert back.version == 5
    assert back.sampled is None
    assert np.array_equal(back.token_ids, sample.token_ids)
    part = TermResult(
        np.asarray([0.5, np.nan]), np.ones(2), 1.0, np.ones(2, dtype=bool), np.ones(2), (None, Verdict.TIMEOUT)
    )
    rewards = RewardResult(
        np.asarray([0.5, np.nan]), {"a": part}, (Verdict.CORRECT, None), Ragged.from_rows([[1.0], []], float)
    )
    again = decode(encode(rewards), (RewardResult, TermResult, Verdict, Ragged))
    assert again.verdicts[0] is Verdict.CORRECT
    assert np.array_equal(again.totals, rewards.totals, equal_nan=True)
    assert again.terms["a"].verdicts == (None, Verdict.TIMEOUT)
    assert np.array_equal(again.tokens.offsets, [0, 1, 1])


@dataclass(frozen=True)
class Stranger:
    value: int


def test_a_message_builds_only_what_its_reader_names():
    with pytest.raises(ValueError, match="holds a Stranger"):
        decode(encode(Stranger(1)), (Sample,))


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", np.asarray(["text"]), np.asarray([object()])])
def test_what_cannot_be_told_is_refused(value):
    with pytest.raises(ValueError, match="cannot be sent"):
        encode(value)
