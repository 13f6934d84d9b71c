import json
from pathlib import Path

import pytest
import yaml
from config_samples import Root
from omegaconf import OmegaConf
from rich.console import Console

from thinkrl.config.component import ConfigError
from thinkrl.config.compose import compose
from thinkrl.config.explain import explain
from thinkrl.config.render import config_text, origins_text, to_json, to_yaml, with_origins
from thinkrl.config.scale import SIZED_KINDS, Scale
from thinkrl.config.schema import meanings


def test_a_leaf_has_value_type_meaning_and_origin(project: Path) -> None:
    found = explain(compose("sample", ["seed=3"]), "stages.grpo.steps", Root)
    assert (found.value, found.type, found.meaning) == (400, "int", "Optimizer steps.")
    assert found.origin == "recipes/first/sample/paper.yaml"
    assert found.note == "a size (steps) that a scale may cap"
    seed = explain(compose("sample", ["seed=3"]), "seed", Root)
    assert (seed.value, seed.meaning, seed.origin) == (3, "Of every random choice.", "override seed=3")


def test_meanings_are_inherited_and_unwrapped(project: Path) -> None:
    composed = compose("sample", ["reward=capped"])
    inherited = explain(composed, "reward.target_tokens", Root)
    assert inherited.meaning == "Length in tokens that a response should stay under."
    own = explain(composed, "reward.limit", Root)
    assert (own.type, own.meaning) == ("float | null", "The limit; null has none.")
    assert explain(composed, "stages.grpo.model_from", Root).meaning == "Where the policy comes from."


def test_a_node_lists_what_is_below_it(project: Path) -> None:
    found = explain(compose("sample"), "reward", Root)
    assert (found.type, found.meaning) == ("Bonus", "Pays a bonus below a target length.")
    assert found.children == (
        ("target_tokens", "Length in tokens that a response should stay under."),
        ("bonus", "What it is worth."),
        ("mode", ""),
    )
    stages = explain(compose("sample"), "stages", Root)
    assert ([name for name, _ in stages.children], stages.meaning) == (["cold_start", "grpo"], "The pipeline.")
    assert "stages" in dict(explain(compose("sample"), "", Root).children)


def test_a_capped_size_says_what_it_was(project: Path) -> None:
    found = explain(compose("sample", ["scale=smoke"]), "stages.grpo.steps", Root)
    assert (found.value, found.origin) == (2, "conf/scale/smoke.yaml caps steps")
    assert found.note == "the scale capped it; recipes/first/sample/paper.yaml says 400"


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("stages.grpo.stpes", r"no key stages\.grpo\.stpes: stages\.grpo has no stpes; did you mean steps\?"),
        ("stages.gpro.steps", r"stages has no gpro; did you mean grpo\?"),
        ("sede", r"did you mean seed\?"),
        ("reward.target_tokens.x", r"did you mean reward\.target_tokens\?"),
        ("learning_rate", r"did you mean stages\.cold_start\.learning_rate\?"),
    ],
)
def test_a_mistyped_key_names_the_nearest(project: Path, key: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        explain(compose("sample"), key, Root)


def test_meanings_need_source_only() -> None:
    assert meanings(Scale)["limits"].startswith("The cap of each kind of size")
    assert {"steps", "prompts", "batch_prompts", "group_size", "new_tokens", "epochs", "companion_steps"} == SIZED_KINDS


@pytest.mark.parametrize("limits", [{"stepz": 1}, {"steps": 0}])
def test_a_scale_refuses_unknown_kinds_and_empty_caps(limits: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"limits must"):
        Scale(limits=limits)


def test_the_texts_of_a_run_directory_read_back_as_what_was_composed(project: Path) -> None:
    composed = compose("sample", ["scale=smoke", "name='007'"])
    for read in (yaml.safe_load, lambda text: OmegaConf.to_container(OmegaConf.create(text))):
        assert read(config_text(composed)) == composed.tree
        assert read(origins_text(composed)) == composed.origins
    assert list(yaml.safe_load(config_text(composed))) == list(composed.tree)
    assert json.loads(to_json(composed)) == {"config": composed.tree, "origins": composed.origins}


TEXTS = ["1e-5", "1_000", "null", "true", "a: b", "two\nlines\n", "two\nlines", "", "{x}", "# no", "1:30", "0x1f", "~"]


@pytest.mark.parametrize("text", TEXTS)
def test_text_stays_text(text: str) -> None:
    for read in (yaml.safe_load, lambda written: OmegaConf.to_container(OmegaConf.create(written))):
        assert read(to_yaml({"key": text, "list": [text]})) == {"key": text, "list": [text]}


@pytest.mark.parametrize("number", [1e-05, 3.0, 1e22, float("inf"), 0.1, -2, 10**20])
def test_numbers_stay_exact(number: float) -> None:
    found = yaml.safe_load(to_yaml({"key": number}))["key"]
    assert (found, type(found)) == (number, type(number))


def test_the_terminal_shows_each_value_with_its_origin(project: Path) -> None:
    console = Console(width=200, color_system=None, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(with_origins(compose("sample", ["stages.grpo.names=[a,b]"])), soft_wrap=True)
    lines = [line.strip() for line in console.export_text().splitlines()]
    assert "steps: 400  # recipes/first/sample/paper.yaml" in lines
    assert "names: [a, b]  # override stages.grpo.names=[a,b]" in lines
    assert "learning_rate: 1.0e-05  # conf/stage/sft.yaml" in lines
