import math

import numpy as np
import pytest

from thinkrl.probes.decisive_tokens import pattern_tokens, weight_correlation
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.rollouts.ragged import Ragged
from thinkrl.rollouts.store import FinishReason, Group, Response, Rollouts


def characters(*texts: str) -> Rollouts:
    """Responses with a token a character, and a stop token."""
    made = []
    for row, text in enumerate(texts):
        n = len(text) + 1
        ends = np.minimum(np.arange(1, n + 1), len(text)).astype(np.int32)
        floats = np.zeros(n, np.float32)
        made.append(Response(str(row), "g", text, FinishReason.STOP, np.zeros(n, np.int32), np.ones(n, np.uint8),
                             floats, floats, np.zeros(n, np.int32), ends))  # fmt: skip
    return Rollouts.from_responses([Group("g", Prompt("g", (Message("user", "?"),)), np.zeros(1, np.int32))], made)


def shown(rollouts: Rollouts, pattern: str) -> list[str]:
    """The marked characters of each response, others as dots."""
    marks = pattern_tokens(rollouts, pattern)
    return [
        "".join(letter if mark else "." for letter, mark in zip(text, row, strict=False))
        for text, row in zip(rollouts.texts, marks, strict=True)
    ]


def test_what_a_group_matches_is_marked_and_without_groups_the_whole_match() -> None:
    rollouts = characters("4+3=7\n7-9=-2", "none")
    assert shown(rollouts, r"=(-?\d+)") == ["....7.....-2", "...."]
    assert shown(rollouts, r"=-?\d+") == ["...=7....=-2", "...."]
    assert not pattern_tokens(rollouts, r"=(-?\d+)")[0][-1]  # the stop token


def test_results_of_lines_that_are_said_again_are_left_out() -> None:
    text = "<think>4+3=7\nwait, 4+3=7\n7-5=2</think><answer>2</answer>"
    (found,) = shown(characters(text), r"(?m)^(?!wait).*=(-?\d+)")
    assert found.replace(".", "") == "72"
    assert found.index("7") == text.index("7")


def test_correlation_is_that_within_each_response_and_a_mean_over_them() -> None:
    marks = Ragged.from_rows([[0, 1, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]], bool)
    weights = Ragged.from_rows([[0.0, 2.0, 0.0, 2.0], [0.0, 1.0, 1.0, 1.0], [1.0, 2.0, 3.0, 4.0]], float)
    every = np.arange(3)
    assert weight_correlation(weights, marks, every[:1]) == pytest.approx(1.0)
    assert weight_correlation(weights, marks, every[1:2]) == pytest.approx(-1.0)
    assert weight_correlation(weights, marks, every) == pytest.approx(0.0)  # the third has no marks
    # By hand: weights 0, 1, 2 with marks 0, 0, 1 have covariance 1/3, deviations (2/3)^0.5 and (2/9)^0.5.
    one = weight_correlation(Ragged.from_rows([[0.0, 1.0, 2.0]], float), Ragged.from_rows([[0, 0, 1]], bool), every[:1])
    assert one == pytest.approx((1 / 3) / math.sqrt(2 / 3 * 2 / 9))


def test_even_weights_say_nothing_and_given_tokens_do_not_count() -> None:
    marks = Ragged.from_rows([[0, 1, 1]], bool)
    row = np.arange(1)
    assert weight_correlation(Ragged.from_rows([[3.0, 3.0, 3.0]], float), marks, row) == 0.0
    assert weight_correlation(Ragged.from_rows([[0.0, 1.0, math.nan]], float), marks, row) == pytest.approx(1.0)
    assert math.isnan(weight_correlation(Ragged.from_rows([[1.0, 2.0, 3.0]], float), marks, row[:0]))
