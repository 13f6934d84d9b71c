r"""Co-Reward (arXiv 2508.00410): votes, cross-labels, advantages of each side, and the sum of the two sides' losses."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from score_file import TOLERANCE, numbers, rollouts, score
from typer.testing import CliRunner

from thinkrl.algorithms.advantages import GroupAdvantage
from thinkrl.algorithms.objective import ClippedObjective
from thinkrl.algorithms.sides import SidesAdded
from thinkrl.algorithms.types import LossInputs
from thinkrl.cli.app import app
from thinkrl.config.build import build
from thinkrl.config.compose import compose
from thinkrl.grading.extraction import AnswerExtractor
from thinkrl.grading.mathematics import MathGrader
from thinkrl.grading.number import NumberGrader
from thinkrl.rewards.majority_vote import VoteAgreement, majority
from thinkrl.rewards.term import RewardContext, Scores
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.rollouts.store import Group, Rollouts
from thinkrl.stages.experiment import Experiment
from thinkrl.stages.grpo import GRPO

ORIGINAL = ["4", "4", "5", "", "4", "6", "4", "5"]
REWRITTEN = ["5", "5", "4", "5", "5", "", "4", "5"]
REWARDS = [0, 0, 1, 0, 0, 0, 0, 1]
TWIN_REWARDS = [0, 0, 1, 0, 0, 0, 1, 0]
PAID, UNPAID = 1.6201816, -0.5400605


@pytest.mark.parametrize(
    ("answers", "label"),
    [
        (ORIGINAL, "4"),
        (REWRITTEN, "5"),
        (["2", "1", "1", "2"], "2"),
        (["", "", ""], ""),
        (["", "", "", "7"], "7"),
        ([], ""),
        (["1/2", "\\frac{1}{2}", "1/2", "\\frac{1}{2}", "\\frac{1}{2}", "3", "3", "3", "3"], "3"),
    ],
)
def test_the_answer_given_most_often_wins_and_the_first_of_several(answers: list[str], label: str) -> None:
    assert majority(answers) == label


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so \\boxed{4}", "4"),
        ("\\boxed{3}, no: \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("\\boxed{ 4 }", " 4 "),
        ("\\boxed{4", None),
        ("\\boxed{}", None),
        ("\\boxed{5 and then \\boxed{4}", "4"),
        ("the answer is 4", None),
    ],
)
def test_the_answer_is_the_last_box_as_written(text: str, answer: str | None) -> None:
    assert AnswerExtractor(("last_box",)).extract(text) == answer


def test_the_paper_form_reads_its_file_of_pairs(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    said = ("[ORIGINAL] a [/ORIGINAL]\n[REWRITE]\nb\n[/REWRITE]", "[REWRITE] cut off")
    rows = [{"question": "a", "answer": "4", "rewritten": text} for text in said]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    composed = compose("co_reward/paper", [f"data.path={file}"])
    stage = build(Experiment, composed.tree, composed).stages["grpo"]
    assert isinstance(stage, GRPO)
    original, twin = stage.prompts.prompts()  # the second row has no rewording, and leaves on both sides
    assert [prompt.messages[-1].content for prompt in (original, twin)] == ["a", "b"]
    assert original.messages[0] == twin.messages[0]
    assert original.messages[0].role == "system"
    assert (original.reference, twin.reference) == ("4", "4")


def lines(form: str = "it is \\boxed{{{}}}", nothing: str = "I do not know", **metadata: Any) -> list[dict[str, Any]]:
    """The card's batch: a question and its twin, eight answers each."""
    return [
        {
            "prompt_id": name,
            "prompt": name,
            "reference": "4",
            "response": form.format(answer) if answer else nothing,
            "metadata": {"pair_id": "a", **metadata},
        }
        for name, answers in (("x", ORIGINAL), ("x'", REWRITTEN))
        for answer in answers
    ]


@pytest.mark.parametrize(
    ("recipe", "form"),
    [("co_reward/paper", "it is \\boxed{{{}}}"), ("co_reward", "<think>?</think><answer>{}</answer>")],
)
def test_each_side_is_paid_for_the_other_sides_vote(tmp_path: Path, recipe: str, form: str) -> None:
    found = score(tmp_path, lines(form), recipe)
    rewards = [row["reward"] for row in found]
    assert rewards == [*REWARDS, *TWIN_REWARDS]
    assert [row["advantage"] for row in found] == pytest.approx([PAID if r else UNPAID for r in rewards], **TOLERANCE)
    assert [row["verdict"] for row in found[:4]] == ["correct", "correct", "wrong", "wrong"]


def test_the_two_sides_are_joined_by_pair_id_and_not_by_row(tmp_path: Path) -> None:
    first = lines()
    second = [line | {"prompt_id": line["prompt_id"] + "2", "metadata": {"pair_id": "b"}} for line in lines()]
    for line in second[8:]:
        line["response"] = "it is \\boxed{6}"
    order = np.random.default_rng(0).permutation(32)
    shuffled = [[*first, *second][row] | {"response_id": str(row)} for row in order]
    found = {int(row["response_id"]): row for row in score(tmp_path, shuffled, "co_reward/paper")}
    # A shuffle keeps the labels, 4 of 8 against 3 and 5 of 8 against 2, and so every reward.
    assert [found[row]["reward"] for row in range(16)] == [*REWARDS, *TWIN_REWARDS]
    assert [found[row]["reward"] for row in range(16, 24)] == [float(answer == "6") for answer in ORIGINAL]
    assert [found[row]["reward"] for row in range(24, 32)] == [0.0] * 8


def test_own_votes_pay_the_own_label(tmp_path: Path) -> None:
    found = score(tmp_path, lines(), "co_reward/paper", "reward=own_vote")
    wanted = [float(answer == "4") for answer in ORIGINAL] + [float(answer == "5") for answer in REWRITTEN]
    assert [row["reward"] for row in found] == wanted


def test_no_answer_anywhere_pays_nothing(tmp_path: Path) -> None:
    silent = [line | {"response": "hm"} for line in lines()]
    found = score(tmp_path, silent, "co_reward/paper")
    assert [row["reward"] for row in found] == [0.0] * 16
    assert [row["advantage"] for row in found] == [0.0] * 16
    assert found[0]["notes"] != []
    half = [line | {"response": "hm"} if line["prompt_id"] == "x" else line for line in lines()]
    assert [row["reward"] for row in score(tmp_path, half, "co_reward/paper")] == [0.0] * 16


def test_a_question_whose_twin_is_not_there_leaves_the_loss(tmp_path: Path) -> None:
    found = score(tmp_path, lines()[:8], "co_reward/paper")
    assert [row["reward"] for row in found] == [None] * 8
    assert [row["advantage"] for row in found] == [None] * 8


def test_a_prompt_without_a_pair_and_a_pair_of_three_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "responses.jsonl"
    file.write_text('{"prompt_id": "x", "response": "\\\\boxed{4}"}\n')
    result = CliRunner().invoke(app, ["score", "co_reward/paper", str(file)])
    assert result.exit_code != 0
    assert "'x' has no 'pair_id' in its metadata" in " ".join((result.output + str(result.exception)).split())
    with pytest.raises(ValueError, match="must be that of 2 prompts, got 3"):
        agreement(paired(["1"], ["2"], ["3"]))


def paired(*answers: list[str], references: tuple[str, ...] = ("4", "4", "4")) -> Rollouts:
    """One pair: each list is the answers to one of its prompts, `side` its number."""
    names = [str(side) for side, given in enumerate(answers) for _ in given]
    made = rollouts([3 + len(names[row]) for row in range(len(names))], names,
                    [f"\\boxed{{{answer}}}" if answer else "" for given in answers for answer in given])  # fmt: skip
    groups = tuple(
        Group(group.group_id, Prompt(group.group_id, (Message("user", "?"),), references[int(group.group_id)],
              metadata={"pair_id": 1, "side": group.group_id}), group.prompt_ids)
        for group in made.groups
    )  # fmt: skip
    return Rollouts(groups, made.group_index, made.response_ids, made.texts, made.finish_reasons, made.token_ids,
                    made.origins, made.logprobs, made.entropies, made.versions, made.char_ends)  # fmt: skip


def agreement(batch: Rollouts, **fields: Any) -> Scores:
    return VoteAgreement(**fields).score(batch, RewardContext())


def test_equal_answers_in_other_forms_count_as_one_only_where_asked() -> None:
    batch = paired(["1/2", "\\frac{1}{2}", "3", "3"], ["0.5", "\\frac12", "3", "7"])
    # Strings: label 3 (twice) for the twin, and 0.5 (the first of four that stand once) for the original.
    assert agreement(batch).values.tolist() == [0, 0, 0, 0, 0, 0, 1, 0]
    assert agreement(batch, same=MathGrader()).values.tolist() == [1, 1, 0, 0, 1, 1, 0, 0]


def test_what_is_logged_of_the_votes() -> None:
    found = agreement(paired(ORIGINAL, REWRITTEN), judge=NumberGrader()).metrics
    assert found["voting_accuracy"] == 0.5  # 4 is right, 5 is not
    # Fourteen answers: six 4s, seven 5s, one 6.
    entropy = -sum(n / 14 * math.log(n / 14) for n in (6, 7, 1))
    assert found["answer_entropy"] == pytest.approx(entropy, **TOLERANCE)
    assert (found["unlabelled"], found["without_twin"]) == (0.0, 0.0)
    constant = agreement(paired(["9", "9"], ["9", "9"]), judge=NumberGrader())
    assert constant.values.tolist() == [1.0] * 4  # the hack: paid in full, and wrong
    assert (constant.metrics["answer_entropy"], constant.metrics["voting_accuracy"]) == (0.0, 0.0)
    assert agreement(paired(["", ""], ["4", "4"])).metrics["unlabelled"] == 0.5


def test_advantages_of_an_all_zero_group_are_zero() -> None:
    found = GroupAdvantage().advantages(np.zeros(8), rollouts([2] * 8)).per_response()
    assert found.tolist() == [0.0] * 8


def test_the_loss_is_the_sum_of_the_two_sides_token_means() -> None:
    batch = paired(["4", "5"], ["5", "5", "4"])
    lengths = [5, 2, 1, 4, 3]
    plain = rollouts(lengths, [batch.groups[i].group_id for i in batch.group_index])
    batch = Rollouts(batch.groups, batch.group_index, batch.response_ids, plain.texts, plain.finish_reasons,
                     plain.token_ids, plain.origins, plain.logprobs, plain.entropies, plain.versions,
                     plain.char_ends)  # fmt: skip
    totals = numbers(1, 0, 1, math.nan, 0)
    advantages = SidesAdded(GroupAdvantage()).advantages(totals, batch)
    assert advantages.per_response()[:2] == pytest.approx(GroupAdvantage().advantages(totals, batch).per_response()[:2])
    kept = advantages.kept[batch.token_ids.row_ids]
    stream = np.random.default_rng(1)
    logprobs, old = (torch.tensor(-stream.random(int(kept.sum()))) for _ in range(2))
    values = torch.tensor(advantages.values.values[kept])
    assert advantages.weights is not None
    rows = np.unique(batch.token_ids.row_ids[kept], return_inverse=True)[1]
    outputs = ClippedObjective(aggregation="token", dual_clip=3.0)(
        LossInputs(logprobs, old, values, torch.tensor(advantages.weights.values[kept]), torch.tensor(rows), 4)
    )
    ratio = torch.exp(logprobs - old)
    surrogate = torch.minimum(ratio * values, ratio.clamp(0.8, 1.2) * values)
    surrogate = torch.where(values < 0, torch.maximum(surrogate, 3.0 * values), surrogate)
    sides = torch.tensor(batch.group_index[batch.token_ids.row_ids][kept])
    wanted = -surrogate[sides == 0].mean() - surrogate[sides == 1].mean()  # 7 tokens, and 1 + 3: the NaN is left out
    assert float(outputs.loss.total) / outputs.loss.count == pytest.approx(float(wanted), rel=1e-9)


def test_without_sides_the_weights_are_one_and_others_are_kept() -> None:
    found = SidesAdded(GroupAdvantage()).advantages(numbers(1, 0), rollouts([3, 2]))
    assert found.weights is not None
    assert found.weights.values.tolist() == [1.0] * 5


def test_entropy_as_a_reward(tmp_path: Path) -> None:
    given = [
        {"prompt_id": "x", "response": "ab", "tokens": ["a", "b"], "signals": {"entropies": entropies}}
        for entropies in ([0.5, 1.5], [0.0, 0.25])
    ]
    found = score(tmp_path, given, "co_reward/paper", "reward=low_entropy", "algorithm=grpo")
    assert [row["reward"] for row in found] == pytest.approx([-1.0, -0.125], **TOLERANCE)
