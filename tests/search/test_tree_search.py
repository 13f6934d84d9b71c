"""One round of the guided search after the other, by hand: what is asked for, what the values become, where it ends."""

from typing import Any

import numpy as np
import pytest
from search_trees import carry_out, node, tree

from thinkrl.search.steps import StepRule
from thinkrl.search.tree import Node, Tree
from thinkrl.search.tree_search import ValueGuidedSearch

RULE = StepRule(end_texts=("!",))


def grown(made: Tree, search: ValueGuidedSearch, steps: dict[str, list[str]], values: dict[str, float]) -> list[Any]:
    """One round, in which `steps` follow a beginning (in turn) and `values` are read (0.5 for others)."""
    told = {beginning: list(texts) for beginning, texts in steps.items()}

    def propose(one: Node, count: int) -> list[str]:
        texts = told.get(one.beginning, [])
        taken, told[one.beginning] = texts[:count], texts[count:]
        return taken

    plan = search.round(made, RULE, np.random.default_rng(0))
    found = carry_out(plan, propose, lambda beginning: values.get(beginning, 0.5))
    made.rounds += 1
    return list(found)


def test_the_first_round_expands_the_root_and_looks_ahead_from_the_best_step() -> None:
    made, search = tree(), ValueGuidedSearch(branches=3)
    asked = grown(made, search, {"": ["a", "b", "c"], "b": ["x"]}, {"a": 0.2, "b": 0.6, "c": 0.4, "bx": 0.8})
    assert asked == [("propose", [""]), ("judge", ["a", "b", "c"]), ("propose", ["b"]), ("judge", ["bx"])]
    a, b, c = made.root.children
    assert (b.value, b.visits) == pytest.approx((0.7, 1))
    assert [one.value for one in (a, c)] == [0.2, 0.4]
    assert made.root.value == pytest.approx(0.7)
    assert made.root.visits == 1
    assert not b.children, "what was said in the look ahead is forgotten"


def test_later_rounds_follow_the_bounds() -> None:
    made, search = tree(), ValueGuidedSearch(branches=2, forward=0, mixing=0.5)
    grown(made, search, {"": ["a", "b"]}, {"a": 0.3, "b": 0.6})
    # b: 0.6 + 0.5 sqrt(2 ln 1 / 1) = 0.6; a: 0.3 + 0.9
    asked = grown(made, search, {"a": ["c", "d"]}, {"ac": 0.1, "ad": 0.2})
    assert asked[0] == ("propose", ["a"])
    a = made.root.children[0]
    assert (a.value, a.visits) == pytest.approx((0.2, 1))
    assert made.root.value == pytest.approx((0.2 + 0.6) / 2)
    assert grown(made, search, {"b": ["e"]}, {})[0] == ("propose", ["b"]), "0.6 + ... against 0.2 + the same"


def test_a_look_ahead_of_several_steps_follows_the_best_and_stops_at_an_end() -> None:
    made, search = tree(), ValueGuidedSearch(branches=1, forward=5, look_branches=2)
    steps = {"": ["a"], "a": ["b", "c"], "ac": ["d!", "e"], "acd!": ["f"]}
    values = {"a": 0.4, "ab": 0.7, "ac": 0.9, "acd!": 0.5, "ace": 0.1}
    asked = grown(made, search, steps, values)
    assert [one for one in asked if one[0] == "propose"] == [("propose", [""]), ("propose", ["a"]), ("propose", ["ac"])]
    assert made.root.children[0].value == pytest.approx(0.5 * 0.4 + 0.5 * 0.9)


def test_a_look_ahead_that_finds_no_step_has_seen_nothing() -> None:
    made = tree()
    grown(made, ValueGuidedSearch(branches=1), {"": ["a"]}, {"a": 0.6})
    assert made.root.children[0].value == pytest.approx(0.3)


def test_a_step_that_ends_the_solution_is_worth_its_own_value() -> None:
    made = tree()
    asked = grown(made, ValueGuidedSearch(branches=2), {"": ["a!", "b."]}, {"a!": 0.7, "b.": 0.1})
    assert len(asked) == 2, "no look ahead"
    a, b = made.root.children
    assert (a.end, b.end) == ("finished", "finished"), "by its text, and by the policy"
    assert (a.value, a.visits) == pytest.approx((0.7, 1))


def test_equal_steps_count_once() -> None:
    made = tree()
    grown(made, ValueGuidedSearch(branches=4), {"": ["a", "b", "a", "a"]}, {"a": 0.9})
    assert [(one.text, one.times) for one in made.root.children] == [("a", 3), ("b", 1)]


def test_a_node_that_nothing_follows_is_an_end_and_is_passed_over_later() -> None:
    made, search = tree(), ValueGuidedSearch(branches=2)
    assert grown(made, search, {}, {}) == [("propose", [""])]
    assert (made.root.end, made.root.visits) == ("stuck", 1)
    assert grown(made, search, {"": ["a"]}, {}) == []
    assert (made.root.children, made.root.visits) == ([], 2)
    assert made.ends() == []


def test_depth_and_tokens_leave_no_room() -> None:
    deep = node("b", token_ids=(1,))
    made = tree(node("a", deep, token_ids=(1, 1), visits=1))
    made.root.visits = 1
    rule = StepRule(most_steps=2)
    assert (
        carry_out(ValueGuidedSearch().round(made, rule, np.random.default_rng(0)), lambda *_: [], lambda _: 0.5) == []
    )
    assert deep.end == "stuck"


@pytest.mark.parametrize("stop", [False, True])
def test_a_value_that_is_high_enough_ends_there(stop: bool) -> None:
    good = node("good", value=0.8)
    made = tree(good, node("bad", value=0.1, visits=1))
    made.root.visits = 1
    search = ValueGuidedSearch(stop_at_end=stop)
    assert grown(made, search, {"good": ["x"]}, {}) == []
    assert (good.end, good.children) == ("value", [])
    assert (made.found, search.over(made)) == (stop, stop)
    assert good.visits == (0 if stop else 1), "one that goes on elsewhere backs up"


def test_at_the_end_of_the_search_every_node_of_enough_value_is_an_end() -> None:
    made = tree(node("a", node("b", value=0.85), value=0.95), node("c", value=0.79), node("d", end="wrong", value=0.9))
    ValueGuidedSearch().close(made)
    assert [(end.text, end.end) for end in made.ends()] == [("b", "value"), ("d", "finished")]


def test_budgets_of_rounds_and_tokens() -> None:
    made = tree()
    search = ValueGuidedSearch(rounds=2, max_tokens=10)
    made.rounds, made.tokens = 1, 9
    assert not search.over(made)
    made.tokens = 10
    assert search.over(made)
    made.rounds, made.tokens = 2, 0
    assert search.over(made)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds": 0}, "rounds must be at least 1, got 0"),
        ({"max_tokens": 0}, "max_tokens must be at least 1, got 0"),
        ({"branches": 0}, "branches must be at least 1"),
        ({"look_branches": 0}, "look_branches must be at least 1"),
        ({"forward": -1}, "forward must be 0 or more, got -1"),
        ({"mixing": 1.5}, "mixing must be between 0 and 1, got 1.5"),
        ({"end_value": -0.1}, "end_value must be between 0 and 1"),
    ],
)
def test_searches_that_cannot_be_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ValueGuidedSearch(**changes)  # type: ignore[arg-type]
