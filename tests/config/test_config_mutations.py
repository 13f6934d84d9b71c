"""Every key of a recipe is mistyped, given a wrong type, and set to null: each must be refused by name."""

import copy
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from thinkrl.config.build import build
from thinkrl.config.component import ConfigError
from thinkrl.config.compose import compose
from thinkrl.config.composed import Composed
from thinkrl.config.schema import arms, bare, child_annotation, class_of, fields_of

RECIPES = {"sample": "config_samples.Root", "quickstart": "thinkrl.stages.experiment.Experiment"}
"""Recipes whose keys are all mutated, with the class that they build."""


@dataclass(frozen=True, eq=False)
class Key:
    path: tuple[str, ...]
    annotation: Any


def keys_of(node: Any, annotation: Any, path: tuple[str, ...], seen: set[tuple[type, str]]) -> Iterator[Key]:
    """Every component field in the tree, once for each class that has it."""
    cls = class_of(node, annotation)
    if cls is not None:
        for name, field in fields_of(cls).items():
            if name in node:
                if (cls, name) not in seen:
                    seen.add((cls, name))
                    yield Key((*path, name), field.annotation)
                yield from keys_of(node[name], field.annotation, (*path, name), seen)
    elif isinstance(node, dict | list):
        for key, child in node.items() if isinstance(node, dict) else enumerate(node):
            yield from keys_of(child, child_annotation(annotation, key), (*path, str(key)), seen)


@pytest.fixture(params=RECIPES)
def recipe(request: pytest.FixtureRequest) -> tuple[type, Composed, list[Key]]:
    if request.param == "sample":
        request.getfixturevalue("project")
    module, _, name = RECIPES[request.param].rpartition(".")
    root: type = getattr(importlib.import_module(module), name)
    composed = compose(request.param) if request.param == "sample" else composed_once(request.param)
    keys = list(keys_of(composed.tree, root, (), set()))
    assert len(keys) >= (20 if request.param == "sample" else 80)
    return root, composed, keys


@cache
def composed_once(name: str) -> Composed:
    return compose(name)


def mutated(composed: Composed, path: tuple[str, ...], change: Any) -> dict[str, Any]:
    tree = copy.deepcopy(composed.tree)
    node: Any = tree
    for key in path[:-1]:
        node = node[int(key)] if isinstance(node, list) else node[key]
    change(node, path[-1])
    return tree


def refusal(root: type, composed: Composed, tree: dict[str, Any]) -> str:
    try:
        build(root, tree, composed)
    except ConfigError as error:
        return str(error)
    return ""


def test_a_mistyped_key_is_refused_with_the_key_that_was_meant(recipe: tuple[type, Composed, list[Key]]) -> None:
    root, composed, keys = recipe

    def mistype(node: dict[str, Any], key: str) -> None:
        middle = len(key) // 2
        node[key[:middle] + "x" + key[middle:]] = node.pop(key)

    for key in keys:
        name = key.path[-1]
        typo = name[: len(name) // 2] + "x" + name[len(name) // 2 :]
        message = refusal(root, composed, mutated(composed, key.path, mistype))
        assert f"{'.'.join((*key.path[:-1], typo))}: unknown key '{typo}'" in message, key.path
        assert f"did you mean {name}?" in message, (key.path, message)


def test_a_wrong_type_is_refused_by_key(recipe: tuple[type, Composed, list[Key]]) -> None:
    root, composed, keys = recipe
    tried = 0
    for key in keys:
        wrong = wrong_value(key.annotation)
        if wrong is None:
            continue
        tried += 1
        message = refusal(
            root, composed, mutated(composed, key.path, lambda node, k, wrong=wrong: node.update({k: wrong}))
        )
        assert f"\n  {'.'.join(key.path)}: " in message, (key.path, message)
    assert tried >= 0.9 * len(keys)


def wrong_value(annotation: Any) -> Any:
    """A value that the annotation does not take; None where it takes everything."""
    kinds = [bare(arm) for arm in arms(annotation)]
    if Any in kinds or object in kinds:
        return None
    scalars = (int, float, str, bool, Path)
    takes_mapping = any(kind not in scalars and kind is not type(None) for kind in kinds)
    return object() if takes_mapping else {"not": "a scalar"}


def test_null_is_refused_by_key_where_it_is_not_an_option(recipe: tuple[type, Composed, list[Key]]) -> None:
    root, composed, keys = recipe
    for key in keys:
        kinds = [bare(arm) for arm in arms(key.annotation)]
        message = refusal(root, composed, mutated(composed, key.path, lambda node, k: node.update({k: None})))
        where = f"\n  {'.'.join(key.path)}: "
        if Any in kinds or type(None) in kinds:
            assert f"{where}expected" not in message, key.path
        else:
            assert where in message, (key.path, message)
            assert "null" in message


def test_every_component_is_refused_under_a_mistyped_name(recipe: tuple[type, Composed, list[Key]]) -> None:
    root, composed, _ = recipe
    targets = [key.removesuffix("._target_") for key in composed.origins if key.endswith("._target_")]
    seen = set()
    for place in targets:
        path = (*place.split("."), "_target_")
        name = target_at(composed, path)
        if name in seen:
            continue
        seen.add(name)
        tree = mutated(composed, path, lambda node, k: node.update({k: f"{node[k]}x"}))
        message = refusal(root, composed, tree)
        assert f"{place}._target_: " in message
        assert f"did you mean {name.rpartition('.')[2]}?" in message


def target_at(composed: Composed, path: tuple[str, ...]) -> str:
    node: Any = composed.tree
    for key in path:
        node = node[int(key)] if isinstance(node, list) else node[key]
    return str(node)


@pytest.mark.parametrize(
    "override", ["sxeed=1", "stages.grpo.stxeps=1", "+scale.limxits={}", "learner.learning_rxate=1"]
)
def test_mistyped_overrides_of_the_quickstart_name_themselves_and_what_was_meant(override: str) -> None:
    from thinkrl.stages.experiment import Experiment

    composed = compose("quickstart", [override])
    message = refusal(Experiment, composed, composed.tree)
    key = override.lstrip("+").partition("=")[0]
    assert f"{key}: unknown key" in message
    assert f"(set by override {override})" in message
    assert f"did you mean {key.rpartition('.')[2].replace('x', '')}?" in message
