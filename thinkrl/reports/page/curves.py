"""Curves on the page: small charts side by side, a table of their numbers, and in a line what never changes."""

from collections.abc import Sequence

from thinkrl.reports.curves import Chart
from thinkrl.reports.numbers import number
from thinkrl.reports.page.drawing import COLOURS, line_chart
from thinkrl.reports.page.elements import Markup, element, join
from thinkrl.reports.page.tables import Column, table
from thinkrl.reports.report import Report


def curves_section(report: Report) -> Markup | None:
    """Every stage's charts; columns that never change are told in a line."""
    if not report.charts:
        return None
    colours = report.colours
    parts: list[object] = []
    if len(colours) > 1:
        keys = [
            element("span", element("i"), label, class_=f"key c{index % COLOURS}") for label, index in colours.items()
        ]
        parts.append(element("p", keys))
    if report.seeds:
        parts.append(element("p", "Thick lines are means over seeds, thin ones single runs, bands 95% intervals over"
                                  " seeds (Student's).", class_="soft"))  # fmt: skip
    for charts in report.charts:
        moving = [chart for chart in charts.charts if chart.constant is None]
        still = [chart for chart in charts.charts if chart.constant is not None]
        others = [chart for chart in charts.others if chart.constant is None]
        parts.append(element("h3", charts.stage))
        parts.append(element("div", [_figure(chart, colours) for chart in moving], class_="charts"))
        if still:
            told = ", ".join(f"{chart.panel.title} {number(chart.constant)}" for chart in still)
            parts.append(element("p", f"The same at every step: {told}.", class_="soft"))
        if others:
            small = element("div", [_figure(chart, colours, hovers=False) for chart in others], class_="charts")
            parts.append(
                element("details", element("summary", f"{len(others)} other columns of {charts.stage}"), small)
            )
        parts.append(_numbers(moving, charts.stage))
    return join(*parts)


def _figure(chart: Chart, colours: dict[str, int], hovers: bool = True) -> Markup:
    first = chart.curves[0]
    moved = f"{number(first.early())} → {number(first.late())}" if len(chart.curves) == 1 else ""
    return element(
        "figure",
        element("figcaption", chart.panel.title, element("span", moved)),
        line_chart(chart, colours, hovers),
        element("p", chart.panel.meaning) if chart.panel.meaning else None,
    )


def _numbers(charts: Sequence[Chart], stage: str) -> Markup:
    """The charts as a table, for those who cannot see them or want digits."""
    columns = [Column("column"), Column("runs"), Column("first quarter", True), Column("last quarter", True)]
    rows = [
        [chart.panel.title, curve.label, number(curve.early()), number(curve.late())]
        for chart in charts
        for curve in chart.curves
    ]
    return element("details", element("summary", f"{stage} in numbers"), table(columns, rows))
