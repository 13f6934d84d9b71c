"""Answers of trees, their ends without one, whole samples as trees, and which solutions are learned from."""

import math

import numpy as np
import pytest
from search_trees import by_text, carry_out, node, tree

from thinkrl.grading.extraction import AnswerExtractor
from thinkrl.search.answers import TraceSelection, chosen_end, finish
from thinkrl.search.measures import search_metrics
from thinkrl.search.method import Proposal
from thinkrl.search.sampled_solutions import SampledSolutions, grafted
from thinkrl.search.steps import StepRule
from thinkrl.search.tree import Tree

RULE = StepRule()


def voting() -> Tree:
    """7 twice with little value, 5 once with much, 6 once in the middle but seen four times."""
    return tree(
        node("a", end="right", answer="7", value=0.3),
        node("b", end="right", answer="7", value=0.25),
        node("c", end="wrong", answer="5", value=0.6),
        node("d", end="wrong", answer="6", value=0.14, times=4),
        node("e", end="silent", value=0.99),
    )


@pytest.mark.parametrize(("by", "answer"), [("best_value", "5"), ("weighted_vote", "5"), ("vote", "6")])
def test_rules_choose_among_ends_with_an_answer(by: str, answer: str) -> None:
    chosen = chosen_end(voting(), by)  # type: ignore[arg-type]
    assert chosen is not None
    assert chosen.answer == answer


def test_sums_of_values_can_beat_the_highest_and_ties_go_to_the_first() -> None:
    weak = [node(name, end="right", answer="7", value=0.3) for name in "bc"]
    made = tree(node("a", end="wrong", answer="5", value=0.5), *weak)
    assert by_text(made.root)["b"] is chosen_end(made, "weighted_vote")
    assert by_text(made.root)["a"] is chosen_end(made, "best_value")
    tied = tree(node("x", end="wrong"), node("y", end="right"))
    assert chosen_end(tied, "vote") is tied.root.children[0]


def test_a_tree_without_an_answer_has_none() -> None:
    for by in ("best_value", "weighted_vote", "vote"):
        assert chosen_end(tree(node("a", end="silent", value=0.9), node("b")), by) is None


def test_ends_that_have_no_answer_yet_are_finished() -> None:
    extract = AnswerExtractor().extract
    said = node("<answer>7</answer>")
    said.end = "finished"
    gate, stuck, quiet, far = node("gate"), node("stuck"), node("quiet"), node("far", token_ids=(1, 2, 3))
    gate.end, stuck.end, quiet.end, far.end = "value", "stuck", "finished", "value"
    made = tree(said, gate, stuck, quiet, far)
    rests = {"gate": iter(["no", "<answer>5</answer>"]), "stuck": iter(["<answer>6</answer>"])}
    plan = finish(made, StepRule(solution_tokens=3), extract, 5)
    asked = carry_out(plan, lambda one, count: [next(rests[one.text])], lambda _: 0.0)
    assert asked == [("propose", ["gate", "stuck"]), ("propose", ["gate"])]
    assert [one.answer for one in (said, gate, stuck, quiet, far)] == ["7", "5", "6", None, None]
    assert gate.solution == "gate<answer>5</answer>"


def test_tries_run_out_and_a_rest_that_cannot_be_used_is_none() -> None:
    gate = node("gate")
    gate.end = "value"
    made = tree(gate)
    asked = carry_out(finish(made, RULE, AnswerExtractor().extract, 3), lambda *_: [], lambda _: 0.0)
    assert len(asked) == 3
    assert (gate.answer, gate.rest) == (None, "")
    assert carry_out(finish(made, RULE, AnswerExtractor().extract, 0), lambda *_: ["x"], lambda _: 0.0) == []


def test_the_critics_filter() -> None:
    made = tree(
        node("long and good", end="right", value=0.2),
        node("good", end="right", value=0.9),
        node("poor", end="right", value=0.19),
        node("wrong", end="wrong", value=0.95),
    )
    kept = [end.text for end in TraceSelection(minimum_characters=4).choose(made)]
    assert kept == ["good", "long and good"], "the highest value first"
    assert [end.text for end in TraceSelection(minimum_characters=5).choose(made)] == ["long and good"]
    assert [end.text for end in TraceSelection(minimum_value=None).choose(made)] == ["good", "long and good", "poor"]
    assert [end.text for end in TraceSelection(per_tree=1).choose(made)] == ["good"]


def test_equal_solutions_are_learned_from_once() -> None:
    made = tree(node("a\n", node("b", end="right", value=0.5)), node("a", node("\nb ", end="right", value=0.7)))
    assert [end.value for end in TraceSelection().choose(made)] == [0.7]


def whole(*texts: str) -> list[Proposal]:
    return [Proposal(text, (1,), not text.endswith("~"), text.endswith("~")) for text in texts]


def test_samples_with_equal_beginnings_share_them() -> None:
    made = tree()
    for proposal in whole("a\nb\n<answer>7</answer>", "a\nc\n<answer>5</answer>", "a\nb\n<answer>7</answer>", "a\nb~"):
        grafted(made.root, proposal, RULE)
    found = {one.beginning: one for one in made.root.walk()}
    assert found["a\n"].times == 4
    assert found["a\nb\n"].times == 2
    end = found["a\nb\n<answer>7</answer>"]
    assert (end.times, end.visits, end.end) == (2, 2, "finished")
    assert found["a\nb~"].end == "long", "cut"
    assert made.root.visits == 4
    assert len(made.ends()) == 3


def test_a_cut_solution_that_says_its_answer_is_finished() -> None:
    made = tree()
    assert grafted(made.root, whole("<answer>7</answer>~")[0], RULE).end == "finished"


def test_rounds_of_samples_read_each_new_end_once() -> None:
    made, search = tree(), SampledSolutions(samples=3, rounds=2)
    asked = carry_out(search.round(made, RULE, np.random.default_rng(0)), lambda *_: ["a.", "b.", "a."], lambda _: 0.7)
    assert asked == [("propose", [""]), ("judge", ["a.", "b."])]
    asked = carry_out(search.round(made, RULE, np.random.default_rng(0)), lambda *_: ["a.", "c."], lambda _: 0.2)
    assert asked[1] == ("judge", ["c."])
    assert [(end.text, end.times, end.value) for end in made.ends()] == [("a.", 3, 0.7), ("b.", 1, 0.7), ("c.", 1, 0.2)]
    assert carry_out(search.round(made, RULE, np.random.default_rng(0)), lambda *_: [], lambda _: 0.2) == [asked[0]]
    with pytest.raises(ValueError, match="samples must be at least 1"):
        SampledSolutions(samples=0)


def test_metrics_count_questions_without_an_answer_apart() -> None:
    right, wrong = tree(node("a", end="right", value=0.9)), tree(node("b", end="wrong", value=0.3))
    silent, unread = tree(node("c", end="silent")), tree(node("d", end="unread"))
    trees = [right, wrong, silent, unread]
    right.tokens, right.proposals, right.dropped = 30, 10, 1
    row = search_metrics(trees, [[right.root.children[0]], [], [], []], [[right.root.children[0]], [], [], []], "vote")
    assert row["accuracy"] == 0.5, "of those that have a verdict"
    assert row["solved"] == pytest.approx(1 / 3), "of all that can be judged"
    assert (row["no_answer"], row["ungradable"], row["asked_prompts"]) == (1.0, 1.0, 4.0)
    assert (row["found"], row["ends/unanswered"], row["sampled_tokens"]) == (0.25, 0.25, 30.0)
    assert (row["ends/value_right"], row["ends/value_wrong"]) == (0.9, 0.3)
    assert (row["proposals"], row["proposals_dropped"]) == (2.5, 0.1)
    assert (row["yield/traces"], row["yield/values"], row["yield/questions"]) == (1.0, 1.0, 1.0)


def test_a_batch_that_found_nothing_has_no_accuracy_and_solved_nothing() -> None:
    row = search_metrics([tree(), tree()], [[], []], [[], []], "best_value")
    assert math.isnan(row["accuracy"])
    assert (row["solved"], row["no_answer"], row["found"]) == (0.0, 2.0, 0.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"minimum_value": 1.1}, "minimum_value must be between 0 and 1"),
        ({"per_tree": 0}, "per_tree must be at least 1"),
        ({"minimum_characters": 0}, "minimum_characters must be at least 1"),
    ],
)
def test_selections_that_cannot_be_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TraceSelection(**changes)  # type: ignore[arg-type]
