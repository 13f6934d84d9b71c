"""GRPO-lambda (arXiv 2505.18086): golden values of the formulas, and the switch at its edges."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from score_file import TOLERANCE, numbers, reading, rollouts, score

from thinkrl.algorithms.advantages import GroupAdvantage
from thinkrl.rewards.gate import Gate
from thinkrl.rewards.group_length import LengthAmongPassed
from thinkrl.rewards.pass_rate import top_groups
from thinkrl.rewards.term import Scores

LENGTHS = [100, 200, 300, 400]


@pytest.mark.parametrize(
    ("alpha", "right", "rewards"),
    [
        (0.6, [1, 1, 1, 1], [0.87565578, 0.76598592, 0.63401408, 0.52434422]),
        (0.2, [1, 1, 1, 1], [0.95855193, 0.92199531, 0.87800469, 0.84144807]),
        (0.6, [1, 1, 1, 0], [0.86373849, 0.70000000, 0.53626151, 0.0]),
        (0.6, [1, 0, 0, 0], [0.7, 0.0, 0.0, 0.0]),
        (0.6, [0, 0, 0, 0], [0.0, 0.0, 0.0, 0.0]),
    ],
)
def test_penalty_among_right_answers(alpha: float, right: list[float], rewards: list[float]) -> None:
    penalty = LengthAmongPassed().score(rollouts(LENGTHS), reading("correctness", right)).values
    assert numbers(*right) - alpha * penalty == pytest.approx(rewards, **TOLERANCE)


def test_equal_lengths_and_a_single_right_answer_pay_half(tmp_path: Path) -> None:
    equal = LengthAmongPassed().score(rollouts([50, 50, 90]), reading("correctness", [1.0, 1.0, 0.0]))
    assert equal.values.tolist() == [0.5, 0.5, 0.0]
    single = LengthAmongPassed().score(rollouts([9999, 50]), reading("correctness", [1.0, 0.0]))
    assert single.values.tolist() == [0.5, 0.0]


def test_lengths_a_hair_apart_are_told_apart_by_the_least_deviation() -> None:
    """No overflow far from the mean: one token in a least deviation of 1e-4 is a z of thousands."""
    found = LengthAmongPassed(least_std=1e-4).score(rollouts([1, 1, 1, 4000]), reading("correctness", [1.0] * 4))
    assert np.all((found.values >= 0.0) & (found.values <= 1.0))


@pytest.mark.parametrize(
    ("rewards", "std", "advantages"),
    [
        ([0.86373849, 0.7, 0.53626151, 0.0], "population", [1.04397468, 0.53934104, 0.03470740, -1.61802313]),
        ([1.0, 1.0, 1.0, 0.0], "population", [0.57734894, 0.57734894, 0.57734894, -1.73204681]),
        ([0.87565578, 0.76598592, 0.63401408, 0.52434422], "population",
         [1.32387426, 0.49731960, -0.49731960, -1.32387426]),
        ([0.87565578, 0.76598592, 0.63401408, 0.52434422], "sample",
         [1.14650990, 0.43069185, -0.43069185, -1.14650990]),
    ],
)  # fmt: skip
def test_advantages(rewards: list[float], std: Any, advantages: list[float]) -> None:
    found = GroupAdvantage(std=std).advantages(numbers(*rewards), rollouts(LENGTHS))
    assert found.per_response() == pytest.approx(advantages, **TOLERANCE)


RATES = [1.0, 0.75, 0.25, 0.5, 0.0]


@pytest.mark.parametrize(
    ("share", "top"),
    [(0.0, set()), (0.2, {0}), (0.4, {0, 1}), (0.5, {0, 1, 3}), (1.0, {0, 1, 2, 3, 4}), (0.01, {0})],
)
def test_top_groups(share: float, top: set[int]) -> None:
    assert set(np.flatnonzero(top_groups(numbers(*RATES), share)).tolist()) == top


def test_ties_go_to_the_earlier_group_and_whole_products_are_not_rounded_up() -> None:
    assert np.flatnonzero(top_groups(numbers(0.5, 1.0, 1.0, 1.0), 0.5)).tolist() == [1, 2]
    assert top_groups(np.ones(100), 0.07).sum() == 7  # 0.07 * 100 is 7.000000000000001 in floating point
    assert np.flatnonzero(top_groups(numbers(np.nan, 0.0), 0.5)).tolist() == [1]


def test_the_gate_opens_for_right_answers_of_the_top_groups() -> None:
    batch = rollouts([5] * 6, ["a", "a", "b", "b", "c", "c"])
    values = numbers(1, 0, 1, 1, 0, 0)
    gate = Gate("correctness", at_least=1.0, top_groups=1 / 3)
    assert gate.open(Scores(values), batch).tolist() == [False, False, True, True, False, False]
    with pytest.raises(ValueError, match="top_groups must be in"):
        Gate("correctness", at_least=1.0, top_groups=1.5)
    with pytest.raises(ValueError, match="a gate must have"):
        Gate("correctness", top_groups=0.5)


def batch() -> list[dict[str, Any]]:
    """Five groups of four with right shares 1, 0.75, 0.25, 0.5 and 0, lengths 100 to 400 in each."""
    lines = []
    for group, rate in enumerate(RATES):
        for index, length in enumerate(LENGTHS):
            answer = 7 if index < 4 * rate else 8
            text = f"<think>x</think><answer>{answer}</answer>"
            lines.append({"prompt_id": group, "prompt": "?", "reference": 7, "response": text, "token_count": length})
    return lines


@pytest.mark.parametrize(
    ("share", "groups"), [(0.0, set()), (0.2, {0}), (0.4, {0, 1}), (0.5, {0, 1, 3}), (1.0, {0, 1, 2, 3})]
)
def test_the_switch_through_score(tmp_path: Path, share: float, groups: set[int]) -> None:
    found = score(tmp_path, batch(), "grpo_lambda", f"reward.terms.length.gate.top_groups={share}")
    rewards = [[row["reward"] for row in found[4 * group : 4 * group + 4]] for group in range(5)]
    golden = {
        0: [0.87565578, 0.76598592, 0.63401408, 0.52434422],
        1: [0.86373849, 0.7, 0.53626151, 0.0],
        2: [0.7, 0.0, 0.0, 0.0],
        # Two right, 100 and 200: z is -1 and 1, sigmoid 0.26894142 and 0.73105858.
        3: [0.83863515, 0.56136485, 0.0, 0.0],
        4: [0.0] * 4,
    }
    plain = [[float(index < 4 * rate) for index in range(4)] for rate in RATES]
    for group in range(5):
        assert rewards[group] == pytest.approx(golden[group] if group in groups else plain[group], **TOLERANCE)
    if 1 in groups:
        wanted = [1.04397468, 0.53934104, 0.03470740, -1.61802313]
        assert [row["advantage"] for row in found[4:8]] == pytest.approx(wanted, **TOLERANCE)
    if 0 not in groups:
        assert [row["advantage"] for row in found[:4]] == [0.0] * 4  # all right alike
    assert [row["advantage"] for row in found[16:]] == [0.0] * 4


def test_lambda_is_a_fifth_and_alpha_six_tenths_by_default(tmp_path: Path) -> None:
    for recipe, text in (("grpo_lambda", "<answer>{}</answer>"), ("grpo_lambda/paper", "\\boxed{{{}}}")):
        lines = [line | {"response": text.format(line["response"][24])} for line in batch()]
        found = score(tmp_path, lines, recipe)
        assert [row["reward"] for row in found[:4]] == pytest.approx(
            [0.87565578, 0.76598592, 0.63401408, 0.52434422], **TOLERANCE
        )
        assert [row["reward"] for row in found[4:8]] == [1.0, 1.0, 1.0, 0.0]
