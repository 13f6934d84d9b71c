"""Preference optimisation, killed and started again or by two processes, comes to what an undisturbed run comes to."""

import signal
from pathlib import Path

import pytest
from cli_process import finish, start
from test_crash import check_equal
from test_many_processes import check_like

SMALL = (
    "scale=smoke", "tracker=none", "reuse=false", "stages.dpo.batch_size=2", "stages.dpo.checkpoint_every=1",
    "stages.selection_before.prompt_count=2", "stages.selection_after.prompt_count=2", "stages.pairs.prompt_count=4",
    "stages.cold_start.max_steps=1", "benchmark.prompts.size=2", "stages.dpo.learner.learning_rate=1e-3",
)  # fmt: skip
ROWS_BEFORE = 1 + 1 + 1 + 2


def crew(directory: Path, *more: str) -> list[str]:
    return ["run", "crew", *SMALL, *more, "--dir", str(directory)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert finish(start(crew(folder / "run"), folder / "log")) == 0, (folder / "log").read_text()
    return folder / "run"


def test_killed_between_two_steps_and_started_again(whole: Path, tmp_path: Path) -> None:
    kill = ("row", ROWS_BEFORE + 2)
    assert finish(start(crew(tmp_path / "run"), tmp_path / "log", kill)) == -signal.SIGKILL
    assert finish(start(crew(tmp_path / "run"), tmp_path / "log")) == 0, (tmp_path / "log").read_text()
    assert "dpo: continuing after step 1 of 2" in (tmp_path / "log").read_text()
    check_equal(tmp_path / "run", whole)


@pytest.mark.slow
def test_two_processes_come_to_the_same(whole: Path, tmp_path: Path) -> None:
    assert finish(start(crew(tmp_path / "run", "learner.processes=2"), tmp_path / "log")) == 0, (
        tmp_path / "log"
    ).read_text()
    check_like(tmp_path / "run", whole)


@pytest.mark.slow
def test_adapters_learn_pairs_too(tmp_path: Path) -> None:
    args = crew(tmp_path / "run", "+learner/adapter@stages.dpo.learner.adapter=lora")
    assert finish(start(args, tmp_path / "log")) == 0, (tmp_path / "log").read_text()
