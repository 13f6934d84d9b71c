"""Tables of the worlds, their values against closed forms and simulation, and what a process refuses."""

from dataclasses import replace

import numpy as np
import pytest

from thinkrl.config.component import UserError
from thinkrl.tabular.gymnasium_world import GymnasiumWorld
from thinkrl.tabular.mdp import TabularMDP
from thinkrl.tabular.values import deterministic, lead, occupancy, optimum, policy_return, policy_values
from thinkrl.tabular.worlds import DOWN, LEFT, RIGHT, UP, Chain, LineKey, Room, World

WORLDS = [Room(), Room(form="expadard", slip=0.05), Room(form="explors"), LineKey(), Chain()]


@pytest.mark.parametrize("world", WORLDS, ids=str)
def test_features_give_nothing_to_the_end_unless_they_are_all_entries(world: World) -> None:
    mdp, features = world.mdp(), world.features()
    assert features.shape[:2] == mdp.rewards.shape
    if features.shape[2] < mdp.rewards.size:
        assert not features[mdp.terminal].any()
        assert features[~mdp.terminal].any()


def test_sizes_of_the_worlds() -> None:
    assert [world.mdp().states for world in WORLDS] == [50, 50, 50, 21, 62]
    assert Room().features().shape[2] == 40
    assert LineKey().features().shape[2] == 15


def test_moves_in_the_rooms() -> None:
    moves = Room(slip=0.0).mdp().transitions.argmax(axis=2)
    assert moves[8].tolist() == [15, 7, 1, 9]
    assert moves[0].tolist() == [7, 49, 49, 1]
    assert moves[48].tolist() == [49, 47, 42, 49]
    assert (moves[9, RIGHT], moves[10, LEFT], moves[15, UP], moves[22, DOWN]) == (10, 9, 22, 15)  # through gates
    assert (moves[2, RIGHT], moves[3, LEFT], moves[14, UP], moves[21, DOWN]) == (2, 3, 14, 21)  # into walls
    assert Room(slip=0.0, form="explors").mdp().transitions[48, RIGHT, 48] == 1
    assert Room(slip=0.3, form="expadard").mdp().transitions[48, RIGHT, 49] == 1


def test_a_slip_in_the_rooms_goes_to_another_neighbour_and_on_the_chain_the_action_is_drawn_anew() -> None:
    row = Room().mdp().transitions[8, UP]
    assert row[[15, 7, 1, 9]] == pytest.approx([0.9, 0.1 / 3, 0.1 / 3, 0.1 / 3])
    assert Chain().mdp().transitions[40, 1, [41, 39]] == pytest.approx([0.975, 0.025])


def test_the_key_and_the_door() -> None:
    mdp = LineKey().mdp()
    assert mdp.transitions[1, 2, 10] == 1
    assert mdp.transitions[5, 2, 5] == 1
    assert mdp.transitions[19, 1, 20] == 1
    assert mdp.rewards[19, 1] == 10
    assert mdp.rewards.sum() == 10
    assert mdp.transitions[0, 0, 20] == 1


def test_values_of_a_process_solved_by_hand() -> None:
    """Stay for 1 or leave for 3, at discount 0.5: staying is worth 2, leaving 3, and staying once before it 2.5."""
    transitions = np.zeros((2, 2, 2))
    transitions[0, 0, 0] = transitions[0, 1, 1] = 1.0
    transitions[1, :, 1] = 1.0
    mdp = TabularMDP(
        transitions, np.array([[1.0, 3.0], [0.0, 0.0]]), np.array([1.0, 0.0]), 0.5, np.array([False, True])
    )
    found = optimum(mdp)
    assert found.q[0] == pytest.approx([2.5, 3.0])
    assert found.gaps == pytest.approx([0.5, 0.0])
    stay = deterministic(np.array([0, 0]), 2)
    assert policy_values(mdp, stay) == pytest.approx([2.0, 0.0])
    assert [policy_return(mdp, stay, steps) for steps in (1, 2, 3)] == pytest.approx([1.0, 1.5, 1.75])
    assert policy_return(mdp, stay) == pytest.approx(2.0)
    assert occupancy(mdp, stay) == pytest.approx([1.0, 0.0])


def test_leads_are_differences_of_values() -> None:
    mdp = Room().mdp()
    best, rewards = optimum(mdp), np.random.default_rng(0).normal(size=(50, 4))
    values = policy_values(mdp, deterministic(best.policy, 4), rewards)
    q = rewards + mdp.discount * mdp.transitions @ values
    expected = values[:, None] - q
    assert np.einsum("satb,tb->sa", lead(mdp, best.policy, None), rewards) == pytest.approx(expected, abs=1e-9)
    now = rewards[np.arange(50), best.policy][:, None] - rewards
    assert np.einsum("satb,tb->sa", lead(mdp, best.policy, 0), rewards) == pytest.approx(now, abs=1e-12)


def test_draws_follow_the_table() -> None:
    mdp, uniforms = Room().mdp(), np.random.default_rng(1).random(20_000)
    drawn = np.bincount([mdp.next_state(8, UP, uniform) for uniform in uniforms], minlength=50) / 20_000
    assert drawn == pytest.approx(mdp.transitions[8, UP], abs=0.01)
    assert mdp.next_state(8, UP, 1 - 1e-16) in (1, 7, 9, 15)


def test_a_process_refuses_tables_that_are_none() -> None:
    mdp = Chain().mdp()
    broken = mdp.transitions.copy()
    broken[3, 1] *= 0.5
    with pytest.raises(ValueError, match=r"sum to 1, got 0\.5 in state 3, action 1"):
        replace(mdp, transitions=broken)
    with pytest.raises(ValueError, match="discount must be at least 0 and below 1, got 1"):
        replace(mdp, discount=1.0)
    with pytest.raises(ValueError, match="rewards must be of shape"):
        replace(mdp, rewards=np.zeros((3, 2)))
    with pytest.raises(ValueError, match="finite, got nan in state 0"):
        replace(mdp, rewards=np.full((62, 2), np.nan))
    with pytest.raises(ValueError, match="stay where they are and pay nothing, got state 0"):
        replace(mdp, terminal=np.arange(62) == 0)
    with pytest.raises(ValueError, match="slip must be"):
        Room(slip=1.0)
    with pytest.raises(ValueError, match="left must be at least 15"):
        Chain(left=3)


def test_a_world_of_gymnasium() -> None:
    pytest.importorskip("gymnasium")
    mdp = GymnasiumWorld(environment="FrozenLake-v1", discount=0.9, options={"is_slippery": False}).mdp()
    assert mdp.states == 17
    assert policy_return(mdp, deterministic(optimum(mdp).policy, 4)) == pytest.approx(0.9**5)  # six steps to the gift
    with pytest.raises(UserError, match="shows no table"):
        GymnasiumWorld(environment="CartPole-v1").mdp()
    with pytest.raises(UserError, match="cannot make 'NoSuchLake-v0'"):
        GymnasiumWorld(environment="NoSuchLake-v0").mdp()
