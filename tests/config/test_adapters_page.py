"""The commands of docs/adapters.md compose to what the page says, and each choice to its adapter."""

import re
from pathlib import Path

import pytest

from thinkrl.config.build import build
from thinkrl.config.component import ConfigError
from thinkrl.config.compose import compose
from thinkrl.learning.adapters import Adapter
from thinkrl.stages.experiment import Experiment

PAGE = (Path(__file__).parents[2] / "docs" / "adapters.md").read_text()
COMMANDS = [line.split()[2:] for line in re.findall(r"^thinkrl run .*", PAGE, re.MULTILINE)]
CHOICES = {
    "lora": Adapter(rank=16, alpha=32.0, seed=5),
    "rslora": Adapter(rank=64, alpha=16.0, rslora=True, seed=5),
    "dora": Adapter(rank=16, alpha=32.0, dora=True, seed=5),
}


def composed(recipe, *overrides):
    found = compose(recipe, overrides)
    return build(Experiment, found.tree, found)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_commands_reach_the_learner_of_every_stage_that_learns(command):
    experiment = composed(*command)
    learners = [stage.learner for stage in experiment.stages.values() if hasattr(stage, "learner")]
    assert len(learners) == 3
    for override in command[1:]:
        key, _, value = override.partition("=")
        for learner in learners:
            if key == "learner/adapter":
                assert learner.adapter is not None
            else:
                found = learner
                for name in key.split(".")[1:]:
                    found = getattr(found, name)
                written = ",".join(found) if isinstance(found, tuple) else str(found).lower()
                assert written == value.strip("[]")


@pytest.mark.parametrize("choice", CHOICES)
def test_choices_take_the_seed_of_the_run(choice):
    experiment = composed("quickstart", f"learner/adapter={choice}", "seed=5")
    assert experiment.stages["grpo"].learner.adapter == CHOICES[choice]


def test_one_stage_may_have_an_adapter_alone():
    experiment = composed("quickstart", "+learner/adapter@stages.grpo.learner.adapter=lora")
    assert experiment.stages["grpo"].learner.adapter == Adapter()
    assert experiment.stages["cold_start"].learner.adapter is None
    assert "- /learner/adapter@stages.grpo.learner.adapter: lora" in PAGE


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("learner/adapter=lroa", "there is no learner/adapter 'lroa'; did you mean lora"),
        ("learner.optimizer=moun", "did you mean muon"),
        ("learner.adapter=lora", "expected Adapter | null, got the text 'lora'"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(override, message):
    with pytest.raises(ConfigError) as error:
        composed("quickstart", override)
    assert message in str(error.value)
