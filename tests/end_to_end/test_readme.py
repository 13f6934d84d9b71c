"""What the README shows, done as it says."""

import re
import sys
from pathlib import Path

import pytest
from cli_process import finish, start

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def block(language: str, first_words: str) -> str:
    """The code block of that language that contains `first_words`."""
    found = [body for kind, body in re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL) if kind == language]
    return next(body for body in found if first_words in body)


def test_own_parts_fit_in_thirty_lines() -> None:
    lines = block("python", "my_parts.py").splitlines() + block("yaml", "brief.yaml").splitlines()
    assert len(lines) < 30


def test_own_recipe_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_parts.py").write_text(block("python", "my_parts.py"))
    (tmp_path / "brief.yaml").write_text(block("yaml", "brief.yaml"))
    monkeypatch.chdir(tmp_path)
    args = ["run", str(tmp_path / "brief.yaml"), "scale=smoke", "tracker=none", "reuse=false", "--dir", "run"]
    assert finish(start(args, tmp_path / "log", folder=tmp_path)) == 0, (tmp_path / "log").read_text()
    rows = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert '"reward/brevity/value"' in rows


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\S+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_linked_pages_exist() -> None:
    for page in re.findall(r"\]\((docs/[^)#]+)", README):
        assert (ROOT / page).is_file(), page


def test_the_script_is_installed() -> None:
    assert (Path(sys.executable).parent / "thinkrl").is_file()
