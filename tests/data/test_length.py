import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinkrl.data.length import OverlongPolicy, fit_prompts
from thinkrl.data.source import DataError


def rows(*lengths: int) -> list[np.ndarray]:
    return [np.arange(length, dtype=np.int32) for length in lengths]


NAMES = ["a", "b", "c"]


def test_error_names_count_and_longest() -> None:
    with pytest.raises(DataError, match=r"2 of 3 prompts are longer than 4 tokens \(the longest, c, has 9\)"):
        fit_prompts(rows(5, 4, 9), NAMES, 4, OverlongPolicy.ERROR)


def test_drop_keeps_positions_and_logs_the_count(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        fitted = fit_prompts(rows(5, 4, 9), NAMES, 4, OverlongPolicy.DROP)
    assert fitted.kept == (1,)
    assert fitted.overlong == 2
    assert "2 of 3 prompts are longer than 4 tokens" in caplog.text


def test_dropping_everything_is_an_error() -> None:
    with pytest.raises(DataError, match="leaves none"):
        fit_prompts(rows(5, 6), NAMES, 4, OverlongPolicy.DROP)


def test_truncation_spares_head_and_tail() -> None:
    left = fit_prompts(rows(10), NAMES, 6, OverlongPolicy.TRUNCATE_LEFT, head=1, tail=2)
    right = fit_prompts(rows(10), NAMES, 6, OverlongPolicy.TRUNCATE_RIGHT, head=1, tail=2)
    assert left.rows[0].tolist() == [0, 5, 6, 7, 8, 9]
    assert right.rows[0].tolist() == [0, 1, 2, 3, 8, 9]


def test_no_room_for_the_spared_tokens_is_an_error() -> None:
    with pytest.raises(DataError, match="must spare 6 tokens"):
        fit_prompts(rows(10), NAMES, 6, OverlongPolicy.TRUNCATE_LEFT, head=2, tail=4)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=6), st.integers(4, 20), st.integers(0, 1), st.integers(0, 2))
def test_truncated_rows_have_the_limit_and_others_stay(lengths: list[int], limit: int, head: int, tail: int) -> None:
    given_rows = rows(*lengths)
    for policy in (OverlongPolicy.TRUNCATE_LEFT, OverlongPolicy.TRUNCATE_RIGHT):
        fitted = fit_prompts(given_rows, ["x"] * len(lengths), limit, policy, head=head, tail=tail)
        assert [len(row) for row in fitted.rows] == [min(length, limit) for length in lengths]
        assert fitted.overlong == sum(length > limit for length in lengths)
        for before, after in zip(given_rows, fitted.rows, strict=True):
            assert after.dtype == np.int32
            assert np.array_equal(after[:head], before[:head])
            assert np.array_equal(after[len(after) - tail :], before[len(before) - tail :])


def test_nothing_overlong_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    fitted = fit_prompts(rows(3, 4), NAMES, 4, OverlongPolicy.ERROR)
    assert fitted.kept == (0, 1)
    assert fitted.overlong == 0
    assert not caplog.records
