"""The page on judges: its recipe composes and builds, and it names what there is."""

import re
from pathlib import Path

import pytest

from thinkrl.companions.judge import JudgedResponses
from thinkrl.config.build import build
from thinkrl.config.compose import compose
from thinkrl.judges.chat_server import ChatServer
from thinkrl.judges.local_model import LocalModel
from thinkrl.stages.experiment import Experiment
from thinkrl.stages.grpo import GRPO

PAGE = (Path(__file__).parents[2] / "docs" / "judges.md").read_text(encoding="utf-8")


def judge_of(recipe: Path, *overrides: str) -> JudgedResponses:
    composed = compose(recipe, overrides)
    stage = build(Experiment, composed.tree, composed).stages["grpo"]
    assert isinstance(stage, GRPO)
    judge = stage.companions["judge"]
    assert isinstance(judge, JudgedResponses)
    return judge


def test_the_recipe_of_the_page_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    recipe = tmp_path / "judged.yaml"
    recipe.write_text(block)
    monkeypatch.setenv("JUDGE_KEY", "x")
    server = judge_of(recipe)
    server.check()
    assert isinstance(server.judge.backend, ChatServer)
    assert server.judge.backend.key_from == "JUDGE_KEY"
    choices = block.partition("name: judged")[0].replace("companions.judge: judge", "companions.judge: pairwise_judge")
    recipe.write_text(f"{choices}name: judged\n")
    local = judge_of(recipe)
    local.check()
    assert isinstance(local.judge.backend, LocalModel)
    assert local.against == "group"
