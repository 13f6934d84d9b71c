"""The recipe of docs/reward_models.md builds, and its files of judged responses read."""

import json
import re
from pathlib import Path

import pytest
import yaml

from thinkrl.companions.reward_model import RewardModel
from thinkrl.companions.rewriting import AssistantRewriting
from thinkrl.config.build import build
from thinkrl.config.compose import compose
from thinkrl.config.schema import load_target
from thinkrl.data.judged import FileJudged
from thinkrl.data.solutions import FileSolutions
from thinkrl.stages.evaluate_reward_models import EvaluateRewardModels
from thinkrl.stages.experiment import Experiment
from thinkrl.stages.grpo import GRPO
from thinkrl.stages.reward_model import TrainRewardModel

PAGE = (Path(__file__).parents[2] / "docs" / "reward_models.md").read_text()
RECIPE, FILES, LEARNS, MEASURES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
USUAL = "/base, {/model: tiny}, {/data: chain_sum}, {/environment: single_turn}, {/algorithm: grpo}"


def added(text: str) -> str:
    """The recipe of the page with what the page adds to it."""
    recipe, more = yaml.safe_load(RECIPE), yaml.safe_load(f"defaults:\n{text}")
    taken = {key for entry in more["defaults"] for key in entry}
    recipe["defaults"] = [entry for entry in recipe["defaults"] if not taken & entry.keys()] + more["defaults"]
    recipe["stages"] |= more["stages"]
    return str(yaml.safe_dump(recipe, sort_keys=False))


def built(folder: Path, text: str) -> Experiment:
    recipe = folder / "judged.yaml"
    defaults, stages = yaml.safe_load(text)["defaults"], text[text.index("stages:") :]
    lines = "".join(f"  - {json.dumps(line)}\n" for line in yaml.safe_load(f"[{USUAL}]") + defaults)
    recipe.write_text(f"# @package _global_\n# A recipe.\ndefaults:\n{lines}  - _self_\nname: judged\n{stages}")
    composed = compose(recipe)
    return build(Experiment, composed.tree, composed)


def test_the_recipe_of_the_page(tmp_path: Path) -> None:
    stages = built(tmp_path, RECIPE).stages
    assert list(stages) == ["answers", "reward_model", "grpo"]
    trained, grpo = stages["reward_model"], stages["grpo"]
    assert isinstance(trained, TrainRewardModel)
    assert trained.needs() == (("answers", "traces"),)
    assert isinstance(grpo, GRPO)
    companion = grpo.companions["reward_model"]
    assert isinstance(companion, RewardModel)
    assert companion.model_from == "reward_model"
    assert grpo.needs() == (("reward_model", "reward_model"),)


def test_a_companion_of_a_stage_that_trains_no_reward_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="must read a reward_model, got stage 'answers', which makes none"):
        built(tmp_path, RECIPE.replace("model_from: reward_model", "model_from: answers"))


def test_files_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("judged.jsonl").write_text(json.dumps({"prompt": "a", "completion": "x", "score": 1}) + "\n")
    Path("pairs.jsonl").write_text(json.dumps({"prompt": "a", "chosen": "x", "rejected": "y"}) + "\n")
    found = []
    for line in FILES.splitlines():
        node = yaml.safe_load(line)["responses"]
        recipe = Path("file.yaml")
        recipe.write_text(f"# @package _global_\n# A file.\ndefaults: [/base, _self_]\nresponses: {json.dumps(node)}\n")
        composed = compose(recipe.resolve(), completed=False)
        found.append(build(FileJudged, composed.tree["responses"], composed, "responses").judged())
    assert [[(one.response, one.worth) for one in judged] for judged in found] == [
        [("x", 1.0)],
        [("x", 1.0), ("y", 0.0)],
    ]


def test_the_reward_model_that_learns_along(tmp_path: Path) -> None:
    grpo = built(tmp_path, added(LEARNS)).stages["grpo"]
    assert isinstance(grpo, GRPO)
    companion = grpo.companions["reward_model"]
    assert isinstance(companion, RewardModel)
    assert companion.update is not None
    assert isinstance(companion.update.rewriting, AssistantRewriting)
    assert companion.reads.keep_ends == (500, 1000)


def test_the_stage_that_measures(tmp_path: Path) -> None:
    measured = built(tmp_path, added(MEASURES)).stages["measured"]
    assert isinstance(measured, EvaluateRewardModels)
    assert isinstance(measured.benchmarks["rewardmath"], FileSolutions)
    assert measured.needs() == (("samples", "traces"),)


def test_named_classes_are_there() -> None:
    for name in set(re.findall(r"`?(thinkrl\.[\w.]+\.[A-Z]\w+)", PAGE)):
        assert load_target(name)
