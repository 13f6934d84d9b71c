"""docs/companions.md: its commands compose to what it says, and its companion works as it stands."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_policy import make_rollouts
from typer.testing import CliRunner

from thinkrl.algorithms.token_returns import GeneralisedAdvantage, ReturnToGo
from thinkrl.cli.app import app
from thinkrl.companions.companion import Companion, CompanionSource
from thinkrl.companions.critic import Critic
from thinkrl.config.build import build
from thinkrl.config.compose import compose
from thinkrl.config.schema import load_target
from thinkrl.stages.experiment import Experiment

PAGE = (Path(__file__).parents[2] / "docs" / "companions.md").read_text()
COMMANDS = [line.split()[2:] for line in re.findall(r"^thinkrl run .*", PAGE, re.MULTILINE)]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_commands_build_what_they_say(command: list[str]) -> None:
    composed = compose(command[0], command[1:])
    stage: Any = build(Experiment, composed.tree, composed).stages["grpo"]
    estimator = stage.algorithm.advantage.advantage
    if "algorithm=ppo" in command:
        assert isinstance(estimator, GeneralisedAdvantage)
        assert isinstance(stage.companions["critic"], Critic)
        changed = "algorithm.advantage.advantage.trace=0.95" in command
        assert estimator.trace == (0.95 if changed else 1.0)
        assert stage.companions["critic"].value_clip == (None if changed else 0.2)
    else:
        assert isinstance(estimator, ReturnToGo)
        assert estimator.center == ("mean" if command[1].endswith("baseline") else "none")
        assert stage.companions == {}


def test_a_critic_may_learn_first() -> None:
    assert "stages.grpo.companion_steps=20" in PAGE
    composed = compose("pear", [*COMMANDS[0][1:], "stages.grpo.companion_steps=20"])
    assert build(Experiment, composed.tree, composed).stages["grpo"].companion_steps == 20  # type: ignore[attr-defined]


def test_the_signals_of_a_recipe_are_listed() -> None:
    (command,) = re.findall(r"^thinkrl (score --signals .*)$", PAGE, re.MULTILINE)
    listed = CliRunner().invoke(app, [*command.split(), "--json"])
    assert [json.loads(row)["name"] for row in listed.output.splitlines()] == ["step_accuracies"]


def test_named_classes_are_there() -> None:
    names = re.findall(r"`(thinkrl\.[\w.]+\.[A-Z]\w+)`", PAGE)
    assert names
    for name in names:
        assert issubclass(load_target(name), CompanionSource)


def test_the_companion_of_the_page_works() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    space: dict[str, Any] = {}
    exec(compile(code, "mine.py", "exec"), space)
    source = space["Shortest"](at_most=6)
    assert isinstance(source, CompanionSource)
    source.check()
    companion: Companion = source.open(None)
    rollouts = make_rollouts((3, 4))
    (signal,) = source.supplies()
    found = companion.signals(rollouts)[signal.name]
    lengths = rollouts.token_ids.lengths
    assert found.tolist() == [min(6, lengths[:3].min())] * 3 + [min(6, lengths[3:].min())] * 4
    nothing: Any = None
    assert companion.learn(rollouts, nothing, nothing) == {"batches": 1.0}
    other = source.open(None)
    other.load_state(companion.state())
    assert other.learn(rollouts, nothing, nothing) == {"batches": 2.0}
    assert np.all(other.signals(rollouts)["shortest"] == found)
