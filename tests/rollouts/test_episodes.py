"""Episodes: scores before and after turns, what stands for a response, and their form in files."""

import math
from typing import Any

import pytest

from thinkrl.rollouts.episodes import Episode

SCORES = (30.0, 35.0, 45.0, 40.0)


def test_a_whole_episode() -> None:
    episode = Episode("a", SCORES)
    assert (episode.turns, episode.final, episode.at_turn) == (3, 40.0, 40.0)
    assert episode.changes == (5.0, 10.0, -5.0)


def test_one_turn_of_it() -> None:
    episode = Episode("a", SCORES, turn=1)
    assert (episode.final, episode.at_turn, episode.changes) == (40.0, 45.0, (10.0,))


def test_a_failed_episode_has_no_score_and_the_turn_that_was_not_felt_no_change() -> None:
    failed = Episode("a", SCORES, turn=3, fault="no answer")
    assert math.isnan(failed.final)
    assert math.isnan(failed.at_turn)
    assert failed.changes == ()
    assert Episode("a", SCORES, turn=0, fault="no answer").at_turn == 35.0


def test_files_give_it_back() -> None:
    episode = Episode("a", SCORES, 2, "goodbye", "", 6)
    assert Episode.from_json(episode.as_json()) == episode
    assert Episode.from_json({"episode": 7, "scores": [30, 35]}) == Episode("7", (30.0, 35.0))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("a", "must be an object"),
        ({"episode": "a"}, "must be an object"),
        ({"episode": "a", "scores": [1], "score": 1}, "must be an object"),
        ({"episode": True, "scores": [1]}, "episode must be a text"),
        ({"episode": "a", "scores": []}, "at least one"),
        ({"episode": "a", "scores": [30, "35"]}, "a list of numbers"),
        ({"episode": "a", "scores": [True]}, "a list of numbers"),
        ({"episode": "a", "scores": [math.inf]}, "finite"),
        ({"episode": "a", "scores": [30, 35], "turn": 2}, "turn must be from 0 to 1"),
        ({"episode": "a", "scores": [30, 35], "turn": 0.5}, "whole numbers"),
        ({"episode": "a", "scores": [30], "calls": -1}, "calls must be 0 or more"),
        ({"episode": "a", "scores": [30], "fault": None}, "must be texts"),
    ],
)
def test_what_is_no_episode(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Episode.from_json(value)
