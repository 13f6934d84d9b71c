"""Returns, generalised advantages and whitening: closed forms, limits, and an implementation of its own."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinkrl.algorithms.token_returns import VALUES, GeneralisedAdvantage, ReturnToGo
from thinkrl.algorithms.whitening import Whitened
from thinkrl.rollouts.prompt import Prompt
from thinkrl.rollouts.ragged import Ragged
from thinkrl.rollouts.store import FinishReason, Group, Origin, Response, Rollouts

EXACT: Any = {"rel": 1e-12, "abs": 1e-12}


def rollouts(origins: Sequence[Sequence[int]], groups: Sequence[int] | None = None) -> Rollouts:
    """Responses whose tokens are sampled (1) or given (0)."""
    numbers = list(groups or [0] * len(origins))
    responses = []
    for row, marks in enumerate(origins):
        n = len(marks)
        responses.append(
            Response(
                response_id=f"r{row}",
                group_id=f"g{numbers[row]}",
                text="",
                finish_reason=FinishReason.STOP,
                token_ids=np.zeros(n, np.int32),
                origins=np.asarray(marks, np.uint8),
                logprobs=np.zeros(n, np.float32),
                entropies=np.zeros(n, np.float32),
                versions=np.zeros(n, np.int32),
                char_ends=np.zeros(n, np.int32),
            )
        )
    names = sorted(set(numbers))
    return Rollouts.from_responses(
        [Group(f"g{k}", Prompt(f"p{k}", ()), np.ones(1, np.int32)) for k in names], responses
    )


def column(batch: Rollouts, rows: Sequence[Sequence[float]]) -> Ragged:
    found = Ragged.from_rows(rows, np.float64)
    assert np.array_equal(found.offsets, batch.token_ids.offsets)
    return found


def naive(rewards: list[float], values: list[float], gamma: float, trace: float) -> list[float]:
    """The double sum of the definition, term by term, in another order than the implementation's."""
    n = len(rewards)
    following = [*values[1:], 0.0]
    return [
        sum((gamma * trace) ** (k - t) * (rewards[k] + gamma * following[k] - values[k]) for k in range(t, n))
        for t in range(n)
    ]


numbers = st.floats(-10, 10, allow_nan=False)
shares = st.floats(0, 1)


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[list[int]], list[list[float]], list[list[float]], list[float]]:
    origins = draw(st.lists(st.lists(st.sampled_from([0, 1]), min_size=1, max_size=7), min_size=1, max_size=4))
    rewards = [[draw(numbers) for _ in marks] for marks in origins]
    values = [[draw(numbers) for _ in marks] for marks in origins]
    return origins, rewards, values, [draw(numbers) for _ in origins]


@settings(max_examples=60, deadline=None)
@given(batches(), shares, shares)
def test_advantages_are_the_sums_of_their_definition_over_sampled_tokens(
    batch: Any, gamma: float, trace: float
) -> None:
    origins, rewards, values, totals = batch
    made = rollouts(origins)
    found = GeneralisedAdvantage(gamma, trace).advantages(
        np.asarray(totals), made, column(made, rewards), {"values": column(made, values)}
    )
    for row, marks in enumerate(origins):
        places = [place for place, mark in enumerate(marks) if mark == Origin.SAMPLED]
        assert np.flatnonzero(~np.isnan(found.values[row])).tolist() == places
        if not places:
            continue
        own = [rewards[row][place] for place in places]
        own[-1] += totals[row]
        said = [values[row][place] for place in places]
        expected = naive(own, said, gamma, trace)
        assert found.values[row][places] == pytest.approx(expected, rel=1e-9, abs=1e-9)
        returns = found.targets[VALUES.name][row][places]
        assert returns == pytest.approx(np.add(expected, said), rel=1e-9, abs=1e-9)


def test_lambda_1_is_the_return_less_the_value_whatever_the_critic_says() -> None:
    made = rollouts([[1, 1, 0, 1]])
    rewards, values = column(made, [[0.5, 0.0, 9.0, -1.0]]), column(made, [[3.0, -2.0, np.nan, 7.0]])
    found = GeneralisedAdvantage(0.5, 1.0).advantages(np.array([2.0]), made, rewards, {"values": values})
    # Returns by hand: the last token earns 2 - 1 = 1, the one before 0 + 0.5, the first 0.5 + 0.25; 9 was given.
    assert found.targets["values"][0] == pytest.approx([0.75, 0.5, np.nan, 1.0], nan_ok=True, **EXACT)
    assert found.values[0] == pytest.approx([0.75 - 3.0, 0.5 + 2.0, np.nan, 1.0 - 7.0], nan_ok=True, **EXACT)


def test_lambda_0_is_the_temporal_difference() -> None:
    made = rollouts([[1, 1, 0, 1]])
    values = column(made, [[3.0, -2.0, np.nan, 7.0]])
    found = GeneralisedAdvantage(0.5, 0.0).advantages(np.array([2.0]), made, None, {"values": values})
    by_hand = [0.5 * -2.0 - 3.0, 0.5 * 7.0 + 2.0, np.nan, 2.0 - 7.0]
    assert found.values[0] == pytest.approx(by_hand, nan_ok=True, **EXACT)


def test_a_critic_of_zeros_is_no_critic() -> None:
    made = rollouts([[1, 0, 1], [1, 1, 1, 1]])
    rewards = column(made, [[0.1, 5.0, 0.2], [0.0, -1.0, 0.0, 0.5]])
    totals = np.array([1.0, 0.0])
    zeros = {"values": made.token_ids.with_values(np.zeros(7))}
    a = GeneralisedAdvantage(0.9).advantages(totals, made, rewards, zeros)
    b = ReturnToGo(0.9).advantages(totals, made, rewards)
    assert np.array_equal(a.values.values, b.values.values, equal_nan=True)


def test_a_response_without_a_total_is_left_out_and_moves_nothing() -> None:
    made = rollouts([[1, 1], [1, 1], [1]], groups=[0, 0, 0])
    found = ReturnToGo(center="mean").advantages(np.array([1.0, np.nan, 0.0]), made)
    assert found.kept.tolist() == [True, False, True]
    assert found.values.values == pytest.approx([0.5, 0.5, np.nan, np.nan, -0.5], nan_ok=True, **EXACT)
    values = made.token_ids.with_values(np.array([0.0, 0.0, np.nan, np.nan, 0.0]))
    other = GeneralisedAdvantage().advantages(np.array([1.0, np.nan, 0.0]), made, None, {"values": values})
    assert np.isnan(other.targets["values"].values).tolist() == [False, False, True, True, False]


def test_a_missing_value_is_refused() -> None:
    made = rollouts([[1, 1]])
    with pytest.raises(ValueError, match="finite at every sampled token"):
        GeneralisedAdvantage().advantages(np.ones(1), made, None, {"values": column(made, [[0.0, np.nan]])})


@pytest.mark.parametrize(
    ("center", "wanted"), [("none", [1, 0, 3]), ("mean", [0.5, -0.5, 0]), ("leave_one_out", [1, -1, 0])]
)
def test_the_baseline_is_the_groups_own(center: Any, wanted: list[float]) -> None:
    made = rollouts([[1, 1], [1], [1]], groups=[0, 0, 1])
    found = ReturnToGo(center=center).advantages(np.array([1.0, 0.0, 3.0]), made)
    assert found.per_response() == pytest.approx(wanted, **EXACT)


def test_the_whitened_returns_of_the_card() -> None:
    """vsrm: 0.4 at token 2, -0.2 at 5, 1 at 7 of 8."""
    made = rollouts([[1] * 8])
    rewards = column(made, [[0, 0, 0.4, 0, 0, -0.2, 0, 0]])
    plain = ReturnToGo().advantages(np.array([1.0]), made, rewards)
    assert plain.values.values == pytest.approx([1.2, 1.2, 1.2, 0.8, 0.8, 0.8, 1, 1], **EXACT)
    white = Whitened(ReturnToGo()).advantages(np.array([1.0]), made, rewards)
    one = 1.08012329
    assert white.values.values == pytest.approx([one] * 3 + [-one] * 3 + [0, 0], rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("over", ["tokens", "responses"])
@pytest.mark.parametrize("variance", ["population", "sample"])
def test_whitened_advantages_have_mean_0_and_deviation_1_by_their_votes(over: Any, variance: Any) -> None:
    made = rollouts([[1, 1, 0, 1], [1], [1, 1], [1]])
    totals = np.array([1.0, 0.25, -2.0, np.nan])
    found = Whitened(ReturnToGo(), over, variance=variance, epsilon=0.0).advantages(totals, made)
    votes = found.values.values[~np.isnan(found.values.values)] if over == "tokens" else found.per_response()[:3]
    assert len(votes) == (6 if over == "tokens" else 3)
    assert np.mean(votes) == pytest.approx(0, abs=1e-12)
    assert np.std(votes, ddof=int(variance == "sample")) == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("totals", [[0.1] * 3, [np.nan, 0.7, np.nan], [np.nan] * 3])
def test_equal_advantages_are_0_and_none_at_all_are_left(totals: list[float]) -> None:
    made = rollouts([[1, 1], [1], [1]])
    found = Whitened(ReturnToGo()).advantages(np.asarray(totals), made).values.values
    assert np.all((found == 0) | np.isnan(found))


def test_targets_and_signals_pass_through() -> None:
    made = rollouts([[1, 1], [1]])
    values = {"values": made.token_ids.with_values(np.array([0.5, 0.2, -0.5]))}
    whitened = Whitened(GeneralisedAdvantage())
    assert whitened.signals() == (VALUES,)
    found = whitened.advantages(np.array([1.0, 0.0]), made, None, values)
    assert found.targets["values"].values == pytest.approx([1.0, 1.0, 0.0])
    halves = Whitened(GeneralisedAdvantage(), scale=False).advantages(np.array([1.0, 0.0]), made, None, values)
    assert halves.values.values == pytest.approx(np.array([0.5, 0.8, 0.5]) - 0.6)
