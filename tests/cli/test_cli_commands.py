import json
import textwrap
from pathlib import Path

import pytest
from test_cli_start import invoke

from thinkrl.cli import listing
from thinkrl.cli.evaluate import model_override
from thinkrl.cli.run import run_name
from thinkrl.config.component import ConfigError, UserError


def test_a_dry_run_prints_the_stages_in_order_and_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, text = invoke("run", "quickstart", "scale=smoke", "--dry-run")
    assert code == 0
    places = [text.index(stage) for stage in ("cold_start", "selection", "refinement", "grpo", "after_grpo")]
    assert places == sorted(places)
    assert "runs/quickstart/seed0_scale=smoke (new)" in text
    assert "TinyModel (conf/model/tiny.yaml)" in text
    assert "sizes are capped by the scale" in text
    assert list(tmp_path.iterdir()) == []


def test_a_run_gets_the_experiment_and_its_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import thinkrl.stages.runner as runner

    def record(experiment: object, composed: object, directory: Path) -> None:
        raise UserError(f"{type(experiment).__name__} in {directory}")

    monkeypatch.setattr(runner, "run_experiment", record)
    code, text = invoke("run", "quickstart", "seed=2", "--dir", str(tmp_path / "mine"))
    assert (code, text) == (1, f"error: Experiment in {tmp_path / 'mine'}\n")
    code, text = invoke("run", "quickstart", "seed=2", "scale=smoke")
    assert (code, text) == (1, "error: Experiment in runs/quickstart/seed2_scale=smoke\n")


def test_an_interrupted_run_exits_130_and_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    import thinkrl.stages.runner as runner

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "run_experiment", interrupted)
    code, text = invoke("run", "quickstart", "scale=smoke")
    assert code == 130
    assert "the same command goes on" in text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "quikstart"], "did you mean quickstart?"),
        (["run", "quickstart", "model=tinny"], "did you mean tiny?"),
        (["run", "quickstart", "stages.grpo.stpes=3", "--dry-run"], "did you mean steps?"),
        (["config", "quickstart", "sede=3"], "did you mean seed?"),
        (["config", "quickstart", "--explain", "stages.gpro"], "did you mean grpo?"),
        (["show", "quikstart"], "did you mean quickstart?"),
        (["list", "modles"], "did you mean models?"),
        (["evaluate", "--model", "tinny", "benchmark=chain_sum"], "did you mean tiny?"),
        (["evaluate", "--model", "tiny", "seed=1"], "name a benchmark: benchmark=NAME"),
        (["evaluate", "--model", "tiny", "benchmark=chain_smu"], "did you mean chain_sum?"),
        (["models", "pull", "tinny"], "did you mean tiny?"),
    ],
)
def test_mistakes_exit_2_with_a_message_and_no_traceback(arguments: list[str], says: str) -> None:
    code, text = invoke(*arguments)
    assert code == 2
    assert text.startswith("error: ")
    assert says in text
    assert "Traceback" not in text


def test_one_command_means_one_run_name() -> None:
    assert run_name(0, ()) == "seed0"
    assert run_name(3, ("seed=3",)) == "seed3"
    assert run_name(0, ("scale=smoke", "model=tiny")) == run_name(0, ("model=tiny", "scale=smoke"))
    assert run_name(0, ("model=tiny", "scale=smoke")) == "seed0_model=tiny_scale=smoke"


def test_different_commands_never_share_a_run_name() -> None:
    commands = [
        (),
        ("a=1",),
        ("+a=1",),
        ("a='1 2'",),
        ("a='1/2'",),
        ("a='1-2'",),
        ("stages.grpo.reward={x:1}",),
        ("stages.grpo.reward={x:2}",),
        (f"a={'x' * 100}1",),
        (f"a={'x' * 100}2",),
        ("~a",),
        ("a=é",),
    ]
    names = [run_name(0, command) for command in commands]
    assert len(set(names)) == len(names)
    assert all(name.isascii() and "/" not in name and len(name) <= 90 for name in names)


def test_config_prints_values_with_their_origin_and_json() -> None:
    code, text = invoke("config", "quickstart", "seed=5")
    assert code == 0
    assert "seed: 5  # override seed=5\n" in text
    code, text = invoke("config", "quickstart", "seed=5", "--json")
    read = json.loads(text)
    assert (read["config"]["seed"], read["origins"]["seed"]) == (5, "override seed=5")


def test_explain_prints_value_type_meaning_and_origin() -> None:
    code, text = invoke("config", "quickstart", "stages.grpo.steps=3", "--explain", "stages.grpo.steps")
    assert code == 0
    rows = dict(line.split(None, 1) for line in text.splitlines() if line.strip())
    assert {name: rows[name].strip() for name in ("value", "type")} == {"value": "3", "type": "int"}
    assert "override stages.grpo.steps=3" in text
    code, text = invoke("config", "quickstart", "--explain", "reward", "--json")
    assert json.loads(text)["type"] == "Reward"


def test_explain_helps_with_a_configuration_that_is_refused() -> None:
    code, text = invoke("config", "quickstart", "stages.grpo.steps=many", "--explain", "stages.grpo.steps")
    assert code == 0
    assert "override stages.grpo.steps=many" in text


def test_show_tells_claim_and_stages() -> None:
    code, text = invoke("show", "quickstart")
    assert code == 0
    assert "Claim: " in text
    assert all(stage in text for stage in ("cold_start", "selection", "grpo"))


def test_list_describes_recipes_and_groups() -> None:
    code, text = invoke("list")
    assert code == 0
    assert all(f"{kind}  " in text for kind in ("recipes", "models", "rewards", "algorithms", "benchmarks", "data"))
    code, text = invoke("list", "scales")
    assert "smoke  A few steps of everything on the tiny model" in text
    assert invoke("list", "scale")[1] == text


def test_every_choice_of_every_group_has_a_description() -> None:
    for kind, group in listing.kinds().items():
        for name, description in listing.group_rows(group) if group else listing.recipe_rows([]):
            assert description, f"{kind}: {name}"


def test_descriptions_come_from_the_comment_or_the_docstring(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("# @package _global_\n# Said here.\na: 1\n")
    assert listing.describe(path) == "Said here."
    path.write_text("_target_: thinkrl.config.scale.Scale\n# Not the head.\n")
    assert listing.describe(path).startswith("Shrinks a recipe: every size")
    path.write_text("_target_: no.such.Module\n")
    assert listing.describe(path) == ""


def test_own_recipes_are_listed_and_run_from_their_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    text = """
        # @package _global_
        # Quickstart with another seed.
        defaults: [/quickstart/laptop, _self_]
        seed: 9
        """
    (folder / "nine.yaml").write_text(textwrap.dedent(text))
    monkeypatch.chdir(tmp_path)
    assert "nine  " in invoke("list", "recipes", "--recipes-dir", "mine")[1]
    code, text = invoke("run", "nine", "--recipes-dir", "mine", "--dry-run")
    assert (code, "runs/nine/seed9 (new)" in text) == (0, True)
    assert invoke("run", "mine/nine.yaml", "--dry-run")[0] == 0


def test_a_model_is_named_by_choice_folder_or_hub_id(tmp_path: Path) -> None:
    assert model_override("tiny") == "model=tiny"
    target = "model={_target_:thinkrl.models.pretrained.PretrainedModel,source:"
    assert model_override("Qwen/Qwen3-0.6B") == f'{target}"Qwen/Qwen3-0.6B"}}'
    run = tmp_path / "run"
    (run / "stages/1_sft/model").mkdir(parents=True)
    assert model_override(str(run)) == f'{target}"{run}"}}'
    (run / "run.json").write_text("{}")
    (run / "config.yaml").write_text('model: {dtype: float32, stop_tokens: ["<|end|>"]}\n')
    model = run / "stages/1_sft/model"
    assert model_override(str(model)) == f'{target}"{model}",dtype:float32,stop_tokens:["<|end|>"]}}'
    with pytest.raises(ConfigError, match="did you mean tiny"):
        model_override("tinny")
