r"""AnytimeReasoner (arXiv 2505.13438): golden values of BRPO and of answers, and edges of the format."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from score_file import TOLERANCE, rollouts, score
from typer.testing import CliRunner

from thinkrl.algorithms.budgets import (
    Baseline,
    Prior,
    budget_prior,
    earlier_baseline,
    group_baseline,
    later_returns,
    thinking_advantages,
)
from thinkrl.cli.app import app
from thinkrl.grading.extraction import AnswerExtractor
from thinkrl.rewards.in_format import SaidOnce
from thinkrl.rewards.term import RewardContext

Q = np.asarray([[0.0, 0.5, 1.0, 1.0], [0.0, 0.0, 0.5, 0.5]])
BUDGETS = np.asarray([2000.0, 4000.0, 6000.0, 8000.0])
LAST = np.asarray([0.0, 0.0, 0.0, 1.0])
ADVANTAGES: dict[Prior, list[list[float]]] = {
    "uniform": [[0.1875, 0.296875, 0.2291667, 0.0691964], [-0.1875, -0.078125, 0.0625, 0.0245536]],
    "linear": [[0.225, 0.36875, 0.3208333, 0.1107143], [-0.225, -0.08125, 0.0875, 0.0392857]],
}
HEADER = "\n\n**Final Answer**\n"
CLOSED = "...\n\n...\n\n</think>" + HEADER
RIGHT, WRONG = "\\boxed{7}", "\\boxed{8}"


def worth(prior: Prior, baseline: Baseline = "budget_relative") -> Any:
    return thinking_advantages(Q, BUDGETS, budget_prior(BUDGETS, prior), baseline)


def test_priors() -> None:
    assert budget_prior(BUDGETS, "uniform") == pytest.approx([0.25] * 4)
    assert budget_prior(BUDGETS, "linear") == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert budget_prior(BUDGETS, "last").tolist() == LAST.tolist()
    assert budget_prior(BUDGETS, "last", 0.01) == pytest.approx([0.01, 0.01, 0.01, 0.97])  # the released code's


def test_returns_and_baselines_with_the_uniform_prior() -> None:
    prior = budget_prior(BUDGETS, "uniform")
    assert later_returns(Q, prior)[0] == pytest.approx([0.625, 0.625, 0.5, 0.25], **TOLERANCE)
    assert earlier_baseline(Q, prior)[0] == pytest.approx([0, 0, 0.1666667, 0.1785714], **TOLERANCE)
    assert group_baseline(Q, prior) == pytest.approx([0.4375, 0.4375, 0.375, 0.1875], **TOLERANCE)


def test_returns_and_baselines_with_the_linear_prior() -> None:
    prior = budget_prior(BUDGETS, "linear")
    assert later_returns(Q, prior)[0] == pytest.approx([0.8, 0.8, 0.7, 0.4], **TOLERANCE)
    assert earlier_baseline(Q, prior)[0] == pytest.approx([0, 0, 0.2333333, 0.2857143], **TOLERANCE)


@pytest.mark.parametrize("prior", ["uniform", "linear"])
def test_advantages(prior: Prior) -> None:
    found = worth(prior)
    for thought in range(2):
        assert found[thought] == pytest.approx(ADVANTAGES[prior][thought], **TOLERANCE)


def test_all_mass_on_the_last_budget_still_gives_each_segment_its_own() -> None:
    assert worth("last")[0] == pytest.approx([0.25, 0.4375, 0.4583333, 0.2767857], **TOLERANCE)


def test_one_baseline_alone() -> None:
    assert worth("uniform", "group")[0] == pytest.approx([0.1875, 0.1875, 0.125, 0.0625], **TOLERANCE)
    # R - V1 of the first golden value; without a baseline R itself.
    assert worth("uniform", "earlier")[0] == pytest.approx([0.625, 0.625, 0.3333333, 0.0714286], **TOLERANCE)
    assert worth("uniform", "none")[0] == pytest.approx([0.625, 0.625, 0.5, 0.25], **TOLERANCE)


def line(thinking: list[str], thought: Any, budget: int, answer: str) -> dict[str, Any]:
    """An answer at a budget of some tokens; thinking that goes on longer is cut and closed."""
    kept = thinking[:budget]
    tokens = [*kept, HEADER if kept[-1] == "</think>" else CLOSED, answer]
    cut = {"thinking": thought, "budget": budget, "kept": len(kept)}
    return {
        "prompt_id": "q", "prompt": "3 + 4 = ?", "reference": 7,
        "response": "".join(tokens), "tokens": tokens, "signals": {"cut": cut},
    }  # fmt: skip


def thought(thinking: list[str], name: Any, scores: list[int]) -> list[dict[str, Any]]:
    """Two answers at each of four budgets of one to four tokens."""
    return [line(thinking, name, 1 + n // 2, RIGHT if u else WRONG) for n, u in enumerate(scores)]


PAGE = (Path(__file__).parents[2] / "docs" / "score.md").read_text()
FIRST = thought(list("abcde"), 0, [0, 0, 1, 0, 1, 1, 1, 1])
SECOND = thought(["a", "</think>"], 1, [0, 0, 0, 0, 0, 1, 1, 0])  # it ends in the second segment


def test_a_file_of_answers(tmp_path: Path) -> None:
    found = score(tmp_path, FIRST + SECOND, "anytime_reasoner/paper")
    assert [row["reward"] for row in found] == [0, 0, 1, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 1, 1, 0]
    # The thinking belongs to the first answer that keeps most of it; to the others it is given.
    assert found[6]["advantage"][:4] == pytest.approx(ADVANTAGES["uniform"][0], **TOLERANCE)
    assert found[10]["advantage"][:2] == pytest.approx(ADVANTAGES["uniform"][1][:2], **TOLERANCE)
    assert found[2]["advantage"][:2] == [None, None]
    # Answers: two at each cut of the first thought, six at the end of the second.
    answers = [row["advantage"][-1] for row in found]
    assert answers[:8] == [0, 0, 0.5, -0.5, 0, 0, 0, 0]
    third = 1 / 3
    assert answers[8:10] == [0, 0]
    assert answers[10:] == pytest.approx([-third, -third, -third, 2 * third, 2 * third, -third], **TOLERANCE)


@pytest.mark.parametrize(
    ("overrides", "thinking"),
    [
        (["algorithm.advantage.prior=linear"], ADVANTAGES["linear"][0]),
        (["algorithm.advantage.prior=last"], [0.25, 0.4375, 0.4583333, 0.2767857]),
        (["algorithm.advantage.baseline=group"], [0.1875, 0.1875, 0.125, 0.0625]),
    ],
)
def test_options_through_a_file(tmp_path: Path, overrides: list[str], thinking: list[float]) -> None:
    found = score(tmp_path, FIRST + SECOND, "anytime_reasoner/paper", *overrides)
    assert found[6]["advantage"][:4] == pytest.approx(thinking, **TOLERANCE)


def test_thoughts_may_have_the_same_number_under_other_prompts(tmp_path: Path) -> None:
    other = [one | {"prompt_id": "p"} for one in FIRST + SECOND]
    found = score(tmp_path, FIRST + SECOND + other, "anytime_reasoner/paper")
    assert [row["advantage"] for row in found[:16]] == [row["advantage"] for row in found[16:]]


def test_one_answer_a_budget_is_compared_with_the_other_thoughts(tmp_path: Path) -> None:
    lines = [*FIRST[::2], *SECOND[::2]]
    found = score(tmp_path, lines, "anytime_reasoner/paper")
    assert [row["reward"] for row in found] == [0, 1, 1, 1, 0, 0, 0, 1]
    assert [row["advantage"][-1] for row in found] == [0, 0.5, 0.5, 0, 0, -0.5, -0.5, 0]


def test_one_budget_and_one_answer_are_grpo_without_division(tmp_path: Path) -> None:
    lines = [line(list("abcd"), name, 4, RIGHT if u else WRONG) for name, u in enumerate([1, 0, 0, 0])]
    grpo = ["algorithm.advantage.baseline=group", "algorithm.advantage.answers=last"]
    found = score(tmp_path, lines, "anytime_reasoner/paper", *grpo)
    assert [row["advantage"] for row in found] == [0.75, -0.25, -0.25, -0.25]


def test_all_right_teaches_nothing_and_a_thought_that_gained_on_its_past_something(tmp_path: Path) -> None:
    right = [*thought(list("abcd"), 0, [1] * 8), *thought(list("abcd"), 1, [1] * 8)]
    assert [row["advantage"] for row in score(tmp_path, right, "anytime_reasoner/paper")] == [0.0] * 16
    late = [*thought(list("abcd"), 0, [0] * 4 + [1] * 4), *thought(list("abcd"), 1, [0] * 4 + [1] * 4)]
    found = score(tmp_path, late, "anytime_reasoner/paper")
    # Both do the same, so the group's mean says nothing; that a thought gained on its own past does: V1 is 0, then 4/7.
    gained = [0, 0.25 * 0.5, 0.5 * 0.5, 0.75 * (0.25 - 0.25 * 4 / 7)]
    assert found[6]["advantage"][:4] == pytest.approx(gained, **TOLERANCE)


GATED = (
    (f"abc</think>{HEADER}{RIGHT}", 1),
    (f"abc{CLOSED}{RIGHT}", 1),
    (f"<think>\nabc{CLOSED}so it is {RIGHT}.", 1),
    (f"abc</think>{HEADER}\n{RIGHT}", 0),  # a paragraph later: the header's has no box
    (f"abc</think>\n\n{RIGHT}", 0),  # no header
    (f"abc</think>{HEADER}7", 0),  # no box
    (f"abc</think>{HEADER}{RIGHT}</think>", 0),  # the end of thinking twice
    (f"abc<|end|>{HEADER}{RIGHT}", 0),  # ended by a stop token, never closed
    (f"abc<|end|>{HEADER}{WRONG}\n</think>{HEADER}{RIGHT}", 1),  # once, before a header: what the rule says
    (f"{RIGHT}</think>{HEADER}{WRONG}", 0),  # what stands in the thinking is no answer
    (f"abc</think>{HEADER}\\boxed{{7", 0),  # cut in its answer
    ("", 0),
)


def test_the_gate_and_where_the_answer_stands(tmp_path: Path) -> None:
    cut = {"thinking": "t", "budget": 4, "kept": 1}
    lines = [
        {"prompt_id": n, "reference": 7, "response": text, "token_count": 9, "signals": {"cut": cut}}
        for n, (text, _) in enumerate(GATED)
    ]
    found = score(tmp_path, lines, "anytime_reasoner/paper")
    assert [row["reward"] for row in found] == [reward for _, reward in GATED]


def test_the_laptop_form_reads_answer_tags_and_its_own_tokens(tmp_path: Path) -> None:
    lines = [
        {"prompt_id": "q", "prompt": "3+4", "reference": 7,
         "response": f"<think>3+4=7</think><answer>{answer}</answer>",
         "signals": {"cut": {"thinking": "t", "budget": budget, "kept": 7}}}
        for budget, answer in ((16, 8), (16, 7), (32, 7), (32, 7))
    ]  # fmt: skip
    found = score(tmp_path, lines, "anytime_reasoner")
    assert [row["reward"] for row in found] == [0, 1, 1, 1]
    assert [row["advantage"][-1] for row in found] == [-0.75, 0.25, 0.25, 0.25]
    assert len(found[0]["advantage"]) == 11  # 7 of thinking, <answer>, digit, </answer>, stop


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        ({"thinking": "t", "budget": 4}, "must be an object with thinking"),
        ({"thinking": "t", "budget": 4, "kept": 10}, "keeps 10 tokens of thinking, but the response has 9"),
        ({"thinking": "t", "budget": 4, "kept": -1}, "kept must be at least 0"),
        (None, "every response must be an answer at a cut"),
    ],
)
def test_a_cut_that_cannot_be_is_named(tmp_path: Path, cut: Any, message: str) -> None:
    file = tmp_path / "responses.jsonl"
    file.write_text(json.dumps({"prompt_id": "q", "response": "x", "token_count": 9, "signals": {"cut": cut}}))
    result = CliRunner().invoke(app, ["score", "anytime_reasoner/paper", str(file)])
    assert result.exit_code == 1
    assert message in " ".join(result.output.split())


def test_a_file_without_cuts_says_how_to_give_them(tmp_path: Path) -> None:
    file = tmp_path / "responses.jsonl"
    file.write_text('{"prompt_id": "q", "response": "x", "token_count": 1}')
    result = CliRunner().invoke(app, ["score", "anytime_reasoner/paper", str(file)])
    assert result.exit_code == 1
    assert "lacks the signal 'cut', read by advantage" in " ".join(result.output.split())


def test_said_once_and_headers() -> None:
    texts = ["a</think>b", "ab", "</think></think>"]
    found = SaidOnce().score(rollouts([1, 1, 1], texts=texts), RewardContext())
    assert found.values.tolist() == [1, 0, 0]
    assert found.notes == ("", "</think> 0 times", "</think> 2 times")
    assert SaidOnce(prefix="</think>").score(rollouts([1], texts=["ab"]), RewardContext()).values.tolist() == [1]
    extractor = AnswerExtractor(sources=("last_number",), header="Answer:")
    assert extractor.extract("1</think>2\n\nAnswer: 3\n\nAnswer: 4") == "3"
    assert extractor.extract("1</think>2") is None


def test_the_line_of_the_page_is_scored(tmp_path: Path) -> None:
    (shown,) = re.findall(r"```jsonl\n(.*?)```", PAGE, re.DOTALL)
    (found,) = score(tmp_path, [json.loads(shown)], "anytime_reasoner/paper")
    assert (found["verdict"], found["reward"]) == ("correct", 1)
