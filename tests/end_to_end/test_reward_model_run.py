"""A reward model trained by one stage scores in the next, and a killed run comes to the same bytes."""

import signal
from pathlib import Path

from cli_process import finish, start
from run_contents import files, metric_rows

from thinkrl.config.build import build
from thinkrl.config.compose import compose
from thinkrl.stages.experiment import Experiment


def arguments(directory: Path) -> list[str]:
    """The arm of noisy_rewards with a calibrated reward model, in seconds."""
    composed = compose("noisy_rewards")
    claim = build(Experiment, composed.tree, composed).claim
    assert claim is not None
    small = ("scale=smoke", "tracker=none", "reuse=false", "stages.grpo.checkpoint_every=1", "benchmark.prompts.size=2")
    small += ("stages.reward_model.checkpoint_every=1", "stages.reward_model.batch_size=4")
    return ["run", "noisy_rewards", *claim.arms["calibrated"], *small, "--dir", str(directory)]


def test_a_killed_run_with_a_reward_model_comes_to_the_same_bytes(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert finish(start(arguments(tmp_path / "whole"), log)) == 0, log.read_text()
    rows = metric_rows(tmp_path / "whole")
    trained = [row for row in rows if row["stage"] == "reward_model"]
    assert len(trained) == 2
    assert trained[-1]["held_out/responses"] > 0
    # Nothing is read where there is no answer, and what is not read has no score: no answer, no reward.
    scored = [row for row in rows if row["stage"] == "grpo"]
    assert all(0 <= row["reward_model/unread"] <= 1 and row["reward/score/weight"] == 1 for row in scored)
    # Three checkpoints of answers and one of the reward model come before that of GRPO's first step.
    assert finish(start(arguments(tmp_path / "parted"), log, ("checkpoint", 5))) == -signal.SIGKILL
    assert finish(start(arguments(tmp_path / "parted"), log)) == 0, log.read_text()
    assert metric_rows(tmp_path / "parted") == rows
    assert files(tmp_path / "parted") == files(tmp_path / "whole")
