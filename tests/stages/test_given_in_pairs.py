"""Pairs of responses of which some was given: it is read on either side, and neither side learns it."""

import numpy as np

from thinkrl.data.chat import ChatRenderer
from thinkrl.data.preferences import Preference
from thinkrl.models.tiny import tiny_tokenizer
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.rollouts.store import FinishReason, Group, Origin, Response, Rollouts
from thinkrl.stages.preference import pair_rollouts
from thinkrl.stages.preference_pairs import _side

PROMPT = Prompt("p", (Message("user", "?"),), "7")
GIVEN, SAMPLED = Origin.GIVEN, Origin.SAMPLED


def test_what_was_given_is_given_in_the_rollouts_of_a_pair() -> None:
    renderer = ChatRenderer(tiny_tokenizer("byte"))
    pairs = [Preference(PROMPT, "a[7]b", "cd", ((1, 4),), ((0, 1),)), Preference(PROMPT, "x", "y")]
    rollouts = pair_rollouts(pairs, renderer)
    origins = [response.origins.tolist() for response in rollouts]
    assert origins[0] == [SAMPLED, GIVEN, GIVEN, GIVEN, SAMPLED, SAMPLED]
    assert origins[1] == [GIVEN, SAMPLED, SAMPLED]
    assert origins[2] == origins[3] == [SAMPLED, SAMPLED]
    assert [response.versions.tolist() for response in rollouts][1] == [-1, 0, 0]
    for response, text in zip(rollouts, ("a[7]b", "cd", "x", "y"), strict=True):
        assert np.array_equal(response.token_ids, renderer.response_ids(text, end=True))


def test_a_sampled_response_says_what_was_given() -> None:
    blank = np.zeros(3, dtype=np.float32)
    response = Response(
        "r", "g", "a[7", FinishReason.STOP, np.arange(3, dtype=np.int32), np.asarray([1, 0, 0], dtype=np.uint8),
        blank, blank, np.zeros(3, dtype=np.int32), np.arange(1, 4, dtype=np.int32),
    )  # fmt: skip
    rollouts = Rollouts.from_responses([Group("g", PROMPT, np.zeros(1, dtype=np.int32))], [response])
    assert _side(0, rollouts) == ["a[7", ((1, 3),)]
