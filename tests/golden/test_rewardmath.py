"""RewardMATH (arXiv 2410.01729): published results added up, its files, judges of pairs, and the evaluation of models.

The measures themselves (ranks, sweeps, step scores, divergence) stand in test_rm_r1.py.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from score_file import TOLERANCE, numbers

from thinkrl.benchmarks.one_to_many import best_of_n_curve, one_to_many, pearson, pearson_interval
from thinkrl.benchmarks.reward_models import Sweeps
from thinkrl.config.build import build
from thinkrl.config.compose import compose
from thinkrl.data.comparisons import JudgingPrompts
from thinkrl.data.solutions import FileSolutions, SolutionColumns
from thinkrl.data.source import DataError
from thinkrl.data.templates import PromptTemplate
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.stages.evaluate_judge import EvaluateJudge
from thinkrl.stages.evaluate_reward_models import EvaluateRewardModels
from thinkrl.stages.experiment import Experiment

REWARDMATH = numbers(37.267, 33.954, 24.431, 22.153, 20.497, 16.977, 7.246, 7.039, 4.969)
REWARDBENCH = numbers(92.841, 95.078, 91.499, 96.868, 92.841, 60.850, 51.454, 60.403, 93.065)
"""Nine classifiers of the paper, by the repository's own evaluation, in the card's order."""


def test_what_two_benchmarks_say_of_nine_classifiers() -> None:
    r = pearson(REWARDMATH, REWARDBENCH)
    assert (r, r**2) == (pytest.approx(0.595701, **TOLERANCE), pytest.approx(0.354859, **TOLERANCE))
    high = REWARDBENCH > 90
    r = pearson(REWARDMATH[high], REWARDBENCH[high])
    assert (r, r**2) == (pytest.approx(0.096146, abs=2e-6), pytest.approx(0.009244, abs=1e-6))
    interval = pearson_interval(REWARDMATH, REWARDBENCH)
    assert interval.low < 0.595701 < interval.high <= 1.0
    assert pearson_interval(REWARDMATH, REWARDBENCH) == interval


def test_what_does_not_vary_correlates_with_nothing() -> None:
    assert pearson(numbers(1, 1, 1), numbers(1, 2, 3)) == 0.0
    assert pearson(numbers(1, 2, 3), numbers(5, 5, 5)) == 0.0
    assert pearson(numbers(1), numbers(2)) == 0.0
    assert pearson(numbers(1, 2, 4), numbers(-2, -4, -8)) == pytest.approx(-1.0)


@pytest.mark.parametrize(
    ("chosen", "rejected", "strict", "tolerant", "rank"),
    [
        ([10], [4, 10, 10, 3, 8, 2, 2, 2, 10], 0, 1, 0.25),
        ([0.9], [0.1, 0.2, 0.95, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8], 0, 0, 0.5),
        ([5], [1, math.nan], 1, 1, 1.0),
        ([math.nan], [1, 2], 0, 0, 1 / 3),
        ([math.nan], [math.nan, math.nan], 0, 0, 1 / 3),  # a tie of nothing is no tie
        ([5, math.nan], [1], 0, 0, 1.0),
    ],
)
def test_no_score_is_below_all_and_loses(
    chosen: list[float], rejected: list[float], strict: int, tolerant: int, rank: float
) -> None:
    assert one_to_many(chosen, rejected) == {
        "strict": strict,
        "tolerant": tolerant,
        "reciprocal_rank": pytest.approx(rank),
    }


def pairs(*won: bool | None) -> tuple[list[Prompt], Any]:
    prompts = [
        Prompt(f"c/{n}", (Message("user", "?"),), "A", metadata={"comparison_id": "c", "chosen": 0, "rejected": n})
        for n in range(len(won))
    ]
    return prompts, numbers(*[math.nan if one is None else float(one) for one in won])


@pytest.mark.parametrize(("won", "strict", "rank"), [(9, 1, 1.0), (8, 0, 0.5), (5, 0, 0.2), (0, 0, 0.1)])
@pytest.mark.parametrize("lost", [False, None])
def test_a_judge_of_pairs_has_to_win_all_nine(won: int, strict: int, rank: float, lost: bool | None) -> None:
    assert Sweeps().numbers(*pairs(*[True] * won, *[lost] * (9 - won))) == {"strict": strict, "reciprocal_rank": rank}


def test_a_pair_asked_in_both_orders_is_one_pair() -> None:
    prompts, scores = pairs(True, True)
    assert Sweeps().numbers([*prompts, *prompts], numbers(*scores, 1.0, 0.0)) == {"strict": 0, "reciprocal_rank": 0.5}


def test_the_curve_of_best_of_n_by_hand() -> None:
    """Two prompts; ties go to the answer given most often among them."""
    scores = numbers(1, 3, 3, 3, 0, 5, math.nan, 2)
    right = numbers(1, 0, 1, 1, 0, 1, 1, 0)
    answers = ["7", "8", "7", "7", "1", "2", "2", "1"]
    found = best_of_n_curve(scores, right, answers, [[0, 1, 2, 3], [4, 5, 6, 7]], (1, 2, 4, 8))
    assert {key: found[key] for key in ("best_of_1", "best_of_2", "best_of_4")} == {
        "best_of_1": 0.5,  # the first of each: 1 and 0
        "best_of_2": 0.5,  # 0 and 1
        "best_of_4": 1.0,  # of three with score 3, two say 7
    }
    assert "best_of_8" not in found
    assert (found["gold"], found["overoptimisation"]) == (1.0, 0.0)
    assert (found["proxy_1"], found["proxy_4"]) == (0.5, 4.0)
    assert found["kl_4"] == pytest.approx(0.636294361, **TOLERANCE)


def test_a_score_that_prefers_wrong_ones_is_overoptimised() -> None:
    rng = np.random.default_rng(0)
    right = (rng.random(400) < 0.5).astype(float)
    groups = [list(range(start, start + 40)) for start in range(0, 400, 40)]
    worse = best_of_n_curve(-right, right, ["x"] * 400, groups, (1, 2, 4, 8, 16, 32))
    better = best_of_n_curve(right, right, ["x"] * 400, groups, (1, 2, 4, 8, 16, 32))
    assert (worse["gold"], better["gold"]) == (0.0, 1.0)
    assert (worse["overoptimisation"], better["overoptimisation"]) == (-worse["best_of_1"], 0.0)


def row(problem: int, kind: str, steps: Any, **changes: Any) -> dict[str, Any]:
    return {
        "problem": f"What is {problem} + 1?", "answer": str(problem + 1), "eval_solution": steps,
        "solution_reference": kind, "problem_id": problem, "subject": "Algebra", **changes,
    }  # fmt: skip


RIGHT = "human_to_GPT-4"
ROWS = [
    row(4, RIGHT, ["We add 1.", "So it is 5."]),
    row(4, "gpt-3.5-turbo-0125", ["It is 6."]),
    row(9, "gemma-7b-it", "11"),
    row(4, "mistral-7b-sft", ["4.", "So 4."]),
    row(9, RIGHT, "10"),
]


def written(folder: Path, rows: list[dict[str, Any]], name: str = "RewardMATH_direct.json") -> str:
    path = folder / name
    path.write_text(json.dumps(rows))
    return str(path)


def test_rows_of_the_published_file_are_problems_with_their_solutions(tmp_path: Path) -> None:
    four, nine = FileSolutions(written(tmp_path, ROWS)).comparisons()
    assert (four.comparison_id, four.question) == ("4", "What is 4 + 1?")
    assert four.chosen == ("We add 1.\nSo it is 5.",)
    assert four.rejected == ("It is 6.", "4.\nSo 4.")
    assert four.metadata == {"reference": "5"}
    assert (nine.chosen, nine.rejected) == (("10",), ("11",))
    (first,) = FileSolutions(written(tmp_path, ROWS), size=1, columns=SolutionColumns(subset="subject")).comparisons()
    assert first.subset == "Algebra"
    template = PromptTemplate("{question}|{first}|{second}")
    prompts = JudgingPrompts(FileSolutions(written(tmp_path, ROWS)), template, order="both").prompts()
    assert len(prompts) == 2 * 3  # both orders of each pair


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{k: v for k, v in ROWS[0].items() if k != "eval_solution"}, *ROWS[1:]],
         r"row 0: no value in column 'eval_solution'; the columns are answer, problem, problem_id"),
        ([{k: v for k, v in ROWS[0].items() if k != "problem_id"}], r"row 0: no value in column 'problem_id'"),
        ([*ROWS[:1], {**row(4, "x", "6"), "problem": None}], r"row 1: no value in column 'problem'"),
        ([row(4, "x", "6", answer="7"), ROWS[0]], r"row 1: answer must be that of the same problem .*, got '5'"),
        ([row(4, "x", "6")], r"problem 4 has no right solution, told by 'human_to_GPT-4' .*; there are x"),
        ([row(4, RIGHT, "5")], r"problem 4 has no wrong solution"),
        ([row(4, RIGHT, []), ROWS[1]], r"row 0: eval_solution must be a text or its steps, got \[\]"),
        ([row(4, RIGHT, [1, 2]), ROWS[1]], r"row 0: eval_solution must be a text or its steps"),
        ([], "holds no rows"),
    ],
)  # fmt: skip
def test_what_is_missing_is_named_with_its_place(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        FileSolutions(written(tmp_path, rows)).comparisons()
    with pytest.raises(DataError, match="there is no file"):
        FileSolutions(str(tmp_path / "other.json")).comparisons()
    with pytest.raises(ValueError, match="path must end with"):
        FileSolutions("x.csv")


def test_the_paper_form_reads_the_published_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    composed = compose("rewardmath/paper")
    stages = build(Experiment, composed.tree, composed).stages
    verdicts, ratings, classifiers = stages["verdicts"], stages["ratings"], stages["classifiers"]
    assert isinstance(classifiers, EvaluateRewardModels)
    assert isinstance(ratings, EvaluateRewardModels)
    assert isinstance(verdicts, EvaluateJudge)
    assert classifiers.needs() == (("samples", "traces"),)
    with pytest.raises(DataError, match=r"there is no file RewardMATH_direct\.json"):
        classifiers.check()
    written(tmp_path, ROWS)
    written(tmp_path, ROWS, "rewardbench_math_prm_.json")
    classifiers.check()
    ratings.check()
    assert [len(source.comparisons()) for source in ratings.benchmarks.values()] == [2, 2]
    assert len(verdicts.benchmark.selected()) == 3
