"""What a judge's reply says: clearly a score, or nothing. Never a wrong score."""

import math
from pathlib import Path

import pytest

from thinkrl.data.source import DataError
from thinkrl.data.templates import PromptTemplate
from thinkrl.judges.judgement import Case, Reply
from thinkrl.judges.readings import Criterion, NumberInText, OptionProbability, Reading, Rubric, VerdictInText
from thinkrl.judges.scorers import Pairwise, Pointwise, pair


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("Score: 7", 7.0),
        ("Fine work.\n**Score:** 7/10", 7.0),
        ("**Score: 7.5**\nBecause it is good.", 7.5),
        ("score: 7 out of 10.", 7.0),
        ("Score:\n7", 7.0),
        ("Score: [[7]]", 7.0),
        ("Score: [[7]", None),
        ("Score: 0", 0.0),
        ("Score: 10", 10.0),
        ("Score: 7\nSo again: Score: 7.0", 7.0),
        ("Score: ７", 7.0),
        ("Score: 0/1", None),
        ("Score: 11", None),
        ("Score: -1", None),
        ("Score: **3 wrong steps**", None),
        ("Score: 3 wrong steps", None),
        ("Score: seven", None),
        ("Score: 7 or 8", None),
        ("Score: 7-8", None),
        ("Score: 1e1", None),
        ("Score: 10²", None),
        ("Score: 7,5", None),
        ("Score: nan", None),
        ("Score: 9\nScore: 2", None),
        ("The text says Score: 10.\nScore: 2", None),
        ("Subscore: 7", None),
        ("7", None),
        ("", None),
    ],
)
def test_number_behind_a_marker(text: str, score: float | None) -> None:
    found = NumberInText().read(Reply(text))
    assert found.score == score
    assert bool(found.note) == (score is None)


@pytest.mark.parametrize(("text", "score"), [("10", None), ("4", 4.0), ("4.5", None), ("**4**", 4.0), ("4 of 5", None)])
def test_a_reply_that_is_the_number_alone_on_a_scale_of_whole_numbers(text: str, score: float | None) -> None:
    assert NumberInText(1, 5, marker="", whole_numbers=True).read(Reply(text)).score == score


def test_the_last_marker_decides_where_asked() -> None:
    assert NumberInText(several="last").read(Reply("Score: 9\nScore: 2")).score == 2.0


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("<answer>[[A]]</answer>", 1.0),
        ("<answer>[[B]]</answer>", 0.0),
        ("[[C]]", 0.5),
        ("[[A]] is what it says, but [[B]]", None),
        ("[A]", None),
        ("[[ A ]]", None),
        ("A", None),
        ("", None),
    ],
)
def test_verdict_between_two(text: str, score: float | None) -> None:
    assert VerdictInText(tie="[[C]]").read(Reply(text)).score == score


def test_the_last_verdict_or_the_tail_decides_where_asked() -> None:
    assert VerdictInText(several="last").read(Reply("[[A]] no [[B]]")).score == 0.0
    assert VerdictInText(tail=6).read(Reply("[[A]] no [[B]]")).score == 0.0


def test_expected_worth_of_options() -> None:
    chances = {"1": 0.1, "2": 0.2, "3": 0.5}
    reading = OptionProbability({"1": 1.0, "2": 2.0, "3": 3.0})
    reply = Reply(options={option: math.log(p) for option, p in chances.items()})
    assert reading.read(reply).score == pytest.approx((0.1 + 0.4 + 1.5) / 0.8, rel=1e-12)
    assert reading.read(Reply()).score is None
    unlikely = Reply(options={"1": math.log(0.001)})
    assert reading.read(unlikely).score is None
    assert OptionProbability({"1": 1.0, "2": 2.0}, least_mass=0.0).read(unlikely).score == pytest.approx(1.0)


RUBRIC = Rubric({"clear": Criterion("Is it clear?", 1.0, 0, 10), "right": Criterion("Is it right?", 3.0, 1, 5)})


def test_rubric_is_the_weighted_mean_of_its_criteria() -> None:
    found = RUBRIC.read(Reply("clear: 5\n**right:** 4/5"))
    assert found.score == pytest.approx((1 * 0.5 + 3 * 0.75) / 4, rel=1e-12)
    assert found.parts == {"clear": 5.0, "right": 4.0}
    assert RUBRIC.fields()["criteria"] == "clear (0 to 10): Is it clear?\nright (1 to 5): Is it right?"


@pytest.mark.parametrize("text", ["clear: 5", "unclear: 5\nright: 4", "clear: 5\nright: 0", "clear: 5\nright: 4 or 5"])
def test_a_rubric_with_a_criterion_missing_has_no_score(text: str) -> None:
    found = RUBRIC.read(Reply(text))
    assert found.score is None
    assert found.note.startswith(("clear: ", "right: "))


PROMPT = PromptTemplate("{question}|{first}|{second}|{boundary}")
CASE = pair("c", "mine", "theirs", {"question": "q"})


def shown(order: str, seed: int, case: Case = CASE) -> list[list[str]]:
    calls = Pairwise(VerdictInText(), order).calls(case, PROMPT, seed)  # type: ignore[arg-type]
    return [call.messages[-1].content.split("|")[1:3] for call in calls]


def test_order_policies() -> None:
    assert shown("given", 0) == [["mine", "theirs"]]
    assert shown("both", 0) == [["mine", "theirs"], ["theirs", "mine"]]
    drawn = [shown("random", 0, pair(f"c{n}", "mine", "theirs", {"question": "q"}))[0][0] for n in range(400)]
    assert 160 < drawn.count("mine") < 240
    assert drawn == [shown("random", 0, pair(f"c{n}", "mine", "theirs", {"question": "q"}))[0][0] for n in range(400)]
    assert drawn != [shown("random", 1, pair(f"c{n}", "mine", "theirs", {"question": "q"}))[0][0] for n in range(400)]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("order", ["given", "random", "both"])
def test_a_judge_that_knows_gives_one_whatever_the_order(order: str, seed: int) -> None:
    scorer = Pairwise(VerdictInText(), order)  # type: ignore[arg-type]
    calls = scorer.calls(CASE, PROMPT, seed)
    replies = [Reply("[[A]]" if call.messages[-1].content.split("|")[1] == "mine" else "[[B]]") for call in calls]
    assert scorer.judgement(CASE, replies, seed).score == 1.0
    wrong = [Reply("[[B]]" if reply.text == "[[A]]" else "[[A]]") for reply in replies]
    assert scorer.judgement(CASE, wrong, seed).score == 0.0


def test_a_judge_that_always_says_the_first_is_worth_a_half_in_both_orders() -> None:
    scorer = Pairwise(VerdictInText())
    found = scorer.judgement(CASE, [Reply("[[A]]"), Reply("[[A]]")], 0)
    assert (found.score, found.parts["agree"]) == (0.5, 0.0)
    assert scorer.judgement(CASE, [Reply("[[A]]"), Reply("[[B]]")], 0).parts["agree"] == 1.0


def test_one_order_without_a_verdict_is_no_verdict() -> None:
    scorer = Pairwise(VerdictInText())
    assert scorer.judgement(CASE, [Reply("[[A]]"), Reply(fault="late")], 0).note == "late"
    assert scorer.judgement(CASE, [Reply("[[A]]"), Reply("[[B]]", cut=True)], 0).score is None
    outside: Reading = NumberInText()
    assert Pairwise(outside, "given").judgement(CASE, [Reply("Score: 7")], 0).score is None


def test_several_replies_are_averaged_over_those_that_can_be_read() -> None:
    scorer = Pointwise(NumberInText(), samples=3)
    case = Case("c", {"response": "r"})
    calls = scorer.calls(case, PromptTemplate("{response}"), 0)
    assert len({call.key for call in calls}) == 3
    assert scorer.judgement(case, [Reply("Score: 4"), Reply("?"), Reply("Score: 8")], 0).score == 6.0
    assert scorer.judgement(case, [Reply("?")] * 3, 0).score is None


def test_the_boundary_depends_on_every_text() -> None:
    def of(one: str, other: str) -> str:
        return (
            Pairwise(VerdictInText()).calls(pair("c", one, other, {"question": "q"}), PROMPT, 0)[0].messages[0].content
        )

    marks = {of("a", "b").rpartition("|")[2], of("a", "c").rpartition("|")[2], of("d", "b").rpartition("|")[2]}
    assert len(marks) == 3
    assert all(len(mark) == 12 for mark in marks)


def test_places_are_filled_once_and_doubled_braces_are_text() -> None:
    template = PromptTemplate('{a} {{a}} {"a": 1} {b}', system="be {a}")
    system, user = template.messages({"a": "{b}", "b": "B"})
    assert (system.content, user.content) == ("be {b}", '{b} {a} {"a": 1} B')


def test_a_place_that_nothing_fills_is_named_with_the_nearest() -> None:
    with pytest.raises(DataError, match=r"\{respnse\}, which nothing fills; did you mean response\?"):
        PromptTemplate("{respnse}").check(["response", "question"])
    with pytest.raises(DataError, match=r"must have the place \{second\}; it has first"):
        PromptTemplate("{first}").check(["first", "second"], ["first", "second"])


def test_a_prompt_file_is_read_anew(tmp_path: Path) -> None:
    file = tmp_path / "prompt.yaml"
    file.write_text("system: be fair\nuser: |\n  {response}\n")
    template = PromptTemplate(file=str(file))
    assert template.read().messages({"response": "x"})[1].content == "x\n"
    file.write_text("user: '{response}!'\n")
    assert [turn.content for turn in template.read().messages({"response": "x"})] == ["x!"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no prompt file"),
        ("[", "no readable YAML"),
        ("- a", "must hold a mapping"),
        ("system: x", "must hold a mapping with the text `user`"),
        ("user: x\nsistem: y", "has the key 'sistem'; did you mean system"),
        ("user: 3", "user must be a text, got int"),
    ],
)
def test_a_file_that_is_no_prompt(tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "prompt.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(DataError, match=message):
        PromptTemplate(file=str(file)).check(["response"])


def test_a_template_needs_one_text() -> None:
    for fields in ({}, {"user": "x", "file": "y"}, {"file": "y", "system": "z"}):
        with pytest.raises(ValueError, match="must"):
            PromptTemplate(**fields)
