"""Solutions of sums: right ones are right, wrong ones wrong and different, and hands are told apart by looks alone."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from thinkrl.data.judged import pairs_of
from thinkrl.data.source import DataError
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.rollouts.spans import read_response
from thinkrl.tasks.arithmetic import parse_sum, running_steps
from thinkrl.tasks.solutions import Hand, SumSolutions
from thinkrl.tasks.thinking_style import ThinkingStyle

SUMS = [
    f"{a} + {b} - {c}" + f" + {a}" * (n % 3)
    for n, (a, b, c) in enumerate([(3, 4, 9), (0, 8, 1), (7, 7, 2), (5, 0, 6)] * 10)
]


@dataclass(frozen=True)
class Sums:
    texts: Sequence[str] = tuple(SUMS)

    def prompts(self) -> Sequence[Prompt]:
        return [
            Prompt(f"p{n}", (Message("user", text),), str(running_steps(parse_sum(text))[-1].result))
            for n, text in enumerate(self.texts)
        ]


def answer(text: str) -> str:
    parts = read_response(text)
    assert parts.answer is not None
    return text[slice(*parts.answer)]


def test_right_solutions_are_right_and_nine_wrong_ones_are_wrong_and_differ() -> None:
    kinds = set()
    for prompt, one in zip(Sums().prompts(), SumSolutions(Sums()).comparisons(), strict=True):
        assert [answer(text) for text in one.chosen] == [prompt.reference]
        assert len(one.rejected) == len(set(one.rejected)) == 9
        assert prompt.reference not in [answer(text) for text in one.rejected]
        assert one.metadata["reference"] == prompt.reference
        for text in one.rejected:
            lines = text[len("<think>") : text.index("</think>")].split("\n")
            steps = [re.fullmatch(r"(-?\d+[-+]\d+)=(-?\d+)", line) for line in lines]
            true = [str(running_steps(parse_sum(step[1]))[0].result) == step[2] for step in steps if step]
            assert len(true) == len(lines)
            follows = answer(text) == lines[-1].rpartition("=")[2]
            kinds.add(("all true" if all(true) else "one slips", follows))
            assert true.count(False) <= 1  # a slip is carried on
    # Misread, turned and left out are true by themselves; a slip is not; one writer gives another answer.
    assert kinds == {("all true", True), ("one slips", True), ("all true", False)}


def test_the_hand_of_people_shows_in_right_solutions_alone() -> None:
    for share, subsets in ((0.0, {"models"}), (1.0, {"people"})):
        found = SumSolutions(Sums(), by_people=share).comparisons()
        assert {one.subset for one in found} == subsets
        assert all((" = " in one.chosen[0]) == (share == 1.0) for one in found)
        assert not any(" = " in text for one in found for text in one.rejected)
    some = SumSolutions(Sums(), by_people=0.5).comparisons()
    assert 0.2 < sum(one.subset == "people" for one in some) / len(some) < 0.8
    assert some == SumSolutions(Sums(), by_people=0.5).comparisons()
    assert some != SumSolutions(Sums(), by_people=0.5, seed=1).comparisons()


def test_judged_responses_are_a_pair_a_sum() -> None:
    source = SumSolutions(Sums(), by_people=0.5)
    judged = source.judged()
    assert [one.worth for one in judged] == [1.0, 0.0] * len(SUMS)
    distinct = SumSolutions(Sums(tuple(dict.fromkeys(SUMS)))).judged()
    assert pairs_of(distinct) == [(n, n + 1) for n in range(0, len(distinct), 2)]
    assert all(answer(one.response) == one.prompt.reference for one in judged if one.worth)


def test_a_hand_may_say_lines_again() -> None:
    hand = Hand(style=ThinkingStyle(recheck=1.0, most_rechecks=1))
    (one,) = SumSolutions(Sums(("3 + 4 - 9",)), hand=hand, wrong=1).comparisons()
    assert one.chosen == ("<think>3+4=7\nwait, 3+4=7\n7-9=-2\nwait, 7-9=-2</think><answer>-2</answer>",)


def test_sums_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(DataError, match="prompt p0 has 2 terms, where solutions need 3 or more"):
        SumSolutions(Sums(("3 + 4",))).comparisons()
    with pytest.raises(ValueError, match="wrong must be at least 1"):
        SumSolutions(Sums(), wrong=0)
    with pytest.raises(ValueError, match="by_people must be from 0 to 1"):
        SumSolutions(Sums(), by_people=1.5)
