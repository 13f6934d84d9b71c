"""A report as Markdown: the same numbers for terminals, issues and notes; curves as their first and last quarters."""

import re
from collections.abc import Sequence

from thinkrl.reports.claims import ClaimReport
from thinkrl.reports.numbers import change, duration, number, percent
from thinkrl.reports.report import Report
from thinkrl.reports.samples import Sample

_FENCE = re.compile(r"`{3,}")


def markdown(report: Report) -> str:
    """The whole report; what models wrote stands in fences that it cannot close."""
    parts = [
        f"# {_inline(report.title)}",
        f"Made {report.made} by thinkrl {report.version}.",
        _runs(report),
        _claim(report.claim) if report.claim else "",
        _notices(report),
        _results(report),
        *_curves(report),
        _settings(report),
        *_samples(report),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [_row(headings), "|" + "-|" * len(headings), *(_row(row) for row in rows)]
    return "\n".join(lines)


def _row(cells: Sequence[object]) -> str:
    return "| " + " | ".join(_inline(str(cell)) for cell in cells) + " |"


def _inline(text: str) -> str:
    """Text in a line that neither ends a table's cell nor opens a tag."""
    return " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def _runs(report: Report) -> str:
    rows = [
        [c.label, run.seed if run.seed is not None else "", run.outcome, duration(run.wall_seconds or None), run.path]
        for c in report.configurations
        for run in c.runs
    ]
    return _table(["runs", "seed", "state", "time", "directory"], rows)


def _claim(claim: ClaimReport) -> str:
    rows = [
        [
            check.statement,
            f"{check.paper} ({check.source})" if check.paper else "",
            check.ours,
            f"{number(check.value)} ({number(check.low)} to {number(check.high)})",
            check.bound,
            check.verdict,
        ]
        for check in claim.checks
    ]
    head = f"## Claim\n\n{_inline(claim.statement)}\n\n**{claim.verdict}** on {len(claim.seeds)} seeds."
    made = _table(["check", "paper", "here", "difference or ratio, 95%", "bound", "verdict"], rows)
    analysis = f"\n\nAnalysis: {_inline(claim.analysis)}" if claim.analysis else ""
    return f"{head}\n\n{made}{analysis}"


def _notices(report: Report) -> str:
    if not report.notices:
        return ""
    lines = [f"- **{_inline(n.title)}** ({n.level}, {_inline(n.about)}): {_inline(n.text)}" for n in report.notices]
    return "## Warnings\n\n" + "\n".join(lines)


def _results(report: Report) -> str:
    if not report.evaluations:
        return ""
    rows = []
    for e in report.evaluations:
        moved = f"{change(e.change.value)} ({change(e.change.low)} to {change(e.change.high)})" if e.change else ""
        interval = f"{percent(e.accuracy.low)} to {percent(e.accuracy.high)}"
        rows.append([e.stage, e.label, e.seeds, percent(e.accuracy.value), interval, moved])
    headings = ["stage", "runs", "seeds", "accuracy", "95% interval", "change, points"]
    return "## Held-out results\n\n" + _table(headings, rows)


def _curves(report: Report) -> list[str]:
    parts = []
    for charts in report.charts:
        rows = [
            [chart.panel.title, curve.label, number(curve.early()), number(curve.late())]
            for chart in charts.charts
            for curve in chart.curves
        ]
        parts.append(
            f"## {_inline(charts.stage)}\n\n" + _table(["column", "runs", "first quarter", "last quarter"], rows)
        )
    return parts


def _settings(report: Report) -> str:
    if not report.settings:
        return ""
    labels = [c.label for c in report.configurations] if len(report.configurations) > 1 else ["value"]
    rows = [
        [s.key, *(f"{value} ({origin})" if origin else value for value, origin in s.values)] for s in report.settings
    ]
    return "## Configuration\n\n" + _table(["key", *labels], rows)


def _samples(report: Report) -> list[str]:
    return ["## Samples", *map(_sample, report.samples)] if report.samples else []


def _sample(sample: Sample) -> str:
    about = [sample.label, sample.stage, f"step {sample.step}", sample.verdict, f"reward {number(sample.reward)}"]
    text = "".join(words for _, words in sample.parts)
    longest = max((len(ticks) for ticks in _FENCE.findall(text)), default=2)
    fence = "`" * (longest + 1)
    return f"### {_inline(', '.join(part for part in about if part))}\n\n{fence}\n{text}\n{fence}"
