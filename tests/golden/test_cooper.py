"""Cooper (arXiv 2508.05613): rewards, advantages, the loss on pairs, who is paired with what, and labels that agree."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from score_file import TOLERANCE, numbers, rollouts, score

from thinkrl.algorithms.score_loss import ScoreLoss
from thinkrl.companions.pair_update import OpenPairUpdate, PairUpdate
from thinkrl.companions.rewriting import CarriedSlip, Original
from thinkrl.data.judged import FileJudged, JudgedText
from thinkrl.data.source import DataError
from thinkrl.grading.extraction import AnswerExtractor
from thinkrl.grading.number import NumberGrader
from thinkrl.grading.verdict import Verdict
from thinkrl.rewards.second_opinion import AgreedVerdict
from thinkrl.rewards.term import RewardContext, Scores
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.tasks.arithmetic import parse_sum, running_steps

LOGITS = [2.0, 0.5, -1.0, -3.0]


def group(*answers: str) -> list[dict[str, Any]]:
    """Four responses with the card's logits; the answers stand where either recipe looks for them."""
    return [
        {
            "prompt_id": "p",
            "prompt": "3+4",
            "reference": "7",
            "response": f"<think>3+4={answer}</think><answer>{answer}</answer>\n#### {answer}",
            "signals": {"model_score": logit},
        }
        for answer, logit in zip(answers or ("7",) * 4, LOGITS, strict=True)
    ]


@pytest.mark.parametrize("recipe", ["cooper", "cooper/paper"])
def test_the_probability_is_the_reward_whatever_the_rule_says(tmp_path: Path, recipe: str) -> None:
    for answers, verdicts in (("7", "7", "7", "7"), ["correct"] * 4), (("8", "7", "8", "7"), ["wrong", "correct"] * 2):
        found = score(tmp_path, group(*answers), recipe)
        assert [row["reward"] for row in found] == pytest.approx(
            [0.88079708, 0.62245933, 0.26894142, 0.04742587], **TOLERANCE
        )
        assert [row["advantage"] for row in found] == pytest.approx(
            [1.15192357, 0.45318790, -0.50298508, -1.10212639], **TOLERANCE
        )
        assert [row["verdict"] for row in found] == verdicts


def test_rewards_of_1_and_0(tmp_path: Path) -> None:
    found = score(tmp_path, group(), "cooper/paper", "reward.terms.score.term.squash=verdict")
    assert [row["reward"] for row in found] == [1, 1, 0, 0]
    assert [row["advantage"] for row in found] == pytest.approx([0.8660239] * 2 + [-0.8660239] * 2, **TOLERANCE)


def test_the_rule_alone_is_an_arm(tmp_path: Path) -> None:
    changes = ("reward.terms.correctness.weight=1", "reward.terms.score.weight=0")
    assert [row["reward"] for row in score(tmp_path, group("7", "8", "8", "7"), "cooper", *changes)] == [1, 0, 0, 1]


def test_the_loss_of_pairs_that_are_left() -> None:
    """Margins 1.5, -0.5 and 2.0, of which the second pair is masked; the script adds 1e-6 to the count."""
    scores = torch.tensor([1.5, 0.0, 2.0, 0.0], dtype=torch.float64)
    losses = ScoreLoss("bradley_terry").losses(scores, torch.tensor([1.0, 0.0, 1.0, 0.0]))
    assert losses.tolist() == pytest.approx([0.20141328, 0.12692801], **TOLERANCE)
    assert float(losses.mean()) == pytest.approx(0.16417056, **TOLERANCE)


def test_what_is_long_keeps_its_ends() -> None:
    reads = JudgedText(template="{reference}|{response}", keep_ends=(500, 1000))

    class Characters:
        def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
            return {"input_ids": [ord(letter) for letter in text]}

    class Renderer:
        tokenizer = Characters()

    def read(response: str, reference: Any = "r") -> str:
        prompt = Prompt("p", (Message("user", "q"),), reference)
        ids = reads.token_ids(prompt, response, Renderer())  # type: ignore[arg-type]
        assert ids is not None
        return (
            "".join(map(chr, ids)).partition("|")[2] if reference == "r" else "".join(map(chr, ids)).partition("|")[0]
        )

    long = "a" * 500 + "b" * 500 + "c" * 1000
    assert read(long) == "a" * 500 + "c" * 1000
    assert read("d" * 1500) == "d" * 1500
    assert read("d" * 1500 + "e") == "d" * 500 + "d" * 999 + "e"
    assert read("x", long) == "a" * 500 + "c" * 1000
    assert read("x", 7) == "7"
    with pytest.raises(ValueError, match="keep_ends must be 0 or more"):
        JudgedText(keep_ends=(-1, 5))


class Written:
    """An assistant that says what it is told, attempt by attempt; it notes whom it was asked about."""

    def __init__(self, *attempts: Sequence[str | None]) -> None:
        self.attempts = attempts
        self.asked: list[list[str]] = []

    def check(self) -> None:
        return

    def open(self, start: Any) -> "Written":
        return self

    def rewrite(self, originals: Sequence[Original], attempt: int) -> list[str | None]:
        self.asked.append([one.original_id for one in originals])
        return list(self.attempts[attempt - 1])


BOX = AnswerExtractor(sources=("boxed", "hashes", "last_number"))
RIGHT, WRONG = Verdict.CORRECT, Verdict.WRONG


class Model:
    """Nothing but a tokenizer: pairs are found without scores."""

    class model:
        class tokenizer:
            chat_template = "x"


def found(writer: Written, verdicts: Sequence[Verdict | None], texts: list[str], groups: list[str]) -> list[Any]:
    nothing: Any = Model
    config = PairUpdate(rewriting=writer, grader=NumberGrader(), extractor=BOX)
    update = OpenPairUpdate(config, writer, nothing, JudgedText())
    batch = rollouts([1] * len(texts), groups, texts)
    return [(one.original_id, wrong) for one, wrong in update.pairs(batch, verdicts)]


def test_the_first_right_response_of_each_prompt_is_paired_and_no_other() -> None:
    writer = Written(["#### 8", "#### 9"])
    texts = ["#### 6", "#### 7", "#### 7", "#### 7", "#### 1", "#### 2"]
    pairs = found(writer, [WRONG, RIGHT, RIGHT, RIGHT, None, Verdict.TIMEOUT], texts, ["a", "a", "a", "b", "c", "c"])
    assert pairs == [("r1", "#### 8"), ("r3", "#### 9")]
    assert writer.asked == [["r1", "r3"]]


def test_a_rewriting_that_is_not_wrong_is_asked_for_again_three_times_in_all() -> None:
    writer = Written(["#### 7", None], [r"\boxed{7.0}", "#### 8"], ["it is 14/2"])
    assert found(writer, [RIGHT, RIGHT], ["#### 7", "#### 7"], ["a", "b"]) == [("r1", "#### 8")]
    assert writer.asked == [["r0", "r1"], ["r0", "r1"], ["r0"]]
    assert found(Written([]), [WRONG], ["#### 7"], ["a"]) == []


def test_a_rewriting_without_an_answer_is_wrong_and_a_response_without_one_is_not_paired() -> None:
    assert found(Written(["I do not know"]), [RIGHT], ["#### 7"], ["a"]) == [("r0", "I do not know")]
    assert found(Written(["#### 8"], ["#### 8"], ["#### 8"]), [RIGHT], ["none"], ["a"]) == []


def test_answers_behind_hashes() -> None:
    extract = AnswerExtractor(sources=("hashes",)).extract
    assert extract("so it is 4\n#### 1,234\nDone 5") == "1,234"
    assert extract("#### 3\nno\n#### 4") == "4"
    assert extract("#### ") is None
    assert extract("4") is None


SUM = "<think>3+4=7\nwait, 3+4=7\n7-9=-2\n-2+5=3</think><answer>3</answer>"


def test_a_slip_is_carried_on_and_the_rest_stays() -> None:
    """Whatever slips, the text keeps its form, later steps go on from it, and the answer is another."""
    writer = CarriedSlip().open(_start())
    slipped = set()
    for attempt in range(1, 200):
        (text,) = writer.rewrite([Original("r", Prompt("p", ()), SUM)], attempt)
        assert text is not None
        lines = text[len("<think>") : text.index("</think>")].split("\n")
        assert lines[1] == f"wait, {lines[0]}"
        answer = int(text[text.index("<answer>") + 8 : text.index("</answer>")])
        assert 1 <= abs(answer - 3) <= 9
        results = [int(line.rpartition("=")[2]) for line in (lines[0], lines[2], lines[3])]
        off = [result - right for result, right in zip(results, (7, -2, 3), strict=True)]
        first = next((place for place, moved in enumerate(off) if moved), 3)
        assert off == [0] * first + [answer - 3] * (3 - first)  # the answer alone moves where no step does
        # Every step but the one that slips is true by itself.
        for place, line in enumerate((lines[0], lines[2], lines[3])):
            (step,) = running_steps(parse_sum(line.rpartition("=")[0]))
            assert (step.result == results[place]) == (place != first)
        slipped.add(first)
    assert slipped == {0, 1, 2, 3}


def test_a_text_without_steps_has_its_answer_moved_and_one_without_a_number_is_not_rewritten() -> None:
    writer = CarriedSlip(most_off=1).open(_start())
    plain = [Original(name, Prompt("p", ()), f"<answer>{name}</answer>") for name in ("10", "-1", "x", "1/2")]
    ten, minus, *none = writer.rewrite(plain, 1)
    assert ten in ("<answer>9</answer>", "<answer>11</answer>")
    assert minus in ("<answer>0</answer>", "<answer>-2</answer>")
    assert none == [None, None]
    assert writer.rewrite(plain, 1)[:2] == [ten, minus]  # the same attempt is the same text
    assert len({writer.rewrite(plain[:1], attempt)[0] for attempt in range(20)}) == 2
    for bad, message in (
        ({"most_off": 0}, "most_off must be at least 1"),
        ({"line": "x"}, "line must have four groups"),
    ):
        with pytest.raises(ValueError, match=message):
            CarriedSlip(**bad)


def _start() -> Any:
    class Start:
        seed = 0

    return Start()


@pytest.mark.parametrize(
    ("verdict", "second", "value", "agreed"),
    [
        (RIGHT, 1.0, 1.0, RIGHT),
        (RIGHT, 0.5, 1.0, RIGHT),
        (RIGHT, 0.49, np.nan, Verdict.UNGRADABLE),
        (WRONG, 0.49, 0.0, WRONG),
        (WRONG, 1.0, np.nan, Verdict.UNGRADABLE),
        (RIGHT, np.nan, np.nan, Verdict.UNGRADABLE),
        (Verdict.TIMEOUT, 1.0, np.nan, Verdict.UNGRADABLE),
        (Verdict.UNGRADABLE, 0.0, np.nan, Verdict.UNGRADABLE),
    ],
)
def test_labels_are_what_rule_and_second_opinion_agree_on(
    verdict: Verdict, second: float, value: float, agreed: Verdict
) -> None:
    context = RewardContext(scores={"rule": Scores(numbers(1.0), (verdict,)), "judge": Scores(numbers(second))})
    found = AgreedVerdict("rule", "judge").score(rollouts([1]), context)
    assert found.values.tolist() == pytest.approx([value], nan_ok=True)
    assert found.verdicts == (agreed,)


def test_a_rule_without_verdicts_cannot_agree() -> None:
    context = RewardContext(scores={"rule": Scores(numbers(1.0)), "judge": Scores(numbers(1.0))})
    with pytest.raises(ValueError, match="rule must be a term that gives a verdict"):
        AgreedVerdict("rule", "judge").score(rollouts([1]), context)


def test_the_laptop_labels_what_answer_and_working_agree_on(tmp_path: Path) -> None:
    texts = {
        "<think>3+4=7</think><answer>7</answer>": "correct",
        "<think>3+4=8</think><answer>8</answer>": "wrong",
        "<think>3+5=8\n8-1=7</think><answer>7</answer>": "ungradable",  # by steps that the question does not have
        "<think>3+4=8</think><answer>7</answer>": "ungradable",
        "<think>3+4": "wrong",
    }
    lines = [{"prompt_id": "p", "prompt": "3+4", "reference": "7", "response": text} for text in texts]
    rows = score(tmp_path, lines, "cooper", "--stage", "answers")
    assert {text: row["verdict"] for text, row in zip(texts, rows, strict=True)} == texts


def test_rows_of_a_file_with_two_labels_count_where_both_agree(tmp_path: Path) -> None:
    labels = [(1, 1), (1, 0), (0, 0), (0, 1), (True, 0.9)]
    path = tmp_path / "judged.jsonl"

    def write(*pairs: tuple[Any, Any]) -> None:
        rows = [
            {"prompt": "q", "completion": f"c{n}", "reference": "7", "rule": a, "judge": b}
            for n, (a, b) in enumerate(pairs)
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    write(*labels)
    source = FileJudged(str(path), worth="rule", second="judge")
    assert [(one.response, one.worth) for one in source.judged()] == [("c0", 1.0), ("c2", 0.0), ("c4", 1.0)]
    write((1, 0))
    with pytest.raises(DataError, match="no row on which 'rule' and 'judge' agree"):
        source.judged()
    write((1, None))
    with pytest.raises(DataError, match="row 0 must have a number from 0 to 1 or a truth value in 'judge'"):
        source.judged()
    with pytest.raises(ValueError, match="second must be empty where pairs are read"):
        FileJudged(str(path), worse="rejected", second="judge")
