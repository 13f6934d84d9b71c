import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinkrl.rollouts.ragged import Ragged

rows = st.lists(st.lists(st.integers(-1000, 1000), max_size=5), max_size=6)


@given(rows)
def test_rows_come_back_as_given(given_rows: list[list[int]]) -> None:
    column = Ragged.from_rows(given_rows, np.int32)
    assert [row.tolist() for row in column] == given_rows
    assert column.lengths.tolist() == [len(row) for row in given_rows]
    assert column.sums().tolist() == [sum(row) for row in given_rows]
    assert column.row_ids.tolist() == [index for index, row in enumerate(given_rows) for _ in row]


@given(rows, st.data())
def test_take_keeps_order_and_repeats(given_rows: list[list[int]], data: st.DataObject) -> None:
    if not given_rows:
        return
    chosen = data.draw(st.lists(st.integers(0, len(given_rows) - 1), max_size=6))
    assert [r.tolist() for r in Ragged.from_rows(given_rows, np.int32).take(chosen)] == [given_rows[i] for i in chosen]


def test_a_nan_stays_inside_its_row() -> None:
    column = Ragged.from_rows([[1.0, float("nan")], [2.0], []], np.float64)
    assert np.isnan(column.sums()[0])
    assert column.sums()[1:].tolist() == [2.0, 0.0]


@pytest.mark.parametrize("offsets", [[1, 2], [0, 1], [0, 3, 2]])
def test_offsets_that_do_not_fit_are_refused(offsets: list[int]) -> None:
    with pytest.raises(ValueError, match="offsets"):
        Ragged(np.zeros(2), np.asarray(offsets))


def test_other_values_must_fit() -> None:
    with pytest.raises(ValueError, match="expected 2 values"):
        Ragged.from_rows([[1, 2]], np.int32).with_values([1, 2, 3])
