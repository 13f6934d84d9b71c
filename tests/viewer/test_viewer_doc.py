"""docs/viewer.md: its commands work as they stand, and it names every filter and key."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner
from viewed_runs import small_run

from thinkrl.cli.app import app
from thinkrl.viewer.export import LIMIT
from thinkrl.viewer.facts import MARKS
from thinkrl.viewer.finding import PAGE
from thinkrl.viewer.server import Server, page_file

ROOT = Path(__file__).parents[2]
PAGE_TEXT = (ROOT / "docs/viewer.md").read_text(encoding="utf-8")
COMMANDS = [line.partition("#")[0].strip() for line in PAGE_TEXT.splitlines() if line.startswith("thinkrl ")]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the run that the page names, and a server that stops at once."""

    def stop(self: Server) -> None:
        raise KeyboardInterrupt

    small_run(tmp_path / "runs/quickstart/seed0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Server, "serve_forever", stop)
    monkeypatch.setattr("webbrowser.open", lambda url: None)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_works(command: str, here: Path) -> None:
    done = CliRunner().invoke(app, shlex.split(command)[1:])
    assert done.exit_code == 0, done.output
    words = shlex.split(command)
    if "--export" in words:
        assert (here / words[words.index("--export") + 1] / "index.html").is_file()
    elif "--terminal" in words:
        assert "responses, page 1 of 1" in done.output
    else:
        assert re.match(r"http://127\.0\.0\.1:\d+/[\w-]{32}/", done.output)
        assert done.output.endswith("stopped\n")


def test_an_address_begins_where_the_command_says(here: Path) -> None:
    done = CliRunner().invoke(app, ["view", "runs", "--show", "flat", "--step", "1", "--stage", "rl", "--find", "a b"])
    assert done.output.split("\n")[0].endswith("/#stage=0_rl&step=1&find=a+b&show=flat")


def test_the_page_names_every_filter_and_key_and_limit() -> None:
    table = re.findall(r"^\| (`.*`) \|", PAGE_TEXT, flags=re.MULTILINE)
    named = {name for cell in table for name in re.findall(r"`([^`]+)`", cell)}
    assert set(MARKS) - {"all"} <= named
    keys = re.findall(r'^  \["(.+)", "', page_file("viewer.js"), flags=re.MULTILINE)
    assert len(keys) == 8
    assert {key for line in keys for key in line.split(", ")} <= named
    assert len(COMMANDS) == 6
    assert f"one page of {PAGE} responses" in PAGE_TEXT
    assert f"with more than {LIMIT} responses" in PAGE_TEXT
