"""`docs/reproductions.md`: one row for every check of every recipe that has results."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from thinkrl.tracking.json_values import load_json

HEAD = """# Reproductions

What `thinkrl reproduce RECIPE` found, method against baseline on an equal budget: at laptop scale, and for a recipe
written NAME/paper at the paper's. A check is *reproduced* when its whole 95% interval satisfies the bound, *not
reproduced* when none of it does, and *inconclusive* otherwise. `here` is the metric of each side, `measured` what the
bound is about, their difference or ratio. At laptop scale the paper's numbers are those of other models and data, and
to be compared in direction alone. `thinkrl reproduce --table` writes this page from the `results.json` beside recipes.

| recipe | check | bound | here | measured | 95% interval | paper | verdict |
|-|-|-|-|-|-|-|-|
"""
RESULTS, PAPER_RESULTS = "results.json", "results_paper.json"
"""Beside a recipe: what its laptop form gave, and what its full-size form gave."""


def results_files(recipes: Path) -> list[Path]:
    """The results of every recipe below `recipes`, sorted."""
    return sorted(
        path for depth in ("*", "*/*") for name in (RESULTS, PAPER_RESULTS) for path in recipes.glob(f"{depth}/{name}")
    )


def table(recipes: Path) -> str:
    """The whole page."""
    records = [load_json(path.read_text(encoding="utf-8")) for path in results_files(recipes)]
    rows = [line for record in records for line in _rows(record)]
    analyses = [f"- **{r['recipe']}** ({r['verdict']}): {_cell(r['analysis'])}" for r in records if r["analysis"]]
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
            "{:.3g} against {:.3g}".format(*check["means"]),
            f"{check['value']:.3g}",
            f"{check['low']:.3g} to {check['high']:.3g}",
            f"{paper['value']} ({paper['source']})" if paper else "",
            check["verdict"],
        ]
        rows.append(_row(cells))
    rows.append(_row([f"**{record['recipe']}**", f"**{record['claim']}**", "", _cost(record), "", "", "",
                      f"**{record['verdict']}**"]))  # fmt: skip
    return rows


def bound_text(check: Mapping[str, Any]) -> str:
    """The comparison and its bound: `thinking_tokens ratio <= 0.9`."""
    sign, bound = (">=", check["at_least"]) if check["at_least"] is not None else ("<=", check["at_most"])
    kind = "" if check["compare"] == "difference" else " ratio"
    other = f" against {check['against_metric']}" if check.get("against_metric") else ""
    return f"{check['metric']}{other}{kind} {sign} {bound:g}"


def _cost(record: Mapping[str, Any]) -> str:
    """Seeds, minutes of all runs, and the commits that made them."""
    commits = ", ".join(commit[:9] + "+" * commit.endswith("+") for commit in record.get("commits") or ())
    seeds = " ".join(map(str, record["seeds"]))
    return f"seeds {seeds}; {minutes_of(record):.0f} min" + (f"; commit {commits}" if commits else "")


def minutes_of(record: Mapping[str, Any]) -> float:
    """Minutes of all runs by the clock; where that is not noted, those of their steps."""
    noted = sum(sum(seeds.values()) for seeds in (record.get("minutes") or {}).values())
    return float(noted or record["seconds"] / 60)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(text: str) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")
