"""Terms on episodes: what a final score is worth, what turns are paid, and whether turns think and then speak."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from thinkrl.grading.verdict import Verdict
from thinkrl.rewards.episode_score import EpisodeScore
from thinkrl.rewards.reward import Reward, WeightedTerm
from thinkrl.rewards.term import RewardContext, Scores
from thinkrl.rewards.turn_thinking import TurnThinking
from thinkrl.rollouts.episodes import Episode
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.rollouts.store import FinishReason, Group, Origin, Response, Rollouts

GROUP = Group("g", Prompt("g", (Message("user", "?"),), None), np.zeros(1, np.int32))


def response(name: str, *parts: str, episode: Episode | None = None) -> Response:
    """A token a character; the parts are sampled and given in turn."""
    text = "".join(parts)
    marks = [Origin.SAMPLED if place % 2 == 0 else Origin.GIVEN for place, part in enumerate(parts) for _ in part]
    n = len(text)
    return Response(
        name, "g", text, FinishReason.STOP, np.zeros(n, np.int32), np.asarray(marks, np.uint8),
        np.zeros(n, np.float32), np.zeros(n, np.float32), np.zeros(n, np.int32), np.arange(1, n + 1, dtype=np.int32),
        episode=episode,
    )  # fmt: skip


def batch(*responses: Response) -> Rollouts:
    return Rollouts.from_responses([GROUP], responses)


def scored(term: Any, *responses: Response) -> Scores:
    found: Scores = term.score(batch(*responses), RewardContext())
    return found


WHOLE = Episode("e", (30.0, 40.0, 35.0, 55.0))


def test_final_scores() -> None:
    low = Episode("f", (30.0, 5.0, -7.0), ended="score")
    high = Episode("h", (30.0, 100.0), ended="goodbye")
    failed = Episode("x", (30.0, 90.0), ended="fault", fault="no answer", calls=3)
    responses = [response(str(n), "ab", episode=e) for n, e in enumerate((WHOLE, low, high, failed, None))]
    found = scored(EpisodeScore(), *responses)
    assert np.array_equal(found.values, [0.55, 0.0, 1.0, np.nan, np.nan], equal_nan=True)
    assert found.verdicts == (
        Verdict.WRONG, Verdict.WRONG, Verdict.CORRECT, Verdict.UNGRADABLE, Verdict.UNGRADABLE,
    )  # fmt: skip
    assert found.notes == ("", "", "", "no answer", "no episode")
    assert found.metrics == pytest.approx(
        {
            "episodes": 4.0, "score": (55.0 - 7.0 + 100.0) / 3, "success": 1 / 3, "failure": 1 / 3,
            "ungradable": 0.25, "turns": (3 + 2 + 1 + 1) / 4, "calls": 3.0,
        }
    )  # fmt: skip


def test_turns_of_one_episode_are_counted_once() -> None:
    turns = [response(str(n), "ab", episode=replace(WHOLE, turn=n)) for n in range(3)]
    found = scored(EpisodeScore(), *turns, response("9", "a", episode=Episode("h", (30.0, 100.0))))
    assert found.values.tolist() == [0.55, 0.55, 0.55, 1.0]
    assert (found.metrics["episodes"], found.metrics["score"]) == (2.0, 77.5)


def test_credit_for_the_turn_itself() -> None:
    turns = [response(str(n), "ab", episode=replace(WHOLE, turn=n)) for n in range(3)]
    term = EpisodeScore(credit="turn")
    assert scored(term, *turns, response("9", "a", episode=WHOLE)).values.tolist() == [0.4, 0.35, 0.55, 0.55]


def test_what_turns_are_paid_stands_at_their_last_tokens_and_adds_up() -> None:
    found = scored(EpisodeScore(), response("0", "abc", "--", "de", "-", "f", episode=WHOLE))
    assert found.tokens is not None
    assert found.tokens[0].tolist() == pytest.approx([0, 0, 0.1, 0, 0, 0, -0.05, 0, 0.2])
    assert found.tokens[0].sum() == pytest.approx((55 - 30) / 100)
    one = scored(EpisodeScore(), response("0", "", "--", "de", episode=replace(WHOLE, turn=1)))
    assert one.tokens is not None
    assert one.tokens[0].tolist() == pytest.approx([0, 0, 0, -0.05])
    last = scored(EpisodeScore(), response("0", "", "--", "de", episode=WHOLE))  # a measured conversation
    assert last.tokens is not None
    assert last.tokens[0].tolist() == pytest.approx([0, 0, 0, 0.25])
    unfelt = scored(EpisodeScore(), response("0", "ab", "-", "c", episode=Episode("e", (30.0, 40.0))))
    assert unfelt.tokens is not None
    assert unfelt.tokens[0].tolist() == pytest.approx([0, 0.1, 0, 0])
    failed = scored(EpisodeScore(), response("0", "ab", episode=replace(WHOLE, fault="x")))
    assert failed.tokens is not None
    assert not failed.tokens.values.any()


def test_a_failed_episode_leaves_the_loss_whatever_the_scope() -> None:
    responses = batch(response("0", "ab", episode=WHOLE), response("1", "ab", episode=replace(WHOLE, fault="x")))
    for scope in ("response", "token"):
        reward = Reward({"emotion": WeightedTerm(EpisodeScore(), scope=scope)})
        totals = reward.score(responses, RewardContext()).totals
        assert np.array_equal(np.isnan(totals), [False, True])


def test_bad_fields() -> None:
    with pytest.raises(ValueError, match="whole must be above 0"):
        EpisodeScore(whole=0.0)
    with pytest.raises(ValueError, match="failure must be at most success"):
        EpisodeScore(failure=200.0)
    with pytest.raises(ValueError, match="min_thinking_characters must be 0 or more"):
        TurnThinking(min_thinking_characters=-1)


GOOD = "<think>a</think>hi"


@pytest.mark.parametrize(
    ("parts", "value", "note"),
    [
        ((GOOD,), 1.0, ""),
        (("\n" + GOOD + "\n",), 1.0, ""),
        ((GOOD, "you: x", GOOD), 1.0, ""),
        ((GOOD, "<think>", GOOD), 1.0, ""),  # what is given is not the policy's
        ((GOOD, "-", "hi"), 0.0, "turn 2: no <think>"),
        (("hi", "-", GOOD), 0.0, "turn 1: no <think>"),
        (("<think>a",), 0.0, "no </think>"),
        (("a</think>hi",), 0.0, "no <think>"),
        ((GOOD + GOOD,), 0.0, "<think> 2 times"),
        (("<think>a</think>hi</think>",), 0.0, "</think> 2 times"),
        (("</think>a<think>hi",), 0.0, "</think> before <think>"),
        (("so <think>a</think>hi",), 0.0, "text before <think>"),
        (("<think> </think>hi",), 0.0, "too little thinking"),
        (("<think>a</think> ",), 0.0, "nothing said"),
        (("", "-"), 0.0, "no turn"),
    ],
)
def test_turns_that_think_and_then_speak(parts: tuple[str, ...], value: float, note: str) -> None:
    found = scored(TurnThinking(), response("0", *parts))
    assert (found.values.tolist(), found.notes) == ([value], (note,))


def test_thinking_that_the_prompt_began() -> None:
    found = scored(TurnThinking(prefix="<think>"), response("0", "", "<think>", "a</think>hi"), response("1", GOOD))
    assert found.values.tolist() == [1.0, 0.0]
