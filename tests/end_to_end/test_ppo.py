"""PPO with a critic: it learns, and it can be killed anywhere and started again to the same bytes."""

import signal
from pathlib import Path

import pytest
from cli_process import finish, start
from ppo_recipe import write_recipe
from run_contents import files, metric_rows

SMALL = ("steps=4", "prompts_per_step=4", "checkpoint_every=1")


def arguments(folder: Path, *overrides: str) -> list[str]:
    return ["run", write_recipe(folder), *overrides, "reuse=false", "--dir", str(folder / "run")]


def small(folder: Path) -> list[str]:
    folder.mkdir(exist_ok=True)
    return arguments(folder, *(f"stages.ppo.{override}" for override in SMALL))


def test_the_critic_learns_the_outcome_and_ppo_raises_the_reward(tmp_path: Path) -> None:
    assert finish(start(arguments(tmp_path), tmp_path / "log")) == 0, (tmp_path / "log").read_text()
    rows = metric_rows(tmp_path / "run")
    assert len(rows) == 16
    rewards = [row["reward/mean"] for row in rows]
    assert rewards[0] < 0.4
    assert sum(rewards[-3:]) / 3 > rewards[0] + 0.3
    explained = [row["critic/explained_variance"] for row in rows]
    assert explained[0] == pytest.approx(0.0, abs=1e-6)  # it says 0 of everything
    assert max(explained) > 0.35  # at most 0.5: nothing tells the first of the two tokens
    assert abs(rows[-1]["critic/value"] - rows[-1]["critic/return"]) < 0.2
    saved = tmp_path / "run" / "stages" / "0_ppo" / "companions" / "critic"
    assert (saved / "model.safetensors").is_file(), sorted((tmp_path / "run").rglob("*"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert finish(start(small(folder), folder / "log")) == 0, (folder / "log").read_text()
    return folder / "run"


@pytest.mark.parametrize(
    "kill", [("row", 3), ("tensors", 5), ("checkpoint", 2)], ids=lambda kill: f"{kill[0]}{kill[1]}"
)
def test_killed_and_started_again(kill: tuple[str, int], undisturbed: Path, tmp_path: Path) -> None:
    assert finish(start(small(tmp_path), tmp_path / "log", kill)) == -signal.SIGKILL
    assert finish(start(small(tmp_path), tmp_path / "log")) == 0, (tmp_path / "log").read_text()
    assert metric_rows(tmp_path / "run") == metric_rows(undisturbed)
    found = files(tmp_path / "run")
    assert found == files(undisturbed)
    assert any("companions/critic" in name for name in found)
