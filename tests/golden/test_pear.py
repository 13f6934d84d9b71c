"""PEAR (arXiv 2510.08026): golden values of the formulas, and every place the end of thinking can stand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from score_file import TOLERANCE, numbers, rollouts, score

from thinkrl.algorithms.advantages import GroupAdvantage
from thinkrl.rewards.phase_entropy import ExcessThinkingEntropy
from thinkrl.rewards.term import RewardContext


def entropy(*probabilities: float) -> float:
    p = numbers(*probabilities)
    return float(-(p * np.log(p)).sum())


THINK = [entropy(0.5, 0.5), entropy(0.7, 0.2, 0.1), entropy(0.25, 0.25, 0.25, 0.25)]
ANSWER = [entropy(0.9, 0.1), entropy(0.99, 0.01)]
TAG = 5.0
"""Entropy of the tag's own token, which must not count."""


def lines(response: str, entropies: list[float]) -> list[dict[str, Any]]:
    line = {"prompt_id": "q", "prompt": "3 + 4 = ?", "reference": 7, "response": response}
    return [line | {"signals": {"entropies": entropies}}]


RIGHT = "abc</think>\\boxed{7}"
TOKENS = ["a", "b", "c", "</think>", "\\boxed", "{7}"]


def test_the_entropies_of_the_card() -> None:
    assert numbers(*THINK) == pytest.approx([0.693147, 0.801819, 1.386294], **TOLERANCE)
    assert numbers(*ANSWER) == pytest.approx([0.325083, 0.056002], **TOLERANCE)
    assert float(np.mean(THINK)) == pytest.approx(0.960420, **TOLERANCE)
    assert float(np.mean(ANSWER)) == pytest.approx(0.190542, **TOLERANCE)


@pytest.mark.parametrize(
    ("alpha", "penalty", "reward"),
    [
        (1.0, 0.769878, 0.230122),
        (0.0, 0.960420, 0.039580),
        (0.5, 0.865149, 0.134851),
        (2.0, 0.579336, 0.420664),
        (-1.0, 1.150962, -0.150962),
    ],
)
def test_penalty_and_reward_by_alpha(tmp_path: Path, alpha: float, penalty: float, reward: float) -> None:
    given = lines(RIGHT, [*THINK, TAG, *ANSWER])
    (found,) = score(
        tmp_path, [given[0] | {"tokens": TOKENS}], "pear/paper", f"reward.terms.excess_entropy.term.alpha={alpha}"
    )
    assert found["terms"]["excess_entropy"] == pytest.approx(penalty, **TOLERANCE)
    assert found["reward"] == pytest.approx(reward, **TOLERANCE)


@pytest.mark.parametrize(("unclosed", "reward"), [("all_but_last", 0.198414), ("all", 0.347531)])
def test_thinking_without_an_end(unclosed: Any, reward: float) -> None:
    """Golden 4: the five tokens, no tag, the answer right."""
    text = rollouts([5], texts=["abcde"], entropies=[[*THINK, *ANSWER]])
    found = ExcessThinkingEntropy(unclosed=unclosed).score(text, RewardContext())
    assert 1.0 - found.values[0] == pytest.approx(reward, **TOLERANCE)
    assert "never ends" in found.notes[0]


def test_thinking_without_an_end_through_score(tmp_path: Path) -> None:
    """Only a number after unended thinking can be right, so the extractor is asked for the last one."""
    given = lines("it is 7", [*THINK, *ANSWER])
    (found,) = score(tmp_path, given, "pear/paper")
    assert found["verdict"] == "correct"
    assert found["reward"] == pytest.approx(0.347531, **TOLERANCE)


@pytest.mark.parametrize(
    ("text", "entropies", "penalty"),
    [
        ("</think>ab", [TAG, 0.3, 0.5], 0.0),  # the tag is the first token: nothing was thought
        ("ab</think>", [0.4, 0.6, TAG], 0.5),  # nothing after it: no answer's entropy
        (
            "a</think>b</think>c",
            [0.9, TAG, 0.1, TAG, 0.3],
            0.0,
        ),  # the first end counts: (0.1 + 5 + 0.3) / 3 excuses all
        ("ab</think>c", [0.1, 0.1, TAG, 0.4], 0.0),  # surer than the answer: never below 0
        ("", [], 0.0),
    ],
)
def test_edges(text: str, entropies: list[float], penalty: float) -> None:
    batch = rollouts([len(entropies)], texts=[text], entropies=[entropies])
    places = {"</think>ab": [8, 9, 10], "ab</think>": [1, 2, 10], "a</think>b</think>c": [1, 9, 10, 18, 19]}
    ends = places.get(text, [1, 2, 10, 11][: len(entropies)])
    object.__setattr__(batch, "char_ends", batch.char_ends.with_values(np.asarray(ends, dtype=np.int32)))
    found = ExcessThinkingEntropy().score(batch, RewardContext())
    assert found.values[0] == pytest.approx(penalty, **TOLERANCE)


def test_a_prompt_that_begins_the_thinking_or_ends_it() -> None:
    """A template's `<think>` changes nothing; one that also ends the thinking leaves an answer alone."""
    batch = rollouts([3], texts=["abc"], entropies=[[0.2, 0.4, 0.6]])
    assert ExcessThinkingEntropy(prefix="<think>").score(batch, RewardContext()).values[0] == pytest.approx(0.4)
    assert ExcessThinkingEntropy(prefix="<think></think>").score(batch, RewardContext()).values[0] == 0.0


def test_given_tokens_have_no_entropy_and_unknown_ones_no_number() -> None:
    batch = rollouts([3], texts=["abc"], entropies=[[np.nan, 0.4, 0.6]])
    assert np.isnan(ExcessThinkingEntropy().score(batch, RewardContext()).values[0])
    given = batch.origins.with_values(np.asarray([0, 1, 1], dtype=np.uint8))
    object.__setattr__(batch, "origins", given)
    assert ExcessThinkingEntropy().score(batch, RewardContext()).values[0] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("std", "advantages"),
    [
        ("sample", [0.899767, 0.467879, 0.035991, -1.403637]),
        ("population", [1.038961, 0.540260, 0.041558, -1.620779]),
    ],
)
def test_advantages(std: Any, advantages: list[float]) -> None:
    found = GroupAdvantage(std=std).advantages(numbers(0.8, 0.65, 0.5, 0.0), rollouts([1] * 4))
    assert found.per_response() == pytest.approx(advantages, **TOLERANCE)


def group(*thoughts: tuple[float, int]) -> list[dict[str, Any]]:
    """Responses with one thinking token of that entropy, and that answer, of entropy 0.1."""
    return [
        lines(f"a</think>\\boxed{{{answer}}}", [thought, TAG, 0.1])[0]
        | {"tokens": ["a", "</think>", f"\\boxed{{{answer}}}"]}
        for thought, answer in thoughts
    ]


def test_a_group_through_score(tmp_path: Path) -> None:
    """P is 0.2, 0.35 and 0.5; the wrong answer gets 0 however sure it is: golden 5."""
    found = score(tmp_path, group((0.3, 7), (0.45, 7), (0.6, 7), (0.1, 8)), "pear/paper")
    assert [row["reward"] for row in found] == pytest.approx([0.8, 0.65, 0.5, 0.0], **TOLERANCE)
    wanted = [0.899767, 0.467879, 0.035991, -1.403637]
    assert [row["advantage"] for row in found] == pytest.approx(wanted, **TOLERANCE)


def test_all_wrong_has_no_signal_and_all_right_still_has_one(tmp_path: Path) -> None:
    wrong = score(tmp_path, group((0.3, 8), (0.9, 8)), "pear/paper")
    assert [(row["reward"], row["advantage"]) for row in wrong] == [(0.0, 0.0)] * 2
    right = score(tmp_path, group((0.3, 7), (0.9, 7)), "pear/paper")
    assert right[0]["advantage"] > 0 > right[1]["advantage"]


def test_unparsable_is_wrong_and_rewards_can_be_kept_above_0(tmp_path: Path) -> None:
    line = lines("a</think>none", [0.3, TAG, 0.1])[0] | {"tokens": ["a", "</think>", "none"]}
    (found,) = score(tmp_path, [line], "pear/paper")
    assert (found["reward"], found["verdict"]) == (0.0, "wrong")
    clip = "reward.terms.excess_entropy.shaping=[{_target_: thinkrl.rewards.shaping.Clip, low: 0.0, high: 1.0}]"
    for overrides, reward in (([], -0.4), ([clip], 0.0)):
        (found,) = score(tmp_path, group((1.5, 7)), "pear/paper", *overrides)
        assert found["reward"] == pytest.approx(reward, **TOLERANCE)


def test_the_laptop_recipes_own_tokenizer_finds_the_tag(tmp_path: Path) -> None:
    """A character a token and a tag a token: with as many entropies as that, no list of tokens is needed."""
    response = "<think>1+1=2</think><answer>2</answer>"
    entropies = [0.5] * 6 + [TAG] + [0.1] * 3
    (found,) = score(tmp_path, lines(response, entropies), "pear")
    assert found["notes"][0] == "excess_entropy: entropy 0.5 thinking, 0.1 answer"
