from typing import Any

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import ConfigTypeError

from thinkrl.config.component import ConfigError
from thinkrl.config.layers import Layers, leaves

scalars = st.one_of(st.integers(-3, 3), st.booleans(), st.none(), st.sampled_from(["a", "b"]))
names = st.sampled_from(["a", "b", "c"])
trees = st.dictionaries(
    names,
    st.recursive(
        st.one_of(scalars, st.lists(scalars, max_size=2)),
        lambda inner: st.dictionaries(names, inner, max_size=3),
        max_leaves=6,
    ),
    max_size=3,
)


@given(st.lists(trees, min_size=1, max_size=4))
@settings(max_examples=200, deadline=None)
def test_layers_merge_as_omegaconf_does(layers: list[dict[str, Any]]) -> None:
    merged = Layers()
    for number, layer in enumerate(layers):
        merged.add(layer, str(number))
    try:
        expected = OmegaConf.to_container(OmegaConf.merge(*[OmegaConf.create(layer) for layer in layers]))
    except ConfigTypeError:
        reject()  # OmegaConf refuses a list over a mapping; here the list replaces it and the schema decides
    assert merged.tree == expected


@given(st.lists(trees, min_size=1, max_size=4))
@settings(max_examples=200, deadline=None)
def test_every_leaf_names_a_layer_that_holds_its_value(layers: list[dict[str, Any]]) -> None:
    merged = Layers()
    for number, layer in enumerate(layers):
        merged.add(layer, str(number))
    tree, origins = merged.resolved()
    found = {path: value for path, value in leaves(tree) if path or tree}
    assert {path for path in origins if path} == {path for path in found if path}
    for path, value in found.items():
        node: Any = layers[int(origins[path])] if path else None
        for key in path:
            node = node[int(key)] if isinstance(node, list) else node[key]
        assert not path or node == value


def merged(*layers: dict[str, Any]) -> Layers:
    result = Layers()
    for number, layer in enumerate(layers):
        result.add(layer, f"layer {number}")
    return result


def test_a_shared_part_reaches_every_place_with_the_origin_of_its_values() -> None:
    tree, origins = merged(
        {"reward": {"a": 1, "b": 2}}, {"stage": {"reward": "${reward}"}}, {"reward": {"b": 5}}
    ).resolved()
    assert tree["stage"]["reward"] == {"a": 1, "b": 5}
    assert origins[("stage", "reward", "a")] == "layer 0"
    assert origins[("stage", "reward", "b")] == "layer 2"


def test_changes_of_a_shared_part_stay_in_their_place_and_later_changes_of_it_arrive() -> None:
    layers = merged(
        {"reward": {"a": 1, "b": 2, "deep": {"x": 1, "y": 2}}},
        {"stage": {"reward": "${reward}"}, "other": {"reward": "${reward}"}},
        {"stage": {"reward": {"b": 9, "deep": {"y": 7}}}},
        {"reward": {"a": 3, "b": 4}},
    )
    tree, origins = layers.resolved()
    assert tree["stage"]["reward"] == {"a": 3, "b": 9, "deep": {"x": 1, "y": 7}}
    assert tree["other"]["reward"] == tree["reward"] == {"a": 3, "b": 4, "deep": {"x": 1, "y": 2}}
    assert origins[("stage", "reward", "a")] == "layer 3"
    assert origins[("stage", "reward", "b")] == "layer 2"
    assert origins[("stage", "reward", "deep", "x")] == "layer 0"


def test_a_component_takes_the_place_of_a_shared_part() -> None:
    replaced = merged({"r": {"_target_": "m.A", "a": 1}, "s": "${r}"}, {"s": {"_target_": "m.B", "b": 2}})
    assert replaced.resolved()[0]["s"] == {"_target_": "m.B", "b": 2}
    after_change = merged({"r": {"a": 1}, "s": "${r}"}, {"s": {"a": 2}}, {"s": {"_target_": "m.B"}})
    assert after_change.resolved()[0]["s"] == {"_target_": "m.B"}


def test_references_follow_references_and_climb_with_dots() -> None:
    tree, _ = merged(
        {"seed": 4, "a": {"seed": "${seed}", "again": "${.seed}", "up": "${..b.x}"}, "b": {"x": "${a.seed}"}}
    ).resolved()
    assert tree["a"] == {"seed": 4, "again": 4, "up": 4}


def test_a_reference_reaches_below_a_changed_shared_part() -> None:
    tree, origins = merged(
        {"r": {"a": 1, "b": 2}, "s": "${r}", "t": "${s.a}", "u": "${s.b}"}, {"s": {"a": 8}}
    ).resolved()
    assert (tree["t"], tree["u"]) == (8, 2)
    assert origins[("t",)] == "layer 1"


@pytest.mark.parametrize(
    "layer", [{"a": "${a}"}, {"a": "${b}", "b": "${a}"}, {"a": {"b": "${a}"}}, {"a": "${b}", "b": {"x": "${a}"}}]
)
def test_a_circle_is_an_error(layer: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="refers to itself"):
        merged(layer).resolved()


def test_a_reference_to_nothing_names_the_nearest_key_and_the_layer() -> None:
    with pytest.raises(ConfigError, match=r"s: \$\{rewrad\} in layer 0 names rewrad.*did you mean reward\?"):
        merged({"reward": 1, "s": "${rewrad}"}).resolved()


def test_changing_keys_of_a_shared_part_that_is_null_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"s: layer 1 changes keys of \$\{r\}, but that is None here"):
        merged({"r": None, "s": "${r}"}, {"s": {"a": 1}}).resolved()


def test_deleting_takes_a_key_out_of_one_place_only() -> None:
    layers = merged({"r": {"a": 1, "b": {"c": 1, "d": 2}}, "s": "${r}", "t": "${r}"})
    layers.delete(("s", "b", "c"), "override ~s.b.c")
    layers.delete(("t",), "override ~t")
    tree, origins = layers.resolved()
    assert tree == {"r": {"a": 1, "b": {"c": 1, "d": 2}}, "s": {"a": 1, "b": {"d": 2}}}
    assert ("t", "a") not in origins
    assert ("s", "b", "c") not in origins


@pytest.mark.parametrize("path", [("a", "bonsu"), ("s", "bonsu")])
def test_deleting_what_is_not_there_names_the_nearest(path: tuple[str, ...]) -> None:
    layers = merged({"a": {"bonus": 1}, "s": "${a}"})

    def delete() -> None:
        layers.delete(path, "override ~x")
        layers.resolved()

    with pytest.raises(ConfigError, match=r"no (a\.)?bonsu; did you mean bonus\?"):
        delete()


def test_a_position_changes_one_item_of_a_list() -> None:
    layers = merged({"x": [1, {"a": 1}, 3]}, {"x": {"1": {"a": 7}, "2": 5}})
    assert layers.tree["x"] == [1, {"a": 7}, 5]
    assert layers.origins[("x", "0")] == "layer 0"
    assert layers.origins[("x", "2")] == "layer 1"


def test_deleting_a_key_that_one_place_added_needs_no_such_key_in_the_shared_part() -> None:
    layers = merged({"r": {"a": 1}, "s": "${r}", "t": "${r}"}, {"s": {"a": 5, "b": 2}, "t": {"c": 3}})
    for path in (("s", "a"), ("s", "b"), ("t", "c")):
        layers.delete(path, "override ~x")
    layers.add({"t": {"c": 4}}, "layer 2")
    assert layers.resolved()[0] == {"r": {"a": 1}, "s": {}, "t": {"a": 1, "c": 4}}


@given(trees, trees)
@settings(max_examples=200, deadline=None)
def test_changing_a_shared_part_merges_as_omegaconf_does(shared: dict[str, Any], change: dict[str, Any]) -> None:
    merged = Layers()
    merged.add({"shared": shared, "place": "${shared}"}, "first")
    merged.add({"place": change}, "second")
    try:
        expected = OmegaConf.to_container(OmegaConf.merge(OmegaConf.create(shared), OmegaConf.create(change)))
    except ConfigTypeError:
        reject()
    tree, origins = merged.resolved()
    assert tree["place"] == expected
    assert {path for path in origins if path[0] == "place"} == {("place", *path) for path, _ in leaves(expected)}


def test_a_list_in_a_changed_shared_part_is_a_list() -> None:
    merged = Layers()
    merged.add({"shared": {"rate": 1, "old": [1, 2, 3]}, "place": "${shared}"}, "first")
    merged.add({"place": {"betas": [0.9, 0.95], "old": [4]}}, "second")
    tree, origins = merged.resolved()
    assert tree["place"] == {"rate": 1, "betas": [0.9, 0.95], "old": [4]}
    assert origins["place", "betas", "1"] == "second"
