"""`docs/reproductions.md`: one row for every check of every recipe that has results."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from thinkrl.tracking.json_values import load_json

HEAD = """# Reproductions

What `thinkrl reproduce RECIPE` found at laptop scale, method against baseline on an equal budget. A check is
*reproduced* when its whole 95% interval satisfies the bound, *not reproduced* when none of it does, and
*inconclusive* otherwise. `thinkrl reproduce --table` writes this page from the `results.json` beside each recipe.

| recipe | check | bound | measured | 95% interval | paper | verdict |
|-|-|-|-|-|-|-|
"""


def results_files(recipes: Path) -> list[Path]:
    """The `results.json` of every recipe below `recipes`, sorted."""
    return sorted([*recipes.glob("*/results.json"), *recipes.glob("*/*/results.json")])


def table(recipes: Path) -> str:
    """The whole page."""
    records = [load_json(path.read_text(encoding="utf-8")) for path in results_files(recipes)]
    rows = [line for record in records for line in _rows(record)]
    analyses = [f"- **{r['recipe']}**: {_cell(r['analysis'])}" for r in records if r["analysis"]]
    notes = "\n## What was learned\n\n" + "\n".join(analyses) + "\n" if analyses else ""
    return HEAD + "".join(f"{row}\n" for row in rows) + notes


def _rows(record: Mapping[str, Any]) -> list[str]:
    rows = []
    for check in record["checks"].values():
        paper = check["paper"]
        cells = [
            record["recipe"],
            check["statement"],
            bound_text(check),
            f"{check['value']:.3g}",
            f"{check['low']:.3g} to {check['high']:.3g}",
            f"{paper['value']} ({paper['source']})" if paper else "",
            check["verdict"],
        ]
        rows.append(_row(cells))
    rows.append(_row([f"**{record['recipe']}**", f"**{record['claim']}**", "", _seeds(record), "", "",
                      f"**{record['verdict']}**"]))  # fmt: skip
    return rows


def bound_text(check: Mapping[str, Any]) -> str:
    """The comparison and its bound: `thinking_tokens ratio <= 0.9`."""
    sign, bound = (">=", check["at_least"]) if check["at_least"] is not None else ("<=", check["at_most"])
    kind = "" if check["compare"] == "difference" else " ratio"
    return f"{check['metric']}{kind} {sign} {bound:g}"


def _seeds(record: Mapping[str, Any]) -> str:
    return f"{len(record['seeds'])} seeds, {record['seconds'] / 60:.0f} min"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(text: str) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")
