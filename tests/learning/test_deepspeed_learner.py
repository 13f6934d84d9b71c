"""What the DeepSpeed learner refuses, before anything loads. What it learns is tested in tests/parallel/."""

import importlib.util

import pytest
from tiny_policy import tiny_policy

from thinkrl.config.component import ConfigError
from thinkrl.learning.adapters import Adapter
from thinkrl.learning.deepspeed_learner import DeepSpeedLearner


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"optimizer": "muon"}, "optimizer must be adamw"),
        ({"adapter": Adapter()}, "adapter must be null"),
        ({"offload": "all"}, "zero_stage must be 3 to offload all weights, got 2"),
        ({"learning_rate": -1.0}, "learning_rate must be 0 or more"),
        ({"processes": 0}, "processes must be at least 1"),
        ({"wait_minutes": 0}, "wait_minutes must be above 0"),
    ],
)
def test_settings_that_it_cannot_follow(settings, said):
    with pytest.raises(ValueError, match=said):
        DeepSpeedLearner(**settings)


def test_a_missing_deepspeed_is_said_with_what_to_do(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "deepspeed" else found(name))
    with pytest.raises(ConfigError, match="which is not installed: pip install deepspeed"):
        DeepSpeedLearner().check()


def test_models_that_read_images_are_refused(monkeypatch):
    monkeypatch.setattr(DeepSpeedLearner, "check", lambda self: None)
    policy = tiny_policy()
    policy.module.config.vision_config = {}
    with pytest.raises(ConfigError, match="learner=deepspeed reads no images"):
        DeepSpeedLearner().open(policy, total_steps=1, with_reference=False)
