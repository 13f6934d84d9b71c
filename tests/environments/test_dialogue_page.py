"""The page on dialogues: its recipe composes and builds, its line is scored, and it names what there is."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from thinkrl.algorithms.episodes import PerEpisode
from thinkrl.cli.app import app
from thinkrl.config.build import build
from thinkrl.config.component import UserError
from thinkrl.config.compose import compose
from thinkrl.config.paths import conf_dir
from thinkrl.environments.dialogue import Dialogue
from thinkrl.environments.model_user import ModelUser
from thinkrl.stages.experiment import Experiment
from thinkrl.stages.grpo import GRPO

PAGE = (Path(__file__).parents[2] / "docs" / "dialogue.md").read_text(encoding="utf-8")


def test_the_recipe_of_the_page_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    recipe = tmp_path / "talk.yaml"
    recipe.write_text(block)
    composed = compose(recipe, ())
    stage = build(Experiment, composed.tree, composed).stages["grpo"]
    assert isinstance(stage, GRPO)
    assert isinstance(stage.algorithm.advantage, PerEpisode)
    assert isinstance(stage.environment, Dialogue)
    assert isinstance(stage.environment.user, ModelUser)
    monkeypatch.delenv("USER_KEY", raising=False)
    with pytest.raises(UserError, match="USER_KEY"):
        stage.environment.check()
    monkeypatch.setenv("USER_KEY", "x")
    stage.environment.check()


def test_the_line_of_the_page_is_scored(tmp_path: Path) -> None:
    (line,) = re.findall(r'^\{"prompt_id".*\}$', PAGE, re.MULTILINE)
    file = tmp_path / "talks.jsonl"
    file.write_text(line)
    arguments = ["score", "rlver/paper", str(file), "algorithm=grpo", "~stages.rl.companions", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    (found,) = (json.loads(row) for row in result.output.splitlines() if row.startswith("{"))
    assert found["reward"] == 0.6


def test_the_page_names_what_there_is() -> None:
    for group, name in re.findall(r"`(reward|algorithm)=(\w+)`", PAGE):
        assert (conf_dir() / group / f"{name}.yaml").is_file(), name
    fields = set(Dialogue.__dataclass_fields__)
    table = PAGE.partition("| part | what it is |")[2].partition("##")[0]
    named = {name for row in re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    assert named <= fields
    assert fields - named == {"labels"}
