"""CRew (arXiv 2510.13501): golden values of confidences, votes and pairs, and every place an answer can stand."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from score_file import TOLERANCE, numbers, rollouts, score

from thinkrl.benchmarks.selection import best_of_n, pick_rate, weighted_vote
from thinkrl.grading.verdict import Verdict
from thinkrl.rewards.answer_confidence import AnswerConfidence
from thinkrl.rewards.result import RewardResult, TermResult
from thinkrl.stages.preference_pairs import PairSelection

PROBABILITIES = (0.9, 0.8, 0.99)


def line(tokens: list[str], probabilities: list[float]) -> dict[str, Any]:
    return {
        "prompt_id": "q", "prompt": "?", "reference": "123", "response": "".join(tokens), "tokens": tokens,
        "signals": {"logprobs": [math.log(p) for p in probabilities]},
    }  # fmt: skip


RIGHT = line(["so ", "\\boxed", "{", "1", "2", "3", "}", ""], [0.5, 0.3, 0.2, *PROBABILITIES, 0.1, 0.4])


@pytest.mark.parametrize(
    ("average", "value"),
    [
        ("mean", 0.896666667),
        ("product", 0.712800000),
        ("geometric_mean", 0.893283372),
        ("minimum", 0.8),
        ("mean_logprob", math.log(0.893283372)),
    ],
)
def test_confidence_is_the_arithmetic_mean_and_others_are_options(tmp_path: Path, average: str, value: float) -> None:
    (found,) = score(tmp_path, [RIGHT], "crew/paper", f"reward.terms.confidence.term.average={average}")
    assert found["terms"]["confidence"] == pytest.approx(value, **TOLERANCE)
    assert found["reward"] == pytest.approx(value, **TOLERANCE)
    assert found["verdict"] == "correct"


@pytest.mark.parametrize(
    ("tokens", "probabilities", "value"),
    [
        (["\\boxed", "{1", "2}", "."], [0.1, 0.6, 0.8, 0.1], 0.7),  # braces that are part of tokens of the content
        (["\\boxed{", "1", "}", "\\boxed{", "2", "}"], [0.1, 0.9, 0.1, 0.1, 0.4, 0.1], 0.4),  # the last box
        (["\\boxed{", "\\frac{", "1}", "{2}", "}"], [0.1, 0.3, 0.6, 0.9, 0.1], 0.6),  # braces inside
        (["no box"], [0.5], None),
        (["\\boxed{", "}"], [0.5, 0.5], None),  # nothing in it
        (["\\boxed{", "1"], [0.5, 0.5], None),  # cut before it closes
        (["\\boxed{", "1", "}", "\\boxed{", "2"], [0.5] * 5, None),  # the last box decides
    ],
)
def test_where_the_answer_stands(tmp_path: Path, tokens: list[str], probabilities: list[float], value: Any) -> None:
    (found,) = score(tmp_path, [line(tokens, probabilities)], "crew/paper")
    expected = None if value is None else pytest.approx(value, **TOLERANCE)
    assert found["terms"]["confidence"] == expected
    assert found["reward"] == expected, "no box, no reward: the response is left out"


def test_the_perplexity_reads_the_whole_response(tmp_path: Path) -> None:
    (found,) = score(tmp_path, [RIGHT], "crew/paper")
    everything = numbers(0.5, 0.3, 0.2, *PROBABILITIES, 0.1, 0.4)
    assert found["terms"]["perplexity"] == pytest.approx(float(np.exp(np.log(everything).mean())), **TOLERANCE)


def test_a_missing_answer_can_have_a_value_and_an_unknown_probability_has_none() -> None:
    batch = rollouts([3, 11], texts=["abc", "\\boxed{123}"])
    batch.logprobs.values[-4] = np.nan
    values = AnswerConfidence(missing=0.0).score(batch, None).values  # type: ignore[arg-type]
    assert values[0] == 0.0
    assert np.isnan(values[1])


def test_given_tokens_of_an_answer_do_not_count() -> None:
    batch = rollouts([11], texts=["\\boxed{123}"])
    batch.origins.values[7] = 0
    batch.logprobs.values[7:10] = [np.nan, math.log(0.4), math.log(0.6)]
    assert AnswerConfidence().score(batch, None).values[0] == pytest.approx(0.5)  # type: ignore[arg-type]


def test_the_reward_in_rl_gives_group_advantages(tmp_path: Path) -> None:
    lines = [line(["\\boxed{", "1", "}"], [1.0, p, 1.0]) for p in (0.2, 0.4)]
    found = score(tmp_path, lines, "crew/paper", "+stage@stages.rl=grpo", "stages.rl.model_from=base")
    assert [row["reward"] for row in found] == pytest.approx([0.2, 0.4], **TOLERANCE)
    assert found[0]["advantage"] == pytest.approx(-found[1]["advantage"])
    assert found[0]["advantage"] < 0


def test_votes_with_confidences_as_weights() -> None:
    answers, confidence = ["7", "7", "5", "5", "5"], numbers(0.95, 0.90, 0.40, 0.35, 0.30)
    right = numbers(1, 1, 0, 0, 0)
    assert confidence[:2].sum() / confidence.sum() == pytest.approx(0.637931034, **TOLERANCE)
    assert confidence[2:].sum() / confidence.sum() == pytest.approx(0.362068966, **TOLERANCE)
    assert weighted_vote(answers, confidence, right) == 1.0
    assert weighted_vote(answers, np.ones(5), right) == 0.0, "a plain majority says 5"
    assert best_of_n(confidence, right) == 1.0
    assert weighted_vote(["a", "b"], numbers(0.5, 0.5), numbers(0, 1)) == 0.0, "ties go to the first"
    assert weighted_vote([None, "b"], numbers(0.9, np.nan), numbers(0, 1)) == 0.0


def test_best_of_n_and_picks_at_their_edges() -> None:
    assert best_of_n(numbers(0.5, 0.5), numbers(0, 1)) == 0.0, "ties go to the first"
    assert best_of_n(numbers(np.nan, 0.1), numbers(0, 1)) == 1.0, "no confidence is below all"
    assert best_of_n(numbers(0.9, 0.1), numbers(np.nan, 1)) == 1.0
    assert np.isnan(best_of_n(numbers(0.9), numbers(np.nan)))
    one_right = numbers(1, *[0] * 9)
    assert pick_rate(numbers(0.9, *[0.8] * 9), one_right, 9) == 1.0
    assert pick_rate(numbers(0.8, *[0.8] * 9), one_right, 9) == 0.0, "only a strict top counts"
    assert pick_rate(numbers(0.5, 0.9, *[0.1] * 8), one_right, 3) == pytest.approx(56 / 84), "C(8, 3) of C(9, 3) sets"
    assert np.isnan(pick_rate(numbers(0.5, 0.9), numbers(1, 0), 2))


def chosen(selection: PairSelection, right: list[float], wrong: list[float]) -> list[tuple[float, float]]:
    values = numbers(*right, *wrong)
    n = len(values)
    verdicts = (Verdict.CORRECT,) * len(right) + (Verdict.WRONG,) * len(wrong)
    term = TermResult(values, values, 1.0, np.ones(n, dtype=np.bool_), values)
    batch = rollouts([1] * n)
    pairs = selection.choose(range(n), batch, RewardResult(values, {"confidence": term}, verdicts), seed=0)
    return [(float(values[a]), float(values[b])) for a, b in pairs]


def test_pairs_with_the_largest_gaps() -> None:
    every = chosen(PairSelection(by="confidence", per_prompt=10), [0.9, 0.6, 0.4], [0.8, 0.2])
    assert [a - b for a, b in every] == pytest.approx([0.7, 0.4, 0.2, 0.1, -0.2, -0.4])
    three = chosen(PairSelection(by="confidence", per_prompt=3), [0.9, 0.6, 0.4], [0.8, 0.2])
    assert three == [(0.9, 0.2), (0.6, 0.2), (0.4, 0.2)]
    assert chosen(PairSelection(by="confidence", minimum_gap=0.0, per_prompt=10), [0.4], [0.8, 0.2]) == [(0.4, 0.2)]
    assert chosen(PairSelection(by="confidence", rule="smallest_gap"), [0.9, 0.6], [0.8, 0.2]) == [(0.6, 0.8)]


def test_all_right_all_wrong_and_no_answer_make_no_pairs() -> None:
    selection = PairSelection(by="confidence", per_prompt=10)
    assert chosen(selection, [0.9, 0.6], []) == []
    assert chosen(selection, [], [0.9, 0.6]) == []
    assert chosen(selection, [0.9], [np.nan, 0.5]) == [(0.9, 0.5)]


def test_other_pairs() -> None:
    best_and_worst = PairSelection(by="confidence", between="values")
    assert chosen(best_and_worst, [0.6, 0.4], [0.9, 0.2]) == [(0.9, 0.2)]
    assert chosen(best_and_worst, [0.5], [0.5]) == [], "equal values make no pair"
    drawn = chosen(PairSelection(rule="random", per_prompt=100), [0.9, 0.6, 0.4], [0.8, 0.2])
    assert sorted(drawn) == sorted((a, b) for a in (0.9, 0.6, 0.4) for b in (0.8, 0.2)), (
        "each right with each wrong one"
    )
    assert drawn == chosen(PairSelection(rule="random", per_prompt=100), [0.9, 0.6, 0.4], [0.8, 0.2])
