"""Trees: what stands in them, and that nothing is lost when they are written and read."""

import json
import math
from pathlib import Path

from search_trees import node, tree

from thinkrl.search.files import read_tree_files, tree_file
from thinkrl.search.tree import Tree, outline, read_tree


def small() -> Tree:
    right = node("4=7.", end="right", value=0.875, visits=2, token_ids=(5, 6), times=3)
    gate = node("1=4", value=0.1 + 0.2, rest="; 7", answer="7", distance=2, right=True, target=1 / 3)
    gate.end = "value"
    made = tree(node("<think>", node("3+", right, value=math.nan, visits=3), gate))
    made.tokens, made.rounds, made.asked, made.found = 17, 2, 5, True
    return made


def test_paths_run_from_the_root() -> None:
    made = small()
    (first,) = made.root.children
    leaf = first.children[0].children[0]
    assert [one.text for one in leaf.path()] == ["", "<think>", "3+", "4=7."]
    assert (leaf.depth, leaf.beginning, leaf.beginning_ids) == (3, "<think>3+4=7.", (5, 6))
    assert first.children[1].solution == "<think>1=4; 7"
    assert [end.text for end in made.ends()] == ["4=7.", "1=4"]


def test_a_node_that_others_follow_is_no_end_and_neither_is_the_root() -> None:
    made = tree(node("a", node("b", end="wrong")))
    made.root.children[0].end = "finished"
    assert [end.text for end in made.ends()] == ["b"]
    empty = tree()
    empty.root.end = "stuck"
    assert empty.ends() == []


def test_what_was_written_reads_back_exactly() -> None:
    made = small()
    text = json.dumps(made.written(ids=True), allow_nan=False)
    again = read_tree(json.loads(text))
    assert json.dumps(again.written(ids=True)) == text
    assert again.prompt == made.prompt
    for old, new in zip(made.root.walk(), again.root.walk(), strict=True):
        assert new.token_ids == old.token_ids
        assert new.value == old.value or (math.isnan(new.value) and math.isnan(old.value))
        assert (new.verdict, new.end, new.times, new.target) == (old.verdict, old.end, old.times, old.target)
        assert [child.parent for child in new.children] == [new] * len(new.children)


def test_files_are_nested_nodes_to_look_at() -> None:
    name, text = tree_file(small(), 12, "best_value")
    held = json.loads(text)
    assert name == "000012_q_1.json"
    assert {key: held[key] for key in ("prompt_id", "question", "reference", "answer", "verdict")} == {
        "prompt_id": "q/1", "question": "3+4", "reference": "7", "answer": "4=7.", "verdict": "correct",
    }  # fmt: skip
    step = held["root"]["children"][0]["children"][0]
    assert (step["text"], step["value"], step["visits"]) == ("3+", None, 3)
    assert step["children"][0]["verdict"] == "correct"
    assert "token_ids" not in text


def test_a_tree_without_an_answer_says_so_in_its_file() -> None:
    held = json.loads(tree_file(tree(node("a", end="silent")), 0, "vote")[1])
    assert (held["answer"], held["verdict"], held["solution"]) == (None, None, None)


def test_files_are_read_in_the_order_of_visits(tmp_path: Path) -> None:
    folder = tmp_path / "search"
    folder.mkdir()
    for place in (10, 9, 100):
        made = small()
        made.tokens = place
        name, text = tree_file(made, place, "vote")
        (folder / name).write_text(text)
    assert [one.tokens for one in read_tree_files(folder.parent)] == [9, 10, 100]


def test_an_outline_is_a_line_a_step() -> None:
    lines = outline(small().root).splitlines()
    assert lines == [
        "V 0.50 N 0  <think>",
        "  N 3  3+",
        "    V 0.88 N 2  4=7. -> 4=7. (correct)",
        "  V 0.30 N 0 target 0.33  1=4",
    ]
