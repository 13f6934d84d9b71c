"""What single terms say, by hand."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinkrl.grading.number import NumberGrader
from thinkrl.grading.verdict import Verdict
from thinkrl.rewards.correctness import Correctness
from thinkrl.rewards.length import LengthPenalty, ThinkingLength, thinking_lengths
from thinkrl.rewards.random_reward import RandomReward
from thinkrl.rewards.term import RewardContext, RewardTerm
from thinkrl.rewards.think_format import ThinkAnswerFormat
from thinkrl.rewards.true_steps import TrueSteps
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.rollouts.store import FinishReason, Group, Response, Rollouts

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


def response(name: str, group: str, text: str) -> Response:
    """One token per character, all sampled."""
    n = len(text)
    return Response(
        response_id=name,
        group_id=group,
        text=text,
        finish_reason=FinishReason.STOP,
        token_ids=np.zeros(n, dtype=np.int32),
        origins=np.ones(n, dtype=np.uint8),
        logprobs=np.zeros(n, dtype=np.float32),
        entropies=np.zeros(n, dtype=np.float32),
        versions=np.zeros(n, dtype=np.int32),
        char_ends=np.arange(1, n + 1, dtype=np.int32),
    )


def rollouts(texts: Sequence[str], reference: Any = "7", question: str = "What is 3 + 4?") -> Rollouts:
    prompt = Prompt("p", (Message("system", "Use 99."), Message("user", question)), reference)
    group = Group("g", prompt, np.zeros(1, dtype=np.int32))
    return Rollouts.from_responses([group], [response(f"r{i}", "g", text) for i, text in enumerate(texts)])


def values(term: RewardTerm, texts: Sequence[str], **kwargs: Any) -> list[float]:
    return term.score(rollouts(texts, **kwargs), RewardContext()).values.tolist()


def test_correctness_maps_verdicts_to_numbers() -> None:
    term = Correctness(NumberGrader(), correct=2.0, wrong=-1.0)
    scores = term.score(rollouts(["<answer>7</answer>", "<answer>8</answer>", "7", ""]), RewardContext())
    assert scores.values.tolist() == [2.0, -1.0, -1.0, -1.0]
    assert scores.verdicts == (Verdict.CORRECT, Verdict.WRONG, Verdict.WRONG, Verdict.WRONG)
    assert scores.notes[2] == "no answer"


def test_ungradable_is_nan_and_never_zero() -> None:
    scores = Correctness(NumberGrader()).score(rollouts(["<answer>7</answer>", ""], reference=None), RewardContext())
    assert np.isnan(scores.values).all()
    assert scores.verdicts == (Verdict.UNGRADABLE, Verdict.UNGRADABLE)


def test_correct_must_pay_more_than_wrong() -> None:
    with pytest.raises(ValueError, match="correct must be above wrong"):
        Correctness(NumberGrader(), correct=0.0)


@pytest.mark.parametrize(
    ("options", "text", "value", "note"),
    [
        ({}, "<think>a</think><answer>7</answer>", 1.0, ""),
        ({}, "<think> </think><answer>7</answer>", 0.0, "too little thinking"),
        ({}, "<think>a</think><answer> </answer>", 0.0, "empty answer"),
        ({}, "<think>a</think>", 0.0, "no <answer>; no </answer>"),
        ({"max_answer_characters": 2}, "<think>a</think><answer>777</answer>", 0.0, "answer too long"),
        ({"max_answer_characters": 3}, "<think>a</think><answer> 777 </answer>", 1.0, ""),
        ({"max_thinking_tokens": 3}, "<think>abc</think><answer>7</answer>", 1.0, ""),
        ({"max_thinking_tokens": 2}, "<think>abc</think><answer>7</answer>", 0.0, "thinking too long"),
        ({"min_thinking_characters": 0}, "<think></think><answer>7</answer>", 1.0, ""),
        ({"prefix": "<think>"}, "a</think><answer>7</answer>", 1.0, ""),
        ({"malformed": -0.5, "well_formed": 0.5}, "7", -0.5, "no <think>; no </think>; no <answer>; no </answer>"),
    ],
)
def test_format(options: dict[str, Any], text: str, value: float, note: str) -> None:
    scores = ThinkAnswerFormat(**options).score(rollouts([text]), RewardContext())
    assert (scores.values[0], scores.notes[0]) == (value, note)


@pytest.mark.parametrize(
    ("thinking", "answer", "value"),
    [
        ("3 + 4 = 7", "7", 1.0),
        ("", "7", 0.0),
        ("I just know.", "7", 0.0),
        ("3 + 4 = 8", "8", 0.0),
        ("3 * 4 = 12. 12 - 3 = 9, 9 - 4 = 5", "5", 1.0),
        ("3 * 4 = 12. 12 - 3 = 8, 3 + 4 = 7", "7", 2 / 3),
        ("3 + 4 = 7", "8", 0.0),
        ("1 + 1 = 2. 3 + 4 = 7", "7", 1 / 2),
        ("1 + 1 = 2, 2 + 2 = 4, 5 + 5 = 10, 3 + 4 = 7", "7", 1 / 4),
        ("3 + 4 = 7. 3 + 4 = 7. 3 + 4 = 7. 3 * 4 = 13. 3 + 4 = 7", "7", 1 / 2),
        ("99 - 3 = 96. 3 + 4 = 7", "7", 1 / 2),
        ("3 - 4 = -1, -1 + 4 = 3, 3 + 4 = 7", "7", 1.0),
        ("(3 + 4) * 4 = 7 * 4 = 28", "28", 1.0),
        ("(3 + 4) * 4 = 7 * 5 = 28", "28", 0.0),
        ("3 / 4 = 0.75", "3/4", 1.0),
        ("3 / 4 = 0.7", "0.7", 0.0),
        ("3 / 0 = 7", "7", 0.0),
    ],
)
def test_true_steps(thinking: str, answer: str, value: float) -> None:
    text = f"<think>{thinking}</think><answer>{answer}</answer>"
    assert values(TrueSteps(), [text]) == [pytest.approx(value, abs=1e-15)]


def test_true_steps_options() -> None:
    filler = "<think>1 + 1 = 2. 3 + 4 = 7</think><answer>7</answer>"
    assert values(TrueSteps(grounded=False), [filler]) == [1.0]
    assert values(TrueSteps(free_numbers=(1.0,)), [filler]) == [1.0]
    assert values(TrueSteps(min_steps=2), [filler]) == [0.5]
    assert values(TrueSteps(min_steps=4, free_numbers=(1.0,)), [filler]) == [0.5]
    assert values(TrueSteps(min_steps=2, free_numbers=(1.0,)), [filler]) == [1.0]
    other = "<think>3 + 4 = 7</think><answer>8</answer>"
    assert values(TrueSteps(answer_from_last_step=False), [other]) == [1.0]
    assert values(TrueSteps(prefix="<think>"), ["3 + 4 = 7</think><answer>7</answer>"]) == [1.0]
    assert values(TrueSteps(), ["3 + 4 = 7<answer>7</answer>"]) == [0.0]
    with pytest.raises(ValueError, match="min_steps"):
        TrueSteps(min_steps=0)


def test_soft_overlong_penalty() -> None:
    """DAPO, eq. 13, with L_max = 8 and L_cache = 4: 0 up to 4, (4 - |y|) / 4 up to 8, then -1."""
    term = LengthPenalty(free_tokens=4, cap_tokens=8)
    assert values(term, ["x" * n for n in (0, 4, 5, 6, 8, 9)]) == [0.0, 0.0, -0.25, -0.5, -1.0, -1.0]
    with pytest.raises(ValueError, match="free_tokens must be in"):
        LengthPenalty(free_tokens=8, cap_tokens=8)


def test_thinking_length() -> None:
    texts = [f"<think>{'x' * n}</think>" for n in (0, 2, 4, 6, 8, 20)] + ["no thinking"]
    assert thinking_lengths(rollouts(texts)).tolist() == [0, 2, 4, 6, 8, 20, 0]
    assert values(ThinkingLength(4), texts) == [0.0, 0.5, 1.0, 0.5, 0.0, 0.0, 0.0]
    assert values(ThinkingLength(4, mode="cap"), texts) == [0.0, 1.0, 1.0, 0.5, 0.0, 0.0, 0.0]


def test_random_reward_depends_on_the_id_alone() -> None:
    batch = rollouts([f"text {i}" for i in range(400)])
    first = RandomReward().score(batch, RewardContext()).values
    other_order = batch.select(np.arange(400)[::-1])
    assert RandomReward().score(other_order, RewardContext(step=9)).values.tolist() == first[::-1].tolist()
    assert set(first.tolist()) == {0.0, 1.0}
    # Four standard deviations of a fair coin's mean over 400.
    assert abs(first.mean() - 0.5) < 4 * 0.5 / math.sqrt(400)
    assert RandomReward(seed=1).score(batch, RewardContext()).values.tolist() != first.tolist()
    assert values(RandomReward(probability=0.0), ["a"]) == [0.0]
    assert values(RandomReward(probability=1.0), ["a"]) == [1.0]


@given(
    st.lists(
        st.tuples(st.integers(0, 99), st.sampled_from("+-*"), st.integers(0, 99), st.integers(-2, 2)),
        min_size=1,
        max_size=6,
    )
)
def test_fraction_true_is_a_recount(steps: list[tuple[int, str, int, int]]) -> None:
    """Against Python's own arithmetic: each statement is off by its last number."""
    worked = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}
    lines = [f"{a} {op} {b} = {worked[op](a, b) + off}" for a, op, b, off in steps]
    different = {line: off == 0 for line, (_, _, _, off) in zip(lines, steps, strict=True)}
    text = "<think>" + "\n".join(lines) + "</think><answer>x</answer>"
    term = TrueSteps(grounded=False, answer_from_last_step=False)
    assert values(term, [text]) == [pytest.approx(sum(different.values()) / len(different), abs=1e-15)]
