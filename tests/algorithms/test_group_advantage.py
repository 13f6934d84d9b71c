import numpy as np
import pytest

from thinkrl.algorithms.advantages import GroupAdvantage, return_to_go
from thinkrl.rollouts.prompt import Prompt
from thinkrl.rollouts.store import FinishReason, Group, Origin, Response, Rollouts

NAN = float("nan")


def rollouts_of(groups, lengths=None, given=()):
    """Response i belongs to group `groups[i]` and has `lengths[i]` tokens; `given` are (row, token) pairs."""
    lengths = lengths or [2] * len(groups)
    names = sorted(set(groups))
    responses = []
    for row, (group, length) in enumerate(zip(groups, lengths, strict=True)):
        origins = np.full(length, Origin.SAMPLED, dtype=np.uint8)
        for token in (token for r, token in given if r == row):
            origins[token] = Origin.GIVEN
        floats, ints = np.zeros(length, dtype=np.float32), np.zeros(length, dtype=np.int32)
        responses.append(Response(f"r{row}", group, "", FinishReason.STOP, ints, origins, floats, floats, ints, ints))
    return Rollouts.from_responses(
        [Group(name, Prompt(name, ()), np.array([1], dtype=np.int32)) for name in names], responses
    )


def per_response(estimator, totals, groups):
    return estimator.advantages(np.array(totals, dtype=np.float64), rollouts_of(groups)).per_response()


# Rewards 0.1, 0.5, 0.9, 0.3: mean 0.45, squared deviations 0.1225 + 0.0025 + 0.2025 + 0.0225 = 0.35.
REWARDS, GROUP = [0.1, 0.5, 0.9, 0.3], ["a"] * 4
GOLDEN = [
    # sqrt(0.35 / 4) = 0.2958039892
    (GroupAdvantage(std="population", epsilon=0.0), [-1.1832159566, 0.1690308509, 1.5212776585, -0.5070925528]),
    # sqrt(0.35 / 3) = 0.3415650255
    (GroupAdvantage(std="sample", epsilon=0.0), [-1.0246950766, 0.1463850109, 1.3174650985, -0.4391550328]),
    # 0.3415650255 + 0.1 = 0.4415650255
    (GroupAdvantage(std="sample", epsilon=0.1), [-0.7926352400, 0.1132336057, 1.0191024515, -0.3397008172]),
    (GroupAdvantage(scale="none"), [-0.35, 0.05, 0.45, -0.15]),
    # 0.1 - 1.7/3, 0.5 - 1.3/3, 0.9 - 0.9/3, 0.3 - 1.5/3
    (GroupAdvantage(center="leave_one_out", scale="none"), [-0.4666666667, 0.0666666667, 0.6, -0.2]),
    (GroupAdvantage(center="none", scale="none"), REWARDS),
]


@pytest.mark.parametrize(("estimator", "expected"), GOLDEN)
def test_golden_values(estimator, expected):
    assert per_response(estimator, REWARDS, GROUP) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("estimator", "expected"), GOLDEN)
def test_groups_are_told_apart_by_id_not_by_position(estimator, expected):
    groups = ["b", "a", "b", "a", "b", "a", "b", "a"]
    totals = [7.0, 0.1, -3.0, 0.5, 2.0, 0.9, 0.0, 0.3]
    assert per_response(estimator, totals, groups)[1::2] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("estimator", "expected"), GOLDEN)
def test_responses_without_a_total_move_no_baseline_and_carry_no_loss(estimator, expected):
    advantages = estimator.advantages(np.array([NAN, *REWARDS, NAN]), rollouts_of(["a"] * 6))
    assert advantages.per_response()[1:5] == pytest.approx(expected, abs=1e-9)
    assert advantages.kept.tolist() == [False, True, True, True, True, False]
    assert np.isnan(advantages.values[0]).all()
    assert advantages.metrics["advantage/excluded_responses"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("epsilon", [0.0, 1e-6])
@pytest.mark.parametrize("center", ["mean", "leave_one_out"])
@pytest.mark.parametrize("std", ["population", "sample"])
def test_flat_and_single_groups_give_exactly_zero(epsilon, center, std):
    estimator = GroupAdvantage(center=center, std=std, epsilon=epsilon)
    totals, groups = [0.1, 0.1, 0.1, 5.0, 1.0, 0.0, NAN], ["a", "a", "a", "b", "c", "c", "d"]
    advantages = estimator.advantages(np.array(totals), rollouts_of(groups))
    assert advantages.per_response()[:4].tolist() == [0.0] * 4
    assert advantages.metrics == pytest.approx(
        {"advantage/flat_groups": 1 / 4, "advantage/single_groups": 1 / 4, "advantage/excluded_responses": 1 / 7}
    )


def test_pools_over_the_batch():
    totals, groups = [0.0, 2.0, 4.0, 10.0], ["a", "a", "b", "b"]
    # Group means 1 and 7; the deviation of all four, population: mean 4, squares 16 + 4 + 0 + 36 = 56, sqrt(14).
    estimator = GroupAdvantage(scale_over="batch", std="population", epsilon=0.0)
    assert per_response(estimator, totals, groups) == pytest.approx(np.array([-1, 1, -3, 3]) / 14**0.5)
    estimator = GroupAdvantage(center_over="batch", scale="none")
    assert per_response(estimator, totals, groups) == pytest.approx([-4, -2, 0, 6])


def test_advantages_stand_at_sampled_tokens_only():
    rollouts = rollouts_of(["a", "a"], [3, 2], given=[(0, 1)])
    values = GroupAdvantage(scale="none").advantages(np.array([0.0, 1.0]), rollouts).values
    assert np.array_equal(values[0], [-0.5, NAN, -0.5], equal_nan=True)
    assert values[1].tolist() == [0.5, 0.5]


def test_token_rewards_are_added_as_return_to_go():
    rollouts = rollouts_of(["a", "a"], [4, 2], given=[(0, 2)])
    rewards = rollouts.token_ids.with_values(np.array([1.0, 2.0, 100.0, 4.0, NAN, 0.5]))
    assert np.array_equal(return_to_go(rewards, rollouts).values, [7, 6, NAN, 4, 0.5, 0.5], equal_nan=True)
    values = GroupAdvantage(scale="none").advantages(np.array([0.0, 1.0]), rollouts, rewards).values
    assert np.array_equal(values.values, [6.5, 5.5, NAN, 3.5, 1.0, 1.0], equal_nan=True)


def test_bad_input_is_refused():
    rollouts = rollouts_of(["a", "a"])
    with pytest.raises(ValueError, match="totals must have one entry for each of 2 responses"):
        GroupAdvantage().advantages(np.zeros(3), rollouts)
    with pytest.raises(ValueError, match="finite or NaN, got inf"):
        GroupAdvantage().advantages(np.array([0.0, np.inf]), rollouts)
    with pytest.raises(ValueError, match="token_rewards and token_ids differ"):
        GroupAdvantage().advantages(np.zeros(2), rollouts, rollouts_of(["a", "a"], [1, 1]).logprobs)
    with pytest.raises(ValueError, match="epsilon must be 0 or more"):
        GroupAdvantage(epsilon=-1.0)
    with pytest.raises(ValueError, match="scale must be 'none' when center is 'none'"):
        GroupAdvantage(center="none")


def test_no_responses_give_no_advantages():
    empty = rollouts_of(["a"]).select([])
    advantages = GroupAdvantage().advantages(np.zeros(0), empty)
    assert len(advantages.values) == 0
    assert advantages.metrics["advantage/flat_groups"] == 0
