"""The page as files that need no server: a folder to keep, to put on a web site, or to send.

Browsers do not let a page that was opened as a file read other files, but let it load scripts that lie beside it. The
data are therefore scripts that hand over one JSON value each: ASCII alone, so that nothing in it ends the script.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from thinkrl.config.component import ConfigError
from thinkrl.tracking.atomic import replace_directory
from thinkrl.tracking.errors import RunError
from thinkrl.viewer.pages import Pages
from thinkrl.viewer.run import RolloutFile
from thinkrl.viewer.server import SCRIPTS, page_file

LIMIT = 2_000
"""Responses that an export holds unless it is told otherwise."""
SHARD = 25
"""Responses in one file of data."""
POLICY = (
    "default-src 'none'; script-src 'self' file:; style-src 'self' file:; img-src data:; base-uri 'none'; "
    "form-action 'none'; require-trusted-types-for 'script'; trusted-types shards"
)


def export_page(pages: Pages, folder: Path, limit: int = LIMIT) -> tuple[int, int]:
    """Writes the page of a run into `folder`, which must be new or an earlier export; it is complete or not there.

    Each stage gives its last step, then the one before, in turns, until `limit` responses are reached. Returns how
    many responses it holds, and how many there are. Raises ConfigError where `folder` holds something else.
    """
    if folder.exists() and not _is_export(folder):
        raise ConfigError(f"--export: {folder} is there and is no export of thinkrl: name another folder")
    if folder.resolve() in (pages.run.path.resolve(), *pages.run.path.resolve().parents):
        raise ConfigError(f"--export: {folder} holds the run itself: name another folder")
    chosen, total = _chosen(pages, limit)
    with replace_directory(folder) as aside:
        for name in (*SCRIPTS, "viewer.css"):
            (aside / name).write_text(page_file(name), encoding="utf-8")
        (aside / "index.html").write_text(_page(), encoding="utf-8")
        (aside / "data").mkdir()
        kept: dict[str, list[int]] = {}
        for file, count in chosen:
            kept.setdefault(file.stage, []).append(file.step)
            _write_step(aside, pages, file, count)
        overview = _overview(pages, kept, sum(count for _, count in chosen), total)
        for stage in overview["stages"]:
            for number, name in enumerate(stage["trees"]):
                _write(aside, f"tree-{stage['key']}-{number}", pages.trees(stage["key"], name))
        _write(aside, "run", overview)
    return sum(count for _, count in chosen), total


def _chosen(pages: Pages, limit: int) -> tuple[list[tuple[RolloutFile, int]], int]:
    """Files with how many of their first responses are taken, and how many responses there are in all."""
    waiting, total = [], 0
    for key in pages.run.stage_keys():
        counted = []
        for file in pages.run.files(key):
            try:
                counted.append((file, pages.finder.table(file).row_count))
            except RunError:
                continue
        total += sum(count for _, count in counted)
        waiting.append(counted)
    chosen, room = [], limit
    while any(waiting) and room > 0:
        for files in waiting:
            if files and room > 0:
                file, count = files.pop()
                chosen.append((file, min(count, room)))
                room -= chosen[-1][1]
    return sorted(chosen, key=lambda one: (one[0].stage, one[0].step)), total


def _overview(pages: Pages, kept: dict[str, list[int]], held: int, total: int) -> dict[str, Any]:
    overview = pages.overview()
    for stage in overview["stages"]:
        stage["steps"] = sorted(kept.get(stage["key"], []))
        stage["trees"] = [name for name in stage["trees"] if _readable(pages, stage["key"], name)]
    return {**overview, "export": {"responses": held, "of": total, "shard": SHARD}}


def _readable(pages: Pages, stage: str, name: str) -> bool:
    try:
        pages.trees(stage, name)
    except RunError:
        return False
    return True


def _write_step(aside: Path, pages: Pages, file: RolloutFile, count: int) -> None:
    """A step's list, and its responses in shards."""
    name = f"{file.stage}-{file.step}"
    rows = pages.rows([(file, row) for row in range(count)])
    groups = {
        f"{file.step} {group}": {"size": known.size, "correct": known.correct, "flat": known.flat}
        for group, known in pages.finder.facts(file).groups.items()
    }
    _write(aside, f"list-{name}", {"rows": rows, "groups": groups})
    for shard, own in enumerate(_cut(range(count))):
        held = pages.responses(file.stage, file.step, own)
        _write(aside, f"responses-{name}-{shard}", held)


def _cut(rows: range) -> Iterator[range]:
    for begin in range(0, len(rows), SHARD):
        yield rows[begin : begin + SHARD]


def _write(aside: Path, name: str, value: Any) -> None:
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    (aside / "data" / f"{name}.js").write_text(f"receive({json.dumps(name)},{text});\n", encoding="ascii")


def _page() -> str:
    policy = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"/>'
    marked = page_file("index.html").replace("<!-- policy -->", policy)
    return marked.replace('<html lang="en">', '<html lang="en" data-export="true">')


def _is_export(folder: Path) -> bool:
    """Whether a folder is empty or was written by `export_page`."""
    if not folder.is_dir():
        return False
    if not any(folder.iterdir()):
        return True
    try:
        return 'data-export="true"' in (folder / "index.html").read_text(encoding="utf-8")[:200]
    except (OSError, UnicodeDecodeError):
        return False
