"""ReST-MCTS* (arXiv 2406.03816): the values that the released code gives for trees, bounds, mixtures and backups."""

from collections.abc import Mapping

import numpy as np
import pytest
from score_file import TOLERANCE

from thinkrl.config.build import build
from thinkrl.config.compose import compose
from thinkrl.grading.verdict import Verdict
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.search.answers import TraceSelection, chosen_end
from thinkrl.search.backup import back_up, mixed
from thinkrl.search.sampled_solutions import SampledSolutions
from thinkrl.search.selection import UpperConfidence
from thinkrl.search.tree import Node, Tree
from thinkrl.search.tree_search import ValueGuidedSearch
from thinkrl.search.value_targets import ValueTargets
from thinkrl.stages.experiment import Experiment
from thinkrl.stages.reward_model import TrainRewardModel
from thinkrl.stages.search import Search
from thinkrl.stages.sft import SFT

PLAN = {
    "A": ("root", None), "A1": ("A", None), "OK": ("A1", Verdict.CORRECT), "A2": ("A", None), "x": ("A2", None),
    "BAD": ("x", Verdict.WRONG), "B": ("root", None), "BADB": ("B", Verdict.WRONG), "C": ("root", None),
}  # fmt: skip


def grown(plan: Mapping[str, tuple[str, Verdict | None]]) -> tuple[Tree, dict[str, Node]]:
    """A tree by the parent and the verdict of each node, of which the last makes it an end."""
    nodes = {"root": Node(value=0.0)}
    for name, (parent, verdict) in plan.items():
        nodes[name] = Node(name, value=0.9, parent=nodes[parent], verdict=verdict, end="finished" if verdict else "")
        nodes[name].answer = "7" if verdict else None
        nodes[parent].children.append(nodes[name])
    return Tree(Prompt("q", (Message("user", "?"),), "7"), nodes["root"]), nodes


def test_targets_of_the_cards_tree() -> None:
    tree, nodes = grown(PLAN)
    found = {node.text: node.target for node in ValueTargets().infer(tree)}
    assert found == pytest.approx(
        {"A": 0.33333333, "A1": 0.66666667, "OK": 1, "A2": 0.11111111, "x": 0, "BAD": 0, "B": 0, "BADB": 0}, **TOLERANCE
    )
    assert nodes["C"].target is None
    distances = {name: node.distance for name, node in nodes.items() if node.distance is not None}
    assert distances == {"root": 4, "A": 3, "A1": 2, "OK": 1, "A2": 3, "x": 3, "BAD": 3, "B": 4, "BADB": 4}
    assert all(node.value == (0.0 if name == "root" else 0.9) for name, node in nodes.items()), "targets stand apart"


def test_an_all_correct_chain_rises_evenly() -> None:
    chain = {"1": ("root", None), "2": ("1", None), "3": ("2", None), "4": ("3", Verdict.CORRECT)}
    tree, _ = grown(chain)
    assert [node.target for node in ValueTargets().infer(tree)] == pytest.approx([0.25, 0.5, 0.75, 1.0], **TOLERANCE)


def test_the_simple_variant() -> None:
    plan = {
        "1": ("root", None), "2": ("1", None), "3": ("2", Verdict.CORRECT), "1b": ("root", None), "2b": ("1", None)
    }  # fmt: skip
    tree, _ = grown(plan)
    found = {node.text: node.target for node in ValueTargets("route").infer(tree)}
    assert found == pytest.approx({"3": 1.0, "2": 0.66666667, "1": 0.33333333, "2b": 0.0, "1b": 0.0}, **TOLERANCE)


def test_hard_estimates() -> None:
    tree, _ = grown(PLAN)
    found = {node.text: node.target for node in ValueTargets("reach").infer(tree)}
    assert found == {"A": 1.0, "A1": 1.0, "OK": 1.0, "A2": 0.0, "x": 0.0, "BAD": 0.0, "B": 0.0, "BADB": 0.0}


def test_no_right_end_no_samples() -> None:
    wrong = {name: (parent, Verdict.WRONG if verdict else None) for name, (parent, verdict) in PLAN.items()}
    tree, nodes = grown(wrong)
    assert ValueTargets().infer(tree) == []
    assert TraceSelection().choose(tree) == []
    assert all(node.target is None for node in nodes.values())


def test_the_nearest_of_several_right_ends_counts() -> None:
    plan = dict(PLAN) | {"near": ("A", Verdict.CORRECT)}
    tree, nodes = grown(plan)
    ValueTargets().infer(tree)
    assert [nodes[name].distance for name in ("root", "A", "A1", "near", "x")] == [3, 2, 2, 1, 2]
    assert nodes["A"].target == pytest.approx(0.5)
    assert nodes["A1"].target == pytest.approx(0.75)
    assert nodes["A2"].target == pytest.approx(0.25)


def test_bounds() -> None:
    rule = UpperConfidence(exploration=0.5, unvisited=0.9)
    assert rule.bound(0.6, 2, 5) == pytest.approx(1.23431812, **TOLERANCE)
    assert rule.bound(0.55, 0, 5) == pytest.approx(1.45, **TOLERANCE)


def test_simulation_and_backup() -> None:
    assert mixed(0.6, 0.8, 0.5) == pytest.approx(0.7, **TOLERANCE)
    parent = Node(value=0.1)
    for value, visits in ((0.7, 2), (0.4, 1), (0.9, 0)):
        parent.children.append(Node(value=value, visits=visits, parent=parent))
    back_up(parent)
    assert parent.value == pytest.approx(0.6, **TOLERANCE)


def test_votes_weighted_by_value() -> None:
    ends = {"a": ("root", Verdict.WRONG), "b": ("root", Verdict.CORRECT), "c": ("root", Verdict.CORRECT)}
    tree, nodes = grown(ends)
    for name, answer, value in (("a", "5", 0.6), ("b", "7", 0.4), ("c", "7", 0.35)):
        nodes[name].answer, nodes[name].value = answer, value
    assert chosen_end(tree, "best_value") is nodes["a"]
    assert chosen_end(tree, "weighted_vote") is nodes["b"]


@pytest.mark.parametrize(("value", "kept"), [(0.2, True), (0.19, False)])
def test_the_critic_lets_pass_what_is_worth_a_fifth(value: float, kept: bool) -> None:
    tree, nodes = grown({"a": ("root", Verdict.CORRECT)})
    nodes["a"].value = value
    assert bool(TraceSelection().choose(tree)) == kept


def built(recipe: str, *overrides: str) -> Experiment:
    composed = compose(recipe, overrides)
    return build(Experiment, composed.tree, composed)


def test_the_papers_settings() -> None:
    stages = built("rest_mcts/paper").stages
    first, measured = stages["search_1"], stages["measure"]
    assert isinstance(first, Search)
    assert isinstance(measured, Search)
    generation = ValueGuidedSearch(
        rounds=50,
        branches=3,
        selection=UpperConfidence(0.5, 0.9),
        forward=1,
        look_branches=1,
        mixing=0.5,
        end_value=0.8,
    )
    assert first.search == generation
    assert (first.sampling.temperature, first.finish_tries, first.steps.tries) == (0.7, 5, 3)
    assert first.selection.minimum_value == 0.2
    evaluation = ValueGuidedSearch(rounds=100, selection=UpperConfidence(0.4, 0.8), forward=2, end_value=0.9)
    assert measured.search == evaluation
    values = stages["value_0"], stages["value_1"]
    for stage in values:
        assert isinstance(stage, TrainRewardModel)
        assert (stage.loss.kind, stage.learner.learning_rate, stage.batch_size) == ("squared", 3e-6, 3)
    assert values[1].needs() == (("search_1", "traces"), ("value_0", "reward_model"))
    sizes = "data.path=gsm8k_train.jsonl", "constants.rounds=40", "constants.characters=50"
    gsm = built("rest_mcts/paper", *sizes).stages["search_2"]
    assert isinstance(gsm, Search)
    assert (gsm.search.rounds, gsm.selection.minimum_characters) == (40, 50)


def test_the_baselines_of_the_paper() -> None:
    swaps = [f"search@stages.search_{place}.search=sampled_solutions" for place in (1, 2)]
    rest_em = built("rest_mcts/paper", *swaps, "constants.minimum_value=null").stages["search_1"]
    assert isinstance(rest_em, Search)
    assert isinstance(rest_em.search, SampledSolutions)
    assert rest_em.selection.minimum_value is None


def test_arms_of_the_claim_ask_and_learn_alike() -> None:
    laptop = built("rest_mcts")
    assert laptop.claim is not None
    arms = {name: built("rest_mcts", *changes) for name, changes in laptop.claim.arms.items()}
    asked = {
        name: [(s.prompt_count, s.search.max_tokens) for s in arm.stages.values() if isinstance(s, Search)]
        for name, arm in arms.items()
    }
    learned = {
        name: [s.max_steps for s in arm.stages.values() if isinstance(s, SFT | TrainRewardModel)]
        for name, arm in arms.items()
    }
    assert all(found == asked["method"] for found in asked.values())
    assert all(found == learned["method"] for found in learned.values())
    by = {name: arm.stages["measure"].answer for name, arm in arms.items()}  # type: ignore[attr-defined]
    weighted = dict.fromkeys(("method", "rest_em"), "weighted_vote")
    assert by == weighted | {"best_of_n": "best_value", "self_consistency": "vote"}
    guided = {name: arm.stages["search_1"].search.guided for name, arm in arms.items()}  # type: ignore[attr-defined]
    assert guided == {"method": True, "best_of_n": True, "self_consistency": True, "rest_em": False}


def test_drawing_among_equal_bounds_is_even() -> None:
    parent = Node(visits=3)
    parent.children = [Node(str(place), value=0.5, visits=1, parent=parent) for place in range(2)]
    rule = UpperConfidence()
    drawn = [rule.best_child(parent, np.random.default_rng(seed)).text for seed in range(200)]
    assert 70 < drawn.count("0") < 130
