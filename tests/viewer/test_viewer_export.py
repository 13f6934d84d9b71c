"""An export is the page with its data, whole or not there, and never in place of something else."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from viewed_runs import HOSTILE, Asked, Wrote, small_run, write_step

from thinkrl.config.component import ConfigError
from thinkrl.viewer.export import SHARD, export_page
from thinkrl.viewer.finding import Query
from thinkrl.viewer.pages import Pages


def data(folder: Path, name: str) -> Any:
    """The value that a file of data hands over."""
    text = (folder / "data" / f"{name}.js").read_text(encoding="ascii")
    match = re.fullmatch(r'receive\("([^"]+)",(.*)\);\n', text)
    assert match is not None
    assert match[1] == name
    return json.loads(match[2])


def test_an_export_holds_what_the_server_would_say(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run")
    write_step(run, "0_rl", 3, [Asked("long", "?", [Wrote(f"a{n}") for n in range(SHARD + 3)])])
    (run / "stages/0_rl/search").mkdir()
    (run / "stages/0_rl/search/one.json").write_text('{"text": "</script>", "children": []}')
    (run / "stages/0_rl/search/torn.json").write_text("{")
    pages = Pages(run)
    assert export_page(pages, tmp_path / "out") == (SHARD + 3 + 16, SHARD + 3 + 16)
    overview = data(tmp_path / "out", "run")
    assert [(stage["key"], stage["steps"]) for stage in overview["stages"]] == [("0_rl", [1, 2, 3]), ("1_after", [1])]
    assert overview["stages"][0]["trees"] == ["one"]
    assert data(tmp_path / "out", "tree-0_rl-0") == pages.trees("0_rl", "one")
    for step in (1, 2, 3):
        listing = pages.listing(Query("0_rl", step), size=1000)
        assert data(tmp_path / "out", f"list-0_rl-{step}") == {"rows": listing["rows"], "groups": listing["groups"]}
    held = data(tmp_path / "out", "responses-0_rl-3-1")
    assert held == pages.responses("0_rl", 3, range(SHARD, SHARD + 3))


def test_nothing_a_model_wrote_can_end_a_script(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run")
    write_step(run, "0_rl", 3, [Asked("p", HOSTILE[0], [Wrote(text, note=text) for text in HOSTILE])])
    export_page(Pages(run), tmp_path / "out")
    for path in (tmp_path / "out" / "data").iterdir():
        text = path.read_text(encoding="ascii")
        assert "<" not in text
        assert text.count("\n") == 1
    assert tuple(one["text"] for one in data(tmp_path / "out", "responses-0_rl-3-0")) == HOSTILE
    page = (tmp_path / "out" / "index.html").read_text()
    assert "default-src 'none'; script-src 'self' file:;" in page
    assert "unsafe" not in page


@pytest.mark.parametrize(
    ("limit", "kept"), [(1, {"0_rl": [2]}), (7, {"0_rl": [2], "1_after": [1]}), (11, {"0_rl": [1, 2], "1_after": [1]})]
)
def test_a_limit_keeps_the_last_steps_of_each_stage(tmp_path: Path, limit: int, kept: dict[str, list[int]]) -> None:
    run = small_run(tmp_path / "run")
    assert export_page(Pages(run), tmp_path / "out", limit=limit) == (limit, 16)
    overview = data(tmp_path / "out", "run")
    assert {stage["key"]: stage["steps"] for stage in overview["stages"] if stage["steps"]} == kept
    assert overview["export"] == {"responses": limit, "of": 16, "shard": SHARD}


def test_an_export_takes_the_place_of_an_export_and_of_nothing_else(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run")
    out = tmp_path / "out"
    out.mkdir()
    export_page(Pages(run), out)
    (out / "left.txt").write_text("")
    export_page(Pages(run), out)
    assert not (out / "left.txt").exists()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "index.html").write_text("my own page")
    (tmp_path / "file").write_text("")
    for folder in (mine, tmp_path / "file", run, tmp_path):
        with pytest.raises(ConfigError, match="name another folder"):
            export_page(Pages(run), folder)
    assert (mine / "index.html").read_text() == "my own page"
    assert (run / "run.json").exists()


def test_a_run_that_kept_nothing_exports_an_empty_page(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run")
    for path in run.rglob("*.parquet"):
        path.unlink()
    assert export_page(Pages(run), tmp_path / "out") == (0, 0)
    assert data(tmp_path / "out", "run")["default_stage"] == ""
