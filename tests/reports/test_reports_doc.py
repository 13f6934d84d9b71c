"""docs/reports.md: its commands work as they stand."""

import shlex
from pathlib import Path

import pytest
from run_files import CONFIG, write_run
from typer.testing import CliRunner

from thinkrl.cli.app import app
from thinkrl.reports import notices

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/reports.md").read_text(encoding="utf-8")
COMMANDS = [line.partition("#")[0].strip() for line in PAGE.splitlines() if line.startswith("thinkrl ")]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the runs that the page names."""
    for seed in (0, 1):
        write_run(tmp_path / "runs" / "quickstart" / f"seed{seed}", seed=seed)
        for arm in ("method", "baseline"):
            config = {**CONFIG, "learner": {"arm": arm}}
            write_run(tmp_path / "runs" / "quickstart" / "reproduce" / arm / f"seed{seed}", seed=seed, config=config)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("THINKRL_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_works(command: str, here: Path) -> None:
    done = CliRunner().invoke(app, shlex.split(command)[1:])
    assert done.exit_code == 0, done.output
    for word in shlex.split(command):
        if word.endswith((".html", ".json")):
            assert (here / word).is_file()


def test_the_page_shows_every_way_of_reporting() -> None:
    assert len(COMMANDS) == 10
    assert {shlex.split(command)[1] for command in COMMANDS} == {"report", "reproduce", "cache"}


def test_the_page_tells_the_limits_of_the_code() -> None:
    assert notices.MISMATCH == 0.05
    assert "far below 0.05" in " ".join(PAGE.split())
    assert notices.FLAT == 0.5
