"""Selection and backup: bounds and means by hand, ties, and what unvisited children weigh."""

import math

import numpy as np
import pytest
from search_trees import node

from thinkrl.search.backup import back_up, mixed
from thinkrl.search.selection import UpperConfidence

RULE = UpperConfidence(exploration=0.5, unvisited=0.9)


def stream(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_the_best_bound_wins_though_another_was_never_visited() -> None:
    strong, new = node("strong", value=0.95, visits=4), node("new", value=0.1)
    parent = node("p", strong, new, visits=5)
    assert RULE.bound(0.95, 4, 5) == pytest.approx(0.95 + 0.5 * math.sqrt(2 * math.log(5) / 4))
    assert RULE.best_child(parent, stream()) is strong, "1.398 against 0.1 + 0.9"
    new.value = 0.55
    assert RULE.best_child(parent, stream()) is new, "0.55 + 0.9"


def test_more_exploration_turns_to_what_was_visited_less() -> None:
    often, seldom = node("often", value=0.8, visits=20), node("seldom", value=0.5, visits=1)
    parent = node("p", often, seldom, visits=21)
    assert UpperConfidence(exploration=0.0).best_child(parent, stream()) is often
    assert UpperConfidence(exploration=0.7).best_child(parent, stream()) is seldom


def test_ties_are_drawn_evenly_and_depend_on_the_stream_alone() -> None:
    children = [node(str(place), value=0.4) for place in range(3)]
    parent = node("p", *children)
    drawn = [RULE.best_child(parent, stream(seed)).text for seed in range(300)]
    assert drawn == [RULE.best_child(parent, stream(seed)).text for seed in range(300)]
    counts = np.asarray([drawn.count(str(place)) for place in range(3)])
    assert np.all(np.abs(counts - 100) < 35), counts  # four standard deviations
    children[1].value = 0.41
    assert {RULE.best_child(parent, stream(seed)).text for seed in range(20)} == {"1"}


def test_selection_goes_down_to_a_node_without_children() -> None:
    deep = node("deep", value=0.2)
    root = node("", node("a", deep, value=0.9, visits=1), node("b", value=0.1, visits=1), visits=2)
    assert RULE.select(root, stream()) is deep
    alone = node("")
    assert RULE.select(alone, stream()) is alone


def test_backup_weighs_by_visits_up_to_the_root() -> None:
    one, two, never = node("1", value=1.0, visits=3), node("2", value=0.0, visits=1), node("3", value=0.9)
    inner, other = node("i", one, two, never, value=0.3), node("o", value=0.25, visits=1)
    root = node("", inner, other, value=0.0, visits=1)
    back_up(inner)
    assert (inner.value, inner.visits) == (0.75, 1)
    assert (root.value, root.visits) == (0.5, 2)
    back_up(other)
    assert (other.value, other.visits) == (0.25, 2)
    assert root.value == pytest.approx((0.75 * 1 + 0.25 * 2) / 3)


def test_a_value_stays_where_no_child_was_visited() -> None:
    parent = node("p", node("c", value=math.nan), value=0.3)
    back_up(parent)
    assert (parent.value, parent.visits) == (0.3, 1)


def test_the_value_of_a_parent_lies_between_those_of_its_children() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        children = [node(str(i), value=float(rng.random()), visits=int(rng.integers(0, 4))) for i in range(4)]
        parent = node("p", *children, value=0.5)
        back_up(parent)
        seen = [child.value for child in children if child.visits] or [0.5]
        assert min(seen) - 1e-12 <= parent.value <= max(seen) + 1e-12


def test_mixing_runs_from_the_own_value_to_what_was_seen() -> None:
    assert mixed(0.6, 0.8, 0.0) == 0.6
    assert mixed(0.6, 0.8, 1.0) == 0.8


@pytest.mark.parametrize("field", ["exploration", "unvisited"])
def test_negative_bonuses_are_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} must be 0 or more, got -0.1"):
        UpperConfidence(**{field: -0.1})
