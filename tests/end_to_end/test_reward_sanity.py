"""What rewards must do in the laptop world of sums: coins teach nothing, labels for wrong answers do harm."""

import numpy as np
import pytest
from cli_process import finish, start

from thinkrl.benchmarks.metrics import Scores
from thinkrl.reproduction.readings import FinishedRun

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

Accuracies = dict[str, tuple[Scores, Scores]]

SIZES = (
    "tracker=none", "stages.grpo.steps=16", "stages.grpo.prompts_per_step=16", "stages.grpo.learner.learning_rate=3e-5",
)  # fmt: skip
ARMS = {
    "coins": (),
    "right": ("reward.terms.coin.weight=0", "reward.terms.correctness.weight=1"),
    "wrong": ("reward.terms.coin.weight=0", "reward.terms.correctness.weight=-1"),
}


@pytest.fixture(scope="module")
def accuracies(tmp_path_factory: pytest.TempPathFactory) -> Accuracies:
    """Each arm's held-out accuracy, prompt by prompt, before and after GRPO; they share one cold start."""
    folder = tmp_path_factory.mktemp("sanity")
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THINKRL_CACHE", str(folder / "cache"))
        for arm, overrides in ARMS.items():
            args = ["run", "rlvr_clipping", *SIZES, *overrides, "--dir", str(folder / arm)]
            assert finish(start(args, folder / f"{arm}.log"), 900) == 0, (folder / f"{arm}.log").read_text()
            found[arm] = tuple(
                FinishedRun(folder / arm).per_prompt("accuracy", stage)[1]
                for stage in ("after_cold_start", "after_grpo")
            )
    return found


def change(before: Scores, after: Scores) -> tuple[float, float]:
    """The mean difference of accuracy over prompts, and its standard error."""
    differences = after - before
    return float(differences.mean()), float(differences.std(ddof=1) / len(differences) ** 0.5)


def test_the_world_has_headroom_both_ways(accuracies: Accuracies) -> None:
    assert 0.1 < np.mean(accuracies["coins"][0]) < 0.9


def test_coins_give_no_gain(accuracies: Accuracies) -> None:
    mean, error = change(*accuracies["coins"])
    assert mean < 2 * error


def test_right_answers_teach_more_than_coins(accuracies: Accuracies) -> None:
    mean, error = change(accuracies["coins"][1], accuracies["right"][1])
    assert mean > 2 * error


def test_a_reward_for_wrong_answers_lowers_accuracy(accuracies: Accuracies) -> None:
    mean, error = change(*accuracies["wrong"])
    assert mean < -2 * error
