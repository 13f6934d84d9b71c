"""Advantages where turns are responses: by turn as the released code has them, or by episode."""

from typing import Any

import numpy as np
import pytest

from thinkrl.algorithms.advantages import GroupAdvantage
from thinkrl.algorithms.episodes import PerEpisode
from thinkrl.algorithms.token_returns import GeneralisedAdvantage
from thinkrl.rollouts.episodes import Episode
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.rollouts.ragged import Ragged
from thinkrl.rollouts.store import FinishReason, Group, Origin, Response, Rollouts


def turn(group: str, episode: str, number: int, given: int = 0, tokens: int = 2) -> Response:
    n = given + tokens
    origins = np.asarray([Origin.GIVEN] * given + [Origin.SAMPLED] * tokens, np.uint8)
    return Response(
        f"{group}/{episode}/{number}", group, "x" * n, FinishReason.STOP, np.zeros(n, np.int32), origins,
        np.zeros(n, np.float32), np.zeros(n, np.float32), np.zeros(n, np.int32), np.arange(1, n + 1, dtype=np.int32),
        episode=Episode(episode, (30.0,) * (number + 2), turn=number),
    )  # fmt: skip


def batch(lengths: dict[tuple[str, str], int]) -> Rollouts:
    """Groups, episodes in them, and how many turns each has."""
    responses = [turn(g, e, n, given=n % 2) for (g, e), turns in lengths.items() for n in range(turns)]
    names = dict.fromkeys(g for g, _ in lengths)
    groups = [Group(name, Prompt(name, (Message("user", "?"),)), np.zeros(1, np.int32)) for name in names]
    return Rollouts.from_responses(groups, responses)


def by_response(estimator: Any, totals: list[float], rollouts: Rollouts) -> list[float]:
    found: list[float] = estimator.advantages(np.asarray(totals), rollouts).per_response().tolist()
    return found


LENGTHS = {("g", "a"): 3, ("g", "b"): 8, ("g", "c"): 8, ("g", "d"): 2}
TOTALS = [0.0] * 3 + [0.72] * 8 + [0.55] * 8 + [0.0] * 2
FIRST = [0, 3, 11, 19]


def test_episodes_count_once_or_as_often_as_they_have_turns() -> None:
    """The card's golden values; the sample deviation and 1e-6 of GRPO."""
    rollouts = batch(LENGTHS)
    turns = by_response(GroupAdvantage(), TOTALS, rollouts)
    assert [turns[row] for row in FIRST] == pytest.approx([-1.683538, 0.821885, 0.230327, -1.683538], rel=1e-5)
    episodes = by_response(PerEpisode(GroupAdvantage()), TOTALS, rollouts)
    assert [episodes[row] for row in FIRST] == pytest.approx([-0.850911, 1.078713, 0.623108, -0.850911], rel=1e-5)
    assert all(len({episodes[row] for row in range(a, b)}) == 1 for a, b in ((0, 3), (3, 11), (11, 19), (19, 21)))


def test_episodes_that_are_one_response_each_are_as_without() -> None:
    rollouts = batch({("g", "a"): 1, ("g", "b"): 1, ("h", "a"): 1, ("h", "b"): 1})
    totals = [1.0, 0.0, 0.25, 0.5]
    assert by_response(PerEpisode(GroupAdvantage()), totals, rollouts) == by_response(
        GroupAdvantage(), totals, rollouts
    )


def test_groups_stay_apart_though_their_episodes_have_one_name() -> None:
    rollouts = batch({("g", "a"): 2, ("g", "b"): 1, ("h", "a"): 1, ("h", "b"): 3})
    found = by_response(PerEpisode(GroupAdvantage(scale="none")), [1, 1, 0, 0.2, 0.6, 0.6, 0.6], rollouts)
    assert found == pytest.approx([0.5, 0.5, -0.5, -0.2, 0.2, 0.2, 0.2])


def test_equal_episodes_have_no_advantage_though_their_lengths_differ() -> None:
    rollouts = batch(LENGTHS)
    assert by_response(PerEpisode(GroupAdvantage()), [0.7] * 21, rollouts) == [0.0] * 21


def test_episodes_without_a_score_move_nothing_and_given_tokens_have_no_advantage() -> None:
    rollouts = batch({("g", "a"): 2, ("g", "b"): 2, ("g", "c"): 2})
    totals = np.asarray([1.0, 1.0, np.nan, np.nan, 0.0, 0.0])
    found = PerEpisode(GroupAdvantage(scale="none")).advantages(totals, rollouts)
    assert found.kept.tolist() == [True, True, False, False, True, True]
    known = found.values.values[~np.isnan(found.values.values)]
    assert known.tolist() == [0.5] * 4 + [-0.5] * 4
    assert np.array_equal(np.isnan(found.values.values), ~rollouts.sampled | ~found.kept[rollouts.token_ids.row_ids])
    assert found.metrics["advantage/episodes"] == 3.0


def test_an_episode_is_worth_the_mean_of_its_turns_where_they_differ() -> None:
    rollouts = batch({("g", "a"): 2, ("g", "b"): 1})
    assert by_response(PerEpisode(GroupAdvantage(scale="none")), [1.0, 0.0, 0.0], rollouts) == [0.25, 0.25, -0.25]


def test_token_rewards_are_added_as_return_to_go() -> None:
    rollouts = batch({("g", "a"): 1, ("g", "b"): 1})
    paid = Ragged.from_rows([[0.1, 0.2], [0.0, 0.5]], np.float64)
    found = PerEpisode(GroupAdvantage(scale="none")).advantages(np.asarray([1.0, 0.0]), rollouts, paid)
    assert found.values.values.tolist() == pytest.approx([0.8, 0.7, 0.0, 0.0])


def test_what_is_refused() -> None:
    rollouts = batch(LENGTHS)
    with pytest.raises(ValueError, match="one entry for each of 21 responses"):
        PerEpisode(GroupAdvantage()).advantages(np.zeros(3), rollouts)
    with pytest.raises(ValueError, match=r"must read no signals .* reads values"):
        PerEpisode(GeneralisedAdvantage())
    bare = Rollouts(**{**vars(rollouts), "episodes": ()})
    with pytest.raises(ValueError, match="response 'g/a/0' must have an episode"):
        PerEpisode(GroupAdvantage()).advantages(np.zeros(21), bare)
