"""Where tokens end in a given text."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.stages.monitor import Monitor
from thinkrl.stages.token_places import ids_of, joined_ends, spread_ends


def prompts(count: int) -> list[Prompt]:
    return [Prompt(str(index), (Message("user", "?"),)) for index in range(count)]


@pytest.mark.parametrize(
    ("text", "count", "ends"),
    [
        ("abc</think>de", 6, [1, 2, 3, 11, 12, 13]),
        ("<think>abcd</think>ef", 5, [7, 9, 11, 19, 21]),
        ("abcdef", 3, [2, 4, 6]),
        ("ab</think>", 1, [10]),  # too few for the tag to have one of its own
        ("<think></think>", 4, [7, 9, 12, 15]),
        ("", 2, [0, 0]),
        ("", 0, []),
    ],
)
def test_spread(text: str, count: int, ends: list[int]) -> None:
    assert spread_ends(text, count).tolist() == ends


@given(st.text("ab<>/think", max_size=40), st.sampled_from(["", "</think>", "<answer>"]), st.integers(1, 60))
def test_spread_ends_rise_to_the_end_and_are_as_many_as_asked(text: str, tag: str, count: int) -> None:
    ends = spread_ends(text + tag + text, count)
    assert len(ends) == count
    assert np.all(np.diff(ends) >= 0)
    assert ends[-1] == len(text + tag + text)


def test_tokens_given_as_texts() -> None:
    assert joined_ends(("ab", "", "c")).tolist() == [2, 2, 3]
    assert ids_of(("a", "b", "a")).tolist() == [0, 1, 0]


def test_a_monitor_looks_before_the_first_step_and_every_twentieth_at_the_same_prompts() -> None:
    monitor = Monitor(prompts=3)
    assert [step for step in range(1, 61) if monitor.due(step)] == [1, 20, 40, 60]
    chosen = [prompt.prompt_id for prompt in monitor.chosen(prompts(10), seed=5)]
    assert len(set(chosen)) == 3
    assert chosen == [prompt.prompt_id for prompt in monitor.chosen(prompts(10), seed=5)]
    assert chosen != [prompt.prompt_id for prompt in monitor.chosen(prompts(10), seed=6)]
    assert len(monitor.chosen(prompts(2), seed=5)) == 2
    with pytest.raises(ValueError, match="every must be at least 1"):
        Monitor(every=0)
