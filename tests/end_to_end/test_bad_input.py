"""Bad input ends with a message that says what, where and what to do, and nothing is lost."""

from pathlib import Path

import pytest
from cli_process import SMALL, finish, small_quickstart, start
from run_contents import metric_rows

REWARDS = """
from dataclasses import dataclass

import numpy as np

from thinkrl.rewards.term import Scores


@dataclass(frozen=True)
class Fragile:
    def score(self, rollouts, context):
        if context.step == 2:
            raise ZeroDivisionError("no weights today")
        return Scores(np.zeros(len(rollouts)))
"""


def run(args: list[str], folder: Path) -> tuple[int, str]:
    code = finish(start(args, folder / "log", folder=folder))
    return code, (folder / "log").read_text()


def recipe(folder: Path, body: str) -> str:
    path = folder / "own.yaml"
    path.write_text(f"# @package _global_\ndefaults: [/quickstart/laptop, _self_]\nname: own\n{body}\n")
    return str(path)


def test_a_reward_that_raises_is_named_and_the_run_goes_on_once_it_is_mended(tmp_path: Path) -> None:
    (tmp_path / "fragile_reward.py").write_text(REWARDS)
    own = recipe(tmp_path, "reward: {terms: {fragile: {term: {_target_: fragile_reward.Fragile}}}}")
    args = ["run", own, *SMALL, "--dir", "run"]
    code, log = run(args, tmp_path)
    assert code == 1
    assert "reward term 'fragile' failed" in log
    assert "no weights today" in log
    assert "fragile_reward.py" in log
    assert "Traceback" not in log
    (tmp_path / "fragile_reward.py").write_text(REWARDS.replace("== 2", "== -1"))
    code, log = run(args, tmp_path)
    assert code == 0, log


def test_a_corrupt_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text('{"question": "1 + 1 =", "answer": "2"}\n{"question": \n')
    own = recipe(tmp_path, "data: {_target_: thinkrl.data.files.FilePrompts, path: data.jsonl}")
    code, log = run(["run", own, *SMALL, "--dir", "run"], tmp_path)
    assert code == 1
    assert "data.jsonl" in log
    assert "data.jsonl line 2" in log
    assert not (tmp_path / "run").exists()


def test_an_empty_data_set_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text("")
    own = recipe(tmp_path, "data: {_target_: thinkrl.data.files.FilePrompts, path: data.jsonl}")
    code, log = run(["run", own, *SMALL, "--dir", "run"], tmp_path)
    assert code == 1
    assert "data.jsonl holds no rows" in log
    assert not (tmp_path / "run").exists()


def test_a_reference_that_cannot_be_read_is_counted_apart(tmp_path: Path) -> None:
    lines = [f'{{"question": "{i} + 1 =", "answer": "no number at all"}}' for i in range(6)]
    (tmp_path / "data.jsonl").write_text("\n".join(lines) + "\n")
    own = recipe(tmp_path, "data: {_target_: thinkrl.data.files.FilePrompts, path: data.jsonl}")
    code, log = run(["run", own, *SMALL, "--dir", "run"], tmp_path)
    assert code == 0, log
    rows = [row for row in metric_rows(tmp_path / "run") if row["stage"] == "grpo"]
    assert [row["reward/ungradable_rate"] for row in rows] == [1.0] * 4
    assert [row["loss"] for row in rows] == [0.0] * 4


def test_a_sampler_that_disagrees_with_the_learner_ends_the_run(tmp_path: Path) -> None:
    code, log = run(["run", "quickstart", *SMALL, "stages.grpo.largest_mismatch=0", "--dir", "run"], tmp_path)
    assert code == 1
    assert "sampler and learner differ" in log
    assert "largest_mismatch" in log


def test_another_configuration_in_the_same_directory_is_refused(undisturbed: Path, tmp_path: Path) -> None:
    code, log = run([*small_quickstart(undisturbed), "seed=7"], tmp_path)
    assert code == 1
    assert "seed: 0 -> 7" in log


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("stages.grpo.stepz=3", "did you mean steps"),
        ("stages.grpo.steps=many", "stages.grpo.steps"),
        ("stages.grpo.steps=null", "stages.grpo.steps"),
        ("reward=truesteps", "true_steps"),
        ("stages.refinement.traces.stage=selektion", "selektion"),
        ("stages.grpo.model_from=selection", "makes none"),
    ],
)
def test_mistakes_are_found_before_anything_runs(override: str, words: str, tmp_path: Path) -> None:
    code, log = run(["run", "quickstart", override, "--dir", "run"], tmp_path)
    assert code == 2, log
    assert words in log
    assert not (tmp_path / "run").exists()
