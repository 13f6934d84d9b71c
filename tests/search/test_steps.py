"""Steps: where they end, what ends a solution, and which are not used."""

import pytest
from search_trees import node

from thinkrl.search.steps import StepRule

RULE = StepRule()


@pytest.mark.parametrize(
    ("solution", "steps"),
    [
        ("a\nb\nc", ["a\n", "b\n", "c"]),
        ("a\n\n\nb\n", ["a\n\n\n", "b\n"]),
        ("\na\n", ["\n", "a\n"]),
        ("a", ["a"]),
        ("", []),
        ("a\n  \nb", ["a\n  \n", "b"]),
    ],
)
def test_steps_say_the_solution_one_after_the_other(solution: str, steps: list[str]) -> None:
    assert RULE.split(solution) == steps
    assert "".join(RULE.split(solution)) == solution


@pytest.mark.parametrize("lines", [2, 3, 4, 9])
def test_a_solution_has_no_more_steps_than_a_tree_is_deep(lines: int) -> None:
    solution = "".join(f"{line}\n" for line in range(lines))
    steps = StepRule(most_steps=3).split(solution)
    assert len(steps) == min(lines, 3)
    assert "".join(steps) == solution


def test_what_ends_a_solution() -> None:
    assert RULE.ended("x</think><answer>7</answer>")
    assert RULE.ended("so \\boxed{7}")
    assert RULE.ended("The answer is 7")
    assert not RULE.ended("<answer>7")
    assert not StepRule(end_texts=()).ended("\\boxed{7}")


def test_what_is_said_again_or_too_short_is_not_used() -> None:
    assert RULE.usable("3+4=7\n", "1+2=3\n")
    assert not RULE.usable(" 3+4=7 \n", "1+2=3\n3+4=7\n")
    assert not RULE.usable(" \n", "")
    assert not StepRule(minimum_characters=4).usable("ab\n", "")
    assert not RULE.usable("2=3\n", "1+2=3\n"), "a part of what was said counts as said: the paper's plain test"


def test_room_for_a_step() -> None:
    rule = StepRule(most_steps=2, solution_tokens=3)
    last = node("b", token_ids=(1,))
    first = node("a", last, token_ids=(1, 2))
    node("", first)
    assert rule.has_room(first)
    assert not rule.has_room(last), "two steps, and three tokens"
    last.token_ids = ()
    assert not rule.has_room(last), "two steps"
    assert not StepRule(solution_tokens=2).has_room(first)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"delimiter": ""}, "delimiter must not be empty"),
        ({"end_texts": ("a", "")}, "end_texts must hold no empty text"),
        ({"tries": 0}, "tries must be at least 1, got 0"),
        ({"minimum_characters": 0}, "minimum_characters must be at least 1"),
        ({"solution_tokens": 0}, "solution_tokens must be at least 1"),
        ({"most_steps": 0}, "most_steps must be at least 1"),
        ({"most_steps": 101}, "most_steps must be at most 100, got 101"),
    ],
)
def test_rules_that_cannot_be_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StepRule(**changes)  # type: ignore[arg-type]
