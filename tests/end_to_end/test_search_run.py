"""Tree searches that train policy and value model, killed in the middle of a search and between stages."""

import hashlib
import signal
from pathlib import Path

import pytest
from cli_process import finish, start
from run_contents import files, metric_rows

SMALL = (
    "scale=smoke", "tracker=none", "reuse=false",
    "stages.search_1.search.rounds=4", "stages.search_1.checkpoint_rounds=1",
    "stages.search_1.prompt_count=4", "stages.search_1.steps.delimiter=e", "stages.search_1.sampling.max_new_tokens=6",
    "stages.value_0.batch_size=4", "stages.value_0.checkpoint_every=1", "benchmark.prompts.size=2",
    *(f"~stages.{name}" for name in ("after_cold_start", "after_1", "search_2", "policy_2", "after_2", "value_2")),
    "~stages.measure",
)  # fmt: skip
"""A random model says few lines; a step that ends with a letter gives the trees some depth."""


def arguments(directory: Path) -> list[str]:
    return ["run", "rest_mcts", *SMALL, "--dir", str(directory)]


def trees(run: Path) -> dict[str, str]:
    found = sorted((run / "stages").rglob("search/*.json"))
    return {path.relative_to(run).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert finish(start(arguments(folder / "run"), folder / "log")) == 0, (folder / "log").read_text()
    return folder / "run"


def test_the_search_asks_and_counts(undisturbed: Path) -> None:
    rows = [row for row in metric_rows(undisturbed) if row["stage"] == "search_1"]
    assert [row["asked_prompts"] for row in rows] == [2.0, 2.0]
    assert all(row["rounds"] > 1 and row["nodes"] > 2 and row["sampled_tokens"] > 0 for row in rows)
    assert len([name for name in trees(undisturbed) if "search_1" in name]) == 4


def test_killed_twice_and_started_again(undisturbed: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    # Four checkpoints of earlier stages, then one after each of the four rounds on the first two questions.
    assert finish(start(arguments(tmp_path / "run"), log, ("checkpoint", 7))) == -signal.SIGKILL
    # The round that was not kept, the next, the step's, and in the second search the first.
    assert finish(start(arguments(tmp_path / "run"), log, ("checkpoint", 4))) == -signal.SIGKILL
    assert finish(start(arguments(tmp_path / "run"), log)) == 0, log.read_text()
    assert log.read_text().count("search_1: continuing after step 0 of 2") == 1, "in the middle of the first search"
    assert "search_1: continuing after step 1 of 2" in log.read_text()
    assert metric_rows(tmp_path / "run") == metric_rows(undisturbed)
    assert files(tmp_path / "run") == files(undisturbed)
    assert trees(tmp_path / "run") == trees(undisturbed)
