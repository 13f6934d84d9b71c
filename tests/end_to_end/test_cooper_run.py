"""A reward model that learns along with the policy: a killed run comes to the same bytes, the reward model's too."""

import signal
from pathlib import Path

from cli_process import finish, start
from run_contents import files, metric_rows

NUMBERS = "{_target_: thinkrl.grading.extraction.AnswerExtractor, sources: [last_number]}"
SMALL = (
    "scale=smoke", "tracker=none", "reuse=false", "benchmark.prompts.size=2", "constants.reads.part=response",
    "stages.grpo.steps=3", "stages.grpo.group_size=8", "stages.grpo.checkpoint_every=1",
    # A model that was hardly trained writes numbers somewhere, and half of them will do as right.
    f"reward.terms.correctness.term.extractor={NUMBERS}",
    "reward.terms.correctness.term.grader.relative_tolerance=0.999",
    f"stages.grpo.companions.reward_model.update.extractor={NUMBERS}",
    f"stages.grpo.companions.reward_model.update.rewriting.extractor={NUMBERS}",
)  # fmt: skip


def test_a_killed_run_in_which_two_models_learn_comes_to_the_same_bytes(tmp_path: Path) -> None:
    def arguments(name: str) -> list[str]:
        return ["run", "cooper", *SMALL, "--dir", str(tmp_path / name)]

    log = tmp_path / "log"
    assert finish(start(arguments("whole"), log)) == 0, log.read_text()
    rows = metric_rows(tmp_path / "whole")
    learned = [row for row in rows if row["stage"] == "grpo"]
    assert any(row["reward_model/without_pair"] < 1 and row["reward_model/loss"] > 0 for row in learned)
    # Three checkpoints of answers come before those of the two steps that have one.
    assert finish(start(arguments("parted"), log, ("checkpoint", 5))) == -signal.SIGKILL
    assert finish(start(arguments("parted"), log)) == 0, log.read_text()
    assert metric_rows(tmp_path / "parted") == rows
    assert files(tmp_path / "parted") == files(tmp_path / "whole")
    assert any("companions/reward_model" in name for name in files(tmp_path / "whole"))
