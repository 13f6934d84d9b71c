"""Targets of steps against a second implementation, the card's pseudocode, and properties on many drawn trees."""

import numpy as np
import pytest
from search_trees import by_text, node, tree

from thinkrl.grading.verdict import Verdict
from thinkrl.search.tree import Node, Tree
from thinkrl.search.value_targets import ValueTargets


def drawn(rng: np.random.Generator, depth: int = 5) -> Tree:
    """A tree of which some ends are right, wrong, silent, unread, and some leaves are no ends at all."""
    count = iter(range(10**6))

    def below(left: int) -> Node:
        name = f"n{next(count)}"
        if left == 0 or rng.random() < 0.25:
            mark = str(rng.choice(["right", "wrong", "wrong", "silent", "unread", "late", ""]))
            return node(name, end=mark, value=float(rng.random()))
        return node(name, *[below(left - 1) for _ in range(int(rng.integers(1, 4)))])

    return tree(*[below(depth - 1) for _ in range(int(rng.integers(1, 4)))])


def from_the_card(root: Node, ends: list[Node]) -> dict[Node, float]:
    """The card's pseudocode, read literally: 1024 stands for what is not known."""
    unknown = 1024
    distance = dict.fromkeys(root.walk(), unknown)
    marked: set[Node] = set()
    right = [end for end in ends if end.verdict is Verdict.CORRECT]
    for end in right:
        distance[end] = 1
    for end in right:
        marked.add(end)
        above = end.parent
        while above is not None:
            distance[above] = min(distance[child] for child in above.children) + 1
            marked.add(above)
            above = above.parent
    for end in ends:
        if distance[end] > 1:
            ancestor = end.parent
            while ancestor is not None and distance[ancestor] == unknown:
                ancestor = ancestor.parent
            if ancestor is not None:
                here: Node | None = end
                while here is not None and distance[here] == unknown:
                    distance[here], here = distance[ancestor], here.parent
    values: dict[Node, float] = {}

    def down(above: Node, value: float) -> None:
        for child in above.children:
            if distance[child] < unknown:
                sign = 1 if child in marked else -1
                values[child] = max(0.0, value + (1 - value) * sign / distance[child])
                down(child, values[child])

    if right:
        down(root, 0.0)
    return values


def test_targets_are_those_of_the_cards_pseudocode() -> None:
    rng, some = np.random.default_rng(0), 0
    for _ in range(200):
        made = drawn(rng)
        judged = [end for end in made.ends() if end.verdict not in (Verdict.UNGRADABLE, Verdict.TIMEOUT)]
        expected = from_the_card(made.root, judged)
        found = ValueTargets().infer(made)
        assert {one: one.target for one in found} == pytest.approx(expected)
        assert [one for one in made.root.walk() if one.target is not None] == found
        some += bool(found)
    assert some > 100


def test_properties_on_many_trees() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        made = drawn(rng)
        for one in ValueTargets().infer(made):
            assert one.target is not None
            assert one.parent is not None
            assert 0.0 <= one.target <= 1.0
            right = [end for end in one.walk() if end.verdict is Verdict.CORRECT and not end.children]
            assert one.right == bool(right)
            before = one.parent.target or 0.0
            assert one.target > before if one.right else one.target <= before, "nearer, or further away"
            if one.right:
                assert one.distance == 1 + min(end.depth - one.depth for end in right)
            if one.verdict is Verdict.CORRECT:
                assert one.target == pytest.approx(1.0), "a right end is worth 1, whatever led to it"


def test_without_a_right_end_nothing_is_known() -> None:
    made = tree(node("a", node("b", end="wrong")), node("c", end="silent"))
    for kind in ("distance", "reach", "route"):
        assert ValueTargets(kind).infer(made) == []
    assert all(one.target is None and one.distance is None for one in made.root.walk())


def test_an_end_without_an_answer_is_not_right_and_one_that_nobody_could_judge_says_nothing() -> None:
    made = tree(
        node("ok", end="right"), node("silent", end="silent"), node("late", end="late"), node("x", end="unread")
    )
    ValueTargets().infer(made)
    found = by_text(made.root)
    assert (found["ok"].target, found["silent"].target) == (1.0, 0.0)
    assert found["late"].target is None
    assert found["x"].target is None


def test_a_second_look_forgets_the_first() -> None:
    made = tree(node("a", node("b", end="right")), node("c", end="wrong"))
    ValueTargets().infer(made)
    found = by_text(made.root)
    found["b"].verdict = Verdict.WRONG
    found["c"].verdict = Verdict.CORRECT
    ValueTargets().infer(made)
    assert [found[name].target for name in "abc"] == [0.0, 0.0, 1.0]
    assert not found["b"].right


def test_reach_is_whether_a_right_end_lies_behind() -> None:
    rng = np.random.default_rng(2)
    for _ in range(50):
        made = drawn(rng)
        values = [(one, one.target) for one in ValueTargets().infer(made)]
        reached = ValueTargets("reach").infer(made)
        assert [one for one, _ in values] == reached, "the same steps have one"
        assert all(one.target == float(one.right) for one in reached)


def test_the_route_is_that_of_the_best_right_end() -> None:
    made = tree(
        node("a", node("a1", end="right", value=0.4)),
        node("b", node("b1", node("b2", end="right", value=0.9), node("x", end="wrong")), node("y")),
    )
    ValueTargets("route").infer(made)
    targets = {name: one.target for name, one in by_text(made.root).items() if one.target is not None}
    expected = {"a": 0.0, "b": 1 / 3, "b1": 2 / 3, "b2": 1.0, "x": 1 / 3, "y": 0.0}
    assert targets == pytest.approx(expected)
