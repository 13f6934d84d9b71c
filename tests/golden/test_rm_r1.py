"""RM-R1 (arXiv 2505.02387): the verdict at the end, advantages, and how benchmarks of reward models are added up."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from score_file import TOLERANCE, numbers, rollouts, score

from thinkrl.algorithms.advantages import GroupAdvantage
from thinkrl.benchmarks.one_to_many import (
    aggregate_steps,
    best_of_n,
    best_of_n_divergence,
    overoptimisation,
    ranked_first,
    reciprocal_rank,
    sweep,
)
from thinkrl.benchmarks.reward_models import BySubset, RewardBenchSections, RMBenchLevels, section_scores, style_levels
from thinkrl.grading.verdict import Verdict
from thinkrl.grading.verdict_marks import VerdictMarkGrader
from thinkrl.rollouts.prompt import Message, Prompt

A, B = "<answer>[[A]]</answer>", "<answer>[[B]]</answer>"


@pytest.mark.parametrize(
    ("text", "gold", "value"),
    [
        (f"xx {A}", "A", 1),
        (B, "A", -1),
        (A + B, "A", -1),
        ("<answer> [[A]] </answer>", "A", -1),
        (A + "." * 58, "A", 1),
        (A + "." * 59, "A", -1),
        (B + "." * 70 + A, "A", 1),
        (B + "." * 36 + A, "A", -1),
        (B + "." * 37 + A, "A", 1),
        (f"xx {B}", "B", 1),
        ("[[A]]", "A", -1),
        ("", "A", -1),
        (f"xx {A}", "model_a", 1),
        (f"xx {A}", "model_b", -1),
        (f"xx {A}", "C", None),
        (f"xx {A}", None, None),
    ],
)
@pytest.mark.parametrize("recipe", ["rm_r1", "rm_r1/paper"])
def test_the_verdict_in_the_last_80_characters(
    tmp_path: Path, recipe: str, text: str, gold: str | None, value: int | None
) -> None:
    (found,) = score(tmp_path, [{"prompt_id": "p", "prompt": "?", "reference": gold, "response": text}], recipe)
    assert found["reward"] == value
    assert found["terms"]["verdict"] == value
    assert found["verdict"] == {1: "correct", -1: "wrong", None: "ungradable"}[value]


def group(right: int) -> list[dict[str, Any]]:
    texts = [A] * right + [B] * (7 - right)
    return [{"prompt_id": "p", "prompt": "?", "reference": "A", "response": text} for text in texts]


@pytest.mark.parametrize(
    ("right", "good", "bad"), [(5, 0.585539444, -1.46384861), (1, 2.26778384, -0.377963973), (7, 0, 0), (0, 0, 0)]
)
def test_advantages_of_seven(tmp_path: Path, right: int, good: float, bad: float) -> None:
    found = [row["advantage"] for row in score(tmp_path, group(right), "rm_r1/paper")]
    assert found == pytest.approx([good] * right + [bad] * (7 - right), **TOLERANCE)
    rewards = numbers(*[1.0] * right, *[-1.0] * (7 - right))
    assert GroupAdvantage().advantages(rewards, rollouts([1] * 7)).per_response() == pytest.approx(found, **TOLERANCE)


FORMED = f"<type>Reasoning</type>\n<solution>1</solution>\n<eval>2</eval>\n{A}"


@pytest.mark.parametrize(
    ("text", "formed"),
    [
        (FORMED, 1),
        (f"<type>Chat</type><rubric>x <justify>y</justify></rubric><eval>2</eval>{B}", 1),
        (f"<type>Chat</type><solution>1</solution><eval>2</eval>{A}", 0),
        (FORMED + " so", 0),
        (f"<type>Reasoning</type><eval>2</eval>{A}", 0),
        (A, 0),
    ],
)
def test_the_ablation_pays_for_the_form_beside_the_verdict(tmp_path: Path, text: str, formed: int) -> None:
    line = {"prompt_id": "p", "prompt": "?", "reference": "A", "response": text}
    ablation = ("reward.terms.form.weight=1", "reward.terms.verdict.term.wrong=0")
    (found,) = score(tmp_path, [line], "rm_r1/paper", *ablation)
    assert found["terms"]["form"] == formed
    assert found["reward"] == formed + (A in text[-80:])
    assert score(tmp_path, [line], "rm_r1/paper")[0]["reward"] in (1, -1)


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("[[A]]", "correct"),
        ("far from the end [[A]]" + "." * 500, "correct"),
        ("[[B]]", "wrong"),
        ("[[A]] [[B]]", "wrong"),
        ("A", "wrong"),
        (None, "wrong"),
    ],
)
def test_evaluation_takes_a_mark_anywhere_and_refuses_both(text: str | None, verdict: str) -> None:
    assert VerdictMarkGrader().grade(text, "A").verdict == verdict
    assert VerdictMarkGrader().grade(text, "model_a").verdict == verdict
    assert VerdictMarkGrader().grade(text, "tie").verdict is Verdict.UNGRADABLE


def test_rm_bench_levels() -> None:
    matrix = np.asarray([[1, 0, 0], [1, 1, 0], [1, 1, 1]], dtype=np.float64)
    assert style_levels(matrix) == {"hard": 0.0, "normal": 1.0, "easy": 1.0}


def asked(subset: str, chosen: int = 0, rejected: int = 0, name: str = "c") -> Prompt:
    metadata = {"subset": subset, "chosen": chosen, "rejected": rejected, "comparison_id": name}
    return Prompt(f"{name}/{chosen}{rejected}", (Message("user", "?"),), "A", metadata=metadata)


def test_rm_bench_adds_up_domains_and_pools_both_kinds_of_safety() -> None:
    domains = ("chat", "math", "code", "safety-refuse", "safety-response")
    prompts = [asked(domain, i, j) for domain in domains for i in range(3) for j in range(3)]
    # Chat is judged by length alone, math always right, code never; safety is right in one of its halves.
    right = [
        {"chat": i >= j, "math": True, "code": False, "safety-refuse": True, "safety-response": False}[domain]
        for domain in domains for i in range(3) for j in range(3)
    ]  # fmt: skip
    found = RMBenchLevels().numbers(prompts, np.asarray(right, dtype=np.float64))
    wanted = {
        "chat": 2 / 3,
        "math": 1.0,
        "code": 0.0,
        "safety": 0.5,
        "easy": 2.5 / 4,
        "normal": 2.5 / 4,
        "hard": 1.5 / 4,
    }
    assert {name: found[name] for name in wanted} == pytest.approx(wanted)
    assert found["average"] == pytest.approx((2 / 3 + 1.5) / 4)


def test_rewardbench_weighs_subsets_by_size_and_mathematics_as_much_as_code() -> None:
    subsets = {"math-prm": 1.0, **{f"hep-{name}": 0.5 for name in ("cpp", "go", "java", "js", "python", "rust")}}
    assert section_scores(subsets) == {"reasoning": pytest.approx(0.75)}
    prompts = [asked("mt-bench-easy"), asked("alpacaeval-easy"), asked("alpacaeval-easy")]
    found = RewardBenchSections().numbers(prompts, numbers(1, 0, 1))
    assert found == {"chat": pytest.approx((28 * 1 + 100 * 0.5) / 128)}
    whole = section_scores({**subsets, "mt-bench-easy": 0.9, "mt-bench-hard": 0.8, "donotanswer": 0.7})
    assert whole["average"] == pytest.approx((0.75 + 0.9 + 0.8 + 0.7) / 4)


def test_by_subset_and_in_both_orders() -> None:
    prompts = [asked("a", name="1"), asked("a", name="1"), asked("b", name="2"), asked("b", name="2")]
    found = BySubset().numbers(prompts, numbers(1, 1, 1, 0))
    assert found == {"accuracy/a": 1.0, "accuracy/b": 0.5, "consistent": 0.5}


@pytest.mark.parametrize(
    ("chosen", "rejected", "strict", "tolerant", "rank"),
    [
        ([10], [4, 10, 10, 3, 8, 2, 2, 2, 10], 0, 1, 0.25),
        ([0.9], [0.1, 0.2, 0.95, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8], 0, 0, 0.5),
        ([3], [1, 2], 1, 1, 1.0),
    ],
)
def test_one_against_many(chosen: list[float], rejected: list[float], strict: int, tolerant: int, rank: float) -> None:
    assert ranked_first(chosen, rejected) == strict
    assert ranked_first(chosen, rejected, tolerant=True) == tolerant
    assert reciprocal_rank(chosen, rejected) == rank


def test_a_random_reward_model_against_nine() -> None:
    stream = np.random.default_rng(0)
    scores = stream.random((40_000, 10))
    ranks = np.mean([reciprocal_rank(row[:1], row[1:]) for row in scores])
    assert ranks == pytest.approx(sum(1 / k for k in range(1, 11)) / 10, abs=0.005)  # 0.292896825
    assert np.mean([ranked_first(row[:1], row[1:]) for row in scores]) == pytest.approx(0.1, abs=0.005)


@pytest.mark.parametrize(("won", "strict", "rank"), [(9, 1, 1.0), (8, 0, 0.5), (5, 0, 0.2), (0, 0, 0.1)])
def test_sweeps_of_nine_pairs(won: int, strict: int, rank: float) -> None:
    for lost in (False, None):  # no verdict is a loss
        assert sweep([True] * won + [lost] * (9 - won)) == {"strict": strict, "reciprocal_rank": rank}


@pytest.mark.parametrize(
    ("rule", "value"),
    [("min", 0.5), ("max", 0.95), ("prod", 0.342), ("geometric_mean", 0.764727181), ("mean", 0.7875), ("last", 0.95),
     ("mean_logit", 0.836441995), ("mean_odd", 8.25)],
)  # fmt: skip
def test_scores_of_steps(rule: Any, value: float) -> None:
    assert aggregate_steps([0.9, 0.8, 0.5, 0.95], rule) == pytest.approx(value, **TOLERANCE)
    assert np.isnan(aggregate_steps([], rule))
    assert np.isfinite(aggregate_steps([1.0, 0.0], rule))


@pytest.mark.parametrize(
    ("n", "nats"), [(1, 0), (4, 0.636294361), (16, 1.83508872), (64, 3.17450808), (256, 4.54908369)]
)
def test_divergence_of_best_of_n(n: int, nats: float) -> None:
    assert best_of_n_divergence(n) == pytest.approx(nats, **TOLERANCE)


def test_ties_in_best_of_n_go_to_the_answer_given_most_often() -> None:
    scores, answers, correct = [2, 5, 5, 5, 9], ["1", "1", "2", "2", "3"], [1.0, 1.0, 0.0, 0.0, 1.0]
    assert [best_of_n(scores, answers, correct, n) for n in (1, 2, 3, 4, 5)] == [1.0, 1.0, 1.0, 0.0, 1.0]
    assert overoptimisation([0.2, 0.6, 0.5]) == pytest.approx(-0.1)
    assert overoptimisation([0.2, 0.6]) == 0.0
