"""Writing a report's page: on request, and at the end of every run."""

import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from thinkrl.config.component import ConfigError
from thinkrl.reports.page.build import GENERATOR, page
from thinkrl.reports.report import Report, make_report
from thinkrl.tracking.atomic import write_bytes
from thinkrl.tracking.json_values import dump_json

NAME = "report.html"
_OURS = re.compile(rf'<meta name="generator" content="{GENERATOR}"/>')


def write_page(report: Report, path: Path) -> None:
    """Writes the page to `path`, atomically. Raises ConfigError where something else has that name."""
    if path.exists() and not _is_report(path):
        raise ConfigError(f"{path} is there and is no report of thinkrl: name another file with --output")
    write_bytes(path, page(report).encode("utf-8", errors="replace"))


def json_text(report: Report) -> str:
    """The report as JSON, indented; NaN and infinities are the strings "NaN", "Infinity" and "-Infinity"."""
    return json.dumps(json.loads(dump_json(report.as_json())), indent=1)


def leave_report(directory: Path) -> None:
    """Writes `report.html` into the run that this process began or continued there, however far it came.

    Never raises, and changes nothing else: the run's own end is what counts. A report that fails says so.
    """
    try:
        starts = json.loads((directory / "run.json").read_text(encoding="utf-8"))["starts"]
        if starts[-1]["pid"] != os.getpid():
            return
    except (OSError, ValueError, LookupError, TypeError):
        return
    try_page([directory], directory / NAME)


def try_page(runs: Sequence[Path], path: Path) -> bool:
    """Writes the page of `runs` to `path`; where that fails says so on the error output, and returns False."""
    try:
        write_page(make_report(runs), path)
    except (Exception, KeyboardInterrupt) as error:
        print(f"no report was made: {type(error).__name__}: {error}", file=sys.stderr)
        return False
    return True


def default_place(paths: Sequence[Path]) -> Path:
    """Where a page goes: into the one folder that was named, else `report.html` here."""
    return paths[0] / NAME if len(paths) == 1 else Path(NAME)


def _is_report(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return _OURS.search(file.read(2000)) is not None
    except OSError:
        return False
