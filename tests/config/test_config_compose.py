import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from config_samples import CappedBonus, Root, Silent
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from thinkrl.config.build import build
from thinkrl.config.component import ConfigError
from thinkrl.config.compose import compose
from thinkrl.config.layers import dotted, leaves


def test_files_overrides_and_defaults_each_own_their_values(project: Path) -> None:
    composed = compose("sample", ["seed=3", "stages.grpo.names=[a,b]", "reward.mode=ramp"])
    expected = {
        "seed": (3, "override seed=3"),
        "name": ("sample", "recipes/first/sample/paper.yaml"),
        "model.size": (900, "conf/model/large.yaml"),
        "model.dtype": ("bfloat16", "recipes/first/sample/paper.yaml"),
        "reward.target_tokens": (50, "recipes/first/sample/laptop.yaml"),
        "reward.bonus": (0.5, "default of Bonus"),
        "stages.cold_start.learning_rate": (1e-5, "conf/stage/sft.yaml"),
        "stages.cold_start.epochs": (2, "recipes/first/sample/laptop.yaml"),
        "stages.grpo.steps": (400, "recipes/first/sample/paper.yaml"),
        "stages.grpo.reward.target_tokens": (50, "recipes/first/sample/laptop.yaml"),
        "stages.grpo.reward.bonus": (2, "recipes/first/sample/paper.yaml"),
        "stages.grpo.reward.mode": ("ramp", "override reward.mode=ramp"),
        "stages.grpo.names.0": ("a", "override stages.grpo.names=[a,b]"),
        "stages.grpo.spec.temperature": (1.0, "default of Spec"),
        "stages.grpo.shape": ("linear", "default of Grpo"),
    }
    values = {dotted(path): value for path, value in leaves(composed.tree)}
    assert {key: (values[key], composed.origins[key]) for key in expected} == expected
    assert set(values) == set(composed.origins)
    assert (composed.recipe_id, composed.recipe_path.name) == ("sample", "laptop.yaml")


def test_a_tree_without_changed_shared_parts_is_what_hydra_composes(project: Path) -> None:
    overrides = ["seed=7", "model=tiny", "reward.target_tokens=9", "stages.cold_start.learning_rate=1e-6"]
    ours = compose("sample", [*overrides, "~stages.grpo.reward.bonus"], completed=False).tree
    ours["stages"]["grpo"].pop("reward")
    folder = str(project / "recipes/first/sample")
    search = f"hydra.searchpath=['file://{project}/conf']"
    with initialize_config_dir(config_dir=folder, version_base="1.3"):
        theirs = OmegaConf.to_container(hydra_compose("laptop", [search, *overrides]), resolve=True)
    assert isinstance(theirs, dict)
    theirs["stages"]["grpo"].pop("reward")
    assert ours == theirs


def test_stages_keep_the_order_of_the_defaults_list(project: Path) -> None:
    assert list(compose("sample").tree["stages"]) == ["cold_start", "grpo"]


def test_smoke_caps_sizes_and_swaps_the_model(project: Path) -> None:
    composed = compose("sample", ["scale=smoke"])
    grpo, model = composed.tree["stages"]["grpo"], composed.tree["model"]
    assert (grpo["steps"], grpo["spec"]["new_tokens"], grpo["group_size"]) == (2, 24, None)
    assert composed.tree["stages"]["cold_start"]["epochs"] == 1
    assert composed.origins["stages.grpo.steps"] == "conf/scale/smoke.yaml caps steps"
    assert composed.capped["stages.grpo.steps"] == (400, "recipes/first/sample/paper.yaml")
    assert composed.capped["stages.grpo.spec.new_tokens"] == (512, "default of Spec")
    assert model == {"_target_": "config_samples.Model", "size": 1, "dtype": "float32"}
    assert composed.origins["model.size"] == "conf/model/tiny.yaml"


def test_caps_never_raise_a_value(project: Path) -> None:
    composed = compose("sample", ["scale=smoke", "scale.limits.steps=500"])
    assert composed.tree["stages"]["grpo"]["steps"] == 400
    assert "stages.grpo.steps" not in composed.capped


def test_the_command_line_has_the_last_word_over_the_scale(project: Path) -> None:
    composed = compose("sample", ["scale=smoke", "model=large", "stages.grpo.steps=7"])
    assert composed.tree["model"]["size"] == 900
    assert composed.tree["stages"]["grpo"]["steps"] == 7
    assert composed.origins["stages.grpo.steps"] == "override stages.grpo.steps=7"
    assert compose("sample", ["scale=smoke", "model.size=5"]).tree["model"]["size"] == 5


def test_smoke_swaps_a_model_that_a_recipe_writes_out_and_every_other_use_of_the_group(project: Path) -> None:
    mine = project / "mine.yaml"
    mine.write_text(
        "defaults: [/base, {/model@judge: large}, _self_]\nname: mine\n"
        "model: {_target_: config_samples.Model, size: 77, dtype: int8}\njudge: {dtype: int4}\n"
    )
    tree = compose(mine, ["scale=smoke"]).tree
    tiny = {"_target_": "config_samples.Model", "size": 1, "dtype": "float32"}
    assert (tree["model"], tree["judge"]) == (tiny, tiny)
    assert compose(mine, ["scale=smoke", "model@judge=large"]).tree["judge"]["size"] == 900


def test_a_group_can_be_chosen_that_the_recipe_leaves_out(project: Path) -> None:
    composed = compose("single", ["reward=capped"])
    assert composed.tree["reward"]["limit"] == 0.25
    assert composed.origins["reward.limit"] == "conf/reward/capped.yaml"


def test_a_group_can_be_left_out(project: Path) -> None:
    assert compose("sample", ["~model", "~stages.grpo"]).tree["model"] == {"dtype": "bfloat16"}
    left = compose("sample", ["~stage@stages.grpo", "~stages.grpo", "~reward"]).tree
    assert list(left["stages"]) == ["cold_start"]
    written_out = project / "mine.yaml"
    written_out.write_text("defaults: [/base, _self_]\nreward: {_target_: config_samples.Bonus}\n")
    assert "reward" not in compose(written_out, ["~reward"]).tree


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("model=tinny", r"override model=tinny: there is no model 'tinny'; did you mean tiny\?"),
        ("reward=bonsu", r"override reward=bonsu: there is no reward 'bonsu'; did you mean bonus\?"),
        ("rewrad/x=3", r"there is no group rewrad/x; did you mean reward\?"),
        ("stage@stages.gpro=grpo", r"(?s)Could not override 'stage@stages\.gpro'.*stage@stages\.grpo"),
        ("model=3", r"choose a file of this group, model=NAME, or leave it out with ~model"),
        ("model=null", r"or leave it out with ~model"),
        ("seed=1,2", r"one run takes one value; write seed=\[a,b\] for a list"),
        ("seed=range(3)", r"one run takes one value"),
        ("hydra.verbose=true", r"hydra's own settings have no effect"),
        ("seed=[1", r"the override 'seed=\[1' cannot be read"),
        ("nonsense", r"the override 'nonsense' cannot be read"),
        ("~sead", r"override ~sead: there is no sead; did you mean seed\?"),
        ("~stages.grpo.stpes", r"there is no stages\.grpo\.stpes; did you mean steps\?"),
    ],
)
def test_overrides_that_cannot_apply_name_what_is_near(project: Path, override: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        compose("sample", [override])


@pytest.mark.parametrize("prefix", ["", "+", "++"])
def test_an_unknown_key_fails_with_the_nearest_however_it_is_added(project: Path, prefix: str) -> None:
    composed = compose("sample", [f"{prefix}stages.grpo.stpes=1"])
    with pytest.raises(ConfigError, match=r"(?s)stages\.grpo\.stpes: unknown key.*did you mean steps\?"):
        build(Root, composed.tree, composed)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "defaults: [/base, {/reward: bonsu}, _self_]\n",
            r"defaults list of mine: there is no reward 'bonsu'; did you mean bonus\?",
        ),
        ("defaults: [/base, {/rewrad: bonus}, _self_]\n", r"there is no rewrad/bonus; groups: did you mean reward\?"),
        ("defaults: [/baes, _self_]\n", r"mine: there is no"),
        ("name: [unclosed\n", r"mine\.yaml cannot be composed"),
        ("- a list\n", r"mine\.yaml"),
        ("defaults: [/base, _self_]\nreward: ${rewrad}\n", r"names rewrad, which nothing sets; did you mean reward\?"),
        ("defaults: [/base, _self_]\nname: run ${sede}\n", r"name: .*sede"),
    ],
)
def test_broken_recipes_are_named(project: Path, text: str, says: str) -> None:
    (project / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=says):
        compose("mine.yaml")


def test_text_may_hold_interpolations(project: Path) -> None:
    (project / "mine.yaml").write_text("defaults: [/base, _self_]\nname: run ${seed}\n")
    assert compose("mine.yaml", ["seed=4"]).tree["name"] == "run 4"


def test_a_user_recipe_brings_its_own_components_and_group_files(project: Path) -> None:
    mine = project / "elsewhere"
    (mine / "reward").mkdir(parents=True)
    (mine / "elsewhere_parts.py").write_text(
        "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Own:\n    weight: float = 3.0\n"
        "    def score(self, length: int) -> float:\n        return self.weight\n"
    )
    (mine / "reward/own.yaml").write_text("_target_: elsewhere_parts.Own\n")
    (mine / "trial.yaml").write_text(
        "defaults: [/first/sample/laptop, {override /reward: own}, _self_]\n"
        "stages: {grpo: {reward: {_target_: elsewhere_parts.Own}}}\n"
    )
    composed = compose(mine / "trial.yaml", ["~reward.target_tokens"])
    root = build(Root, composed.tree, composed)
    assert root.reward.score(1) == 3.0
    assert composed.origins["reward._target_"] == "elsewhere/reward/own.yaml"
    assert composed.origins["name"] == "recipes/first/sample/paper.yaml"


def test_two_files_of_one_name_are_refused(project: Path) -> None:
    (project / "reward").mkdir()
    (project / "reward/bonus.yaml").write_text("_target_: config_samples.Bonus\ntarget_tokens: 1\n")
    (project / "mine.yaml").write_text("defaults: [/base, {/reward: bonus}, _self_]\nname: mine\n")
    with pytest.raises(ConfigError, match=r"reward/bonus\.yaml and conf/reward/bonus\.yaml have the same name"):
        compose("mine.yaml")
    (project / "base.yaml").write_text("name: mine\n")
    with pytest.raises(ConfigError, match="rename the recipe"):
        compose("base.yaml")


def test_a_component_swapped_in_leaves_no_silent_keys_behind(project: Path) -> None:
    composed = compose("sample", ["reward=capped"])
    root = build(Root, composed.tree, composed)
    assert root.reward == CappedBonus(target_tokens=50, limit=0.25)
    swapped = compose("sample", ["reward._target_=config_samples.Silent", "reward.bonus=1"])
    with pytest.raises(ConfigError, match=r"reward\.bonus: unknown key 'bonus' \(set by override reward\.bonus=1\)"):
        build(Silent, swapped.tree["reward"], swapped, "reward")


def test_composition_is_the_same_in_another_process(project: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from thinkrl.config import paths;"
        "from thinkrl.config.compose import compose;"
        "from thinkrl.config.render import config_text, origins_text;"
        "paths._shipped = lambda installed, checkout: Path.cwd() / checkout;"
        "c = compose('sample', ['scale=smoke']); sys.stdout.write(config_text(c) + origins_text(c))"
    )
    environment = {"PYTHONPATH": str(Path(__file__).parent), "PYTHONHASHSEED": "1", "PATH": ""}
    runs = [
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment | extra
        )
        for extra in ({}, {"PYTHONHASHSEED": "2"})
    ]
    assert runs[0].stdout == runs[1].stdout
    assert yaml.safe_load(runs[0].stdout.partition("name: ")[0])
