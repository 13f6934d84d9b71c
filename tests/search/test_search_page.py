"""The recipe and the search of docs/search.md build and work."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from search_trees import carry_out, tree

from thinkrl.config.build import build
from thinkrl.config.compose import compose
from thinkrl.search.sampled_solutions import SampledSolutions
from thinkrl.search.steps import StepRule
from thinkrl.search.tree_search import ValueGuidedSearch
from thinkrl.stages.experiment import Experiment
from thinkrl.stages.search import Search

PAGE = (Path(__file__).parents[2] / "docs" / "search.md").read_text()
(RECIPE,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
(CODE,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
USUAL = "/base, {/model: tiny}, {/data: chain_sum}"


def built(folder: Path, more: str = "") -> Experiment:
    recipe = folder / "searching.yaml"
    defaults, stages = yaml.safe_load(RECIPE)["defaults"], RECIPE[RECIPE.index("stages:") :]
    lines = "".join(f"  - {json.dumps(line)}\n" for line in yaml.safe_load(f"[{USUAL}]") + defaults)
    recipe.write_text(f"# @package _global_\n# A recipe.\ndefaults:\n{lines}  - _self_\nname: searching\n{stages}")
    composed = compose(recipe, [more] if more else [])
    return build(Experiment, composed.tree, composed)


def test_the_recipe_of_the_page(tmp_path: Path) -> None:
    stages = built(tmp_path).stages
    assert list(stages) == ["samples", "value", "trees", "policy", "better_value"]
    samples, trees = stages["samples"], stages["trees"]
    assert isinstance(samples, Search)
    assert isinstance(trees, Search)
    assert isinstance(samples.search, SampledSolutions)
    assert isinstance(trees.search, ValueGuidedSearch)
    assert stages["better_value"].needs() == (("trees", "traces"), ("value", "reward_model"))


@pytest.mark.parametrize("name", re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)[1:])
def test_searches_of_the_page_can_be_chosen(tmp_path: Path, name: str) -> None:
    trees: Any = built(tmp_path, f"search@stages.trees.search={name}").stages["trees"]
    assert trees.search.rounds >= 1


def test_the_search_of_the_page_goes_on_from_the_best_node() -> None:
    space: dict[str, Any] = {}
    exec(CODE, space)
    search, made, rule = space["BestFirst"](branches=2), tree(), StepRule()
    steps, values = {"": ["a", "b"], "b": ["."], "a": []}, {"a": 0.4, "b": 0.6, "b.": 0.1}

    def one_round() -> list[Any]:
        plan = search.round(made, rule, np.random.default_rng(0))
        return carry_out(plan, lambda node, _: steps[node.beginning], values.__getitem__)

    assert one_round() == [("propose", [""]), ("judge", ["a", "b"])]
    assert one_round() == [("propose", ["b"]), ("judge", ["b."])]
    assert one_round()[0] == ("propose", ["a"])
    assert [(end.beginning, end.end) for end in made.ends()] == [("a", "stuck"), ("b.", "finished")]
    assert not search.over(made)
    assert one_round() == []
    assert search.over(made)
