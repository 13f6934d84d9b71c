"""Small comparisons: the better answer is better by a check of its own, and judgements say why."""

import re

import pytest

from thinkrl.data.comparisons import JudgingPrompts
from thinkrl.data.source import DataError
from thinkrl.data.templates import PromptTemplate
from thinkrl.tasks.judging import JudgingTraces, SmallComparisons

SOURCE = SmallComparisons(size=200, seed=3)
PROMPTS = JudgingPrompts(SOURCE, PromptTemplate("{question}\nA {first}\nB {second}"))


def granted(wish: str, answer: str) -> int:
    return len(set(wish.removeprefix("have ")) & set(answer))


def test_the_chosen_answer_is_better() -> None:
    found = SOURCE.comparisons()
    assert [one.subset for one in found[:4]] == ["reasoning", "chat", "reasoning", "chat"]
    assert len({one.comparison_id for one in found}) == 200
    for one in found:
        ((better,), (worse,)) = one.chosen, one.rejected
        if one.subset == "reasoning":
            assert int(better) == eval(one.question)
            assert int(worse) != int(better)
        else:
            assert granted(one.question, better) > granted(one.question, worse)
            assert len(better) == len(worse) == 3


def test_the_same_seed_gives_the_same_and_held_out_questions_are_left_out() -> None:
    assert SOURCE.comparisons() == SmallComparisons(size=200, seed=3).comparisons()
    held_out = {one.question for one in SOURCE.comparisons()}
    other = SmallComparisons(size=300, seed=4, disjoint_from=SOURCE).comparisons()
    assert not held_out & {one.question for one in other}
    few = SmallComparisons(size=20, max_terms=2, disjoint_from=SmallComparisons(size=4000, max_terms=2))
    with pytest.raises(DataError, match="size is 20"):
        few.comparisons()


def test_judgements_are_true_of_what_they_judge() -> None:
    for trace in JudgingTraces(PROMPTS).traces():
        question, a, b = re.fullmatch(r"(.+)\nA (.+)\nB (.+)", trace.prompt.messages[0].content).groups()  # type: ignore[union-attr]
        found = re.fullmatch(
            r"<type>(\w+)</type><(solution|rubric)>(.+)</\2><eval>A (.+)\nB (.+)</eval><answer>\[\[([AB])\]\]</answer>",
            trace.response,
            re.DOTALL,
        )
        assert found is not None
        kind, own, lines, of_a, of_b, verdict = found.groups()
        assert verdict == trace.prompt.reference
        if kind == "Reasoning":
            assert own == "solution"
            assert all(eval(line.replace("=", "==")) for line in lines.split("\n"))
            assert lines.rpartition("=")[2] == str(eval(question))
            said = {text: text == str(eval(question)) for text in (a, b)}
            assert (of_a, of_b) == tuple(f"{text} {'yes' if said[text] else 'no'}" for text in (a, b))
            assert said[a] == (verdict == "A")
        else:
            assert (own, lines.split()) == ("rubric", list(question.removeprefix("have ")))
            counts = [int(side.rpartition(" ")[2]) for side in (of_a, of_b)]
            assert counts == [granted(question, a), granted(question, b)]
            assert (counts[0] > counts[1]) == (verdict == "A")


def test_other_styles_leave_out_what_comes_first() -> None:
    whole, short, bare = (
        [t.response for t in JudgingTraces(PROMPTS, style).traces()] for style in ("structured", "evaluate", "verdict")
    )
    for one, two, three in zip(whole, short, bare, strict=True):
        assert one.endswith(two)
        assert two.startswith("<eval>")
        assert two.endswith(three)
        assert re.fullmatch(r"<answer>\[\[[AB]\]\]</answer>", three)
