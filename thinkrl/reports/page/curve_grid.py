"""Panels of curves as one SVG file that stands alone: no script, no style sheet, nothing fetched."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thinkrl.reports.curves import Chart, Curve
from thinkrl.reports.numbers import number
from thinkrl.reports.page.drawing import HEIGHT, WIDTH, line_chart
from thinkrl.reports.page.elements import Markup, element
from thinkrl.reports.panels import Panel
from thinkrl.reproduction.statistics import student_interval

_COLOURS = ("#0b62c4", "#c2480f", "#0d7f58", "#8440b4", "#98740a", "#0d7885", "#b8256b", "#59616b")
_DASHES = ("none", "7 3", "2.5 2.5", "9 3 2 3", "12 3", "4 2", "1.5 3", "6 2 1 2")
_STYLE = (
    "text{font:11px system-ui,sans-serif;fill:#5a626d}.head{font-size:16px;font-weight:600;fill:#1a1d21}"
    ".name{font-size:12.5px;font-weight:600;fill:#1a1d21}.label{fill:#1a1d21;font-size:12px}"
    ".ytick{text-anchor:end}.xtick,.axis{text-anchor:middle}.grid{stroke:#d5d9df}"
    ".mean{fill:none;stroke-width:1.8}.band{opacity:.13}"
) + "".join(
    f".mean.c{place}{{stroke:{colour};stroke-dasharray:{dash}}}.band.c{place}{{fill:{colour}}}"
    for place, (colour, dash) in enumerate(zip(_COLOURS, _DASHES, strict=True))
)
_GAP, _HEAD, _KEY, _NAME, _AXIS = 18, 34, 24, 20, 16
_LETTER = 6.6
"""Width of a letter of the key, about."""


@dataclass(frozen=True, eq=False)
class CurvePanel:
    """One panel. curves: by label, [n] each, or [responses, n], of which mean and 95% interval are drawn."""

    title: str
    curves: Mapping[str, NDArray[np.float64]]


def curve_grid(title: str, panels: Sequence[CurvePanel], columns: int, axis: str) -> str:
    """All panels in rows of `columns`, with one key; places along `axis` are 0, 1, 2, ...

    A label has the same colour and dashes in every panel. A panel without a finite value is left empty.
    """
    labels = list(dict.fromkeys(label for panel in panels for label in panel.curves))
    rows = -(-len(panels) // columns)
    width, height = columns * (WIDTH + _GAP) + _GAP, _HEAD + _KEY + rows * (_NAME + HEIGHT + _AXIS + _GAP)
    parts = [
        element("style", Markup(_STYLE)),
        element("rect", width=width, height=height, fill="#ffffff"),
        element("text", title, x=_GAP, y=24, class_="head"),
        *_key(labels),
    ]
    for place, panel in enumerate(panels):
        row, column = divmod(place, columns)
        x, y = _GAP + column * (WIDTH + _GAP), _HEAD + _KEY + _NAME + row * (_NAME + HEIGHT + _AXIS + _GAP)
        inside = [
            element("text", panel.title, x=0, y=-5, class_="name"),
            element("text", axis, x=WIDTH / 2, y=HEIGHT + 8, class_="axis"),
            _chart(panel, {label: index for index, label in enumerate(labels)}),
        ]
        parts.append(element("g", inside, transform=f"translate({x} {y})"))
    return str(
        element("svg", parts, xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {width} {height}", width=width,
                height=height, role="img", aria_label=title)
    )  # fmt: skip


def _key(labels: Sequence[str]) -> list[Markup]:
    parts, x = [], float(_GAP)
    for place, label in enumerate(labels):
        line = f"M{x:.1f} {_HEAD + 8}h26"
        parts.append(element("path", d=line, class_=f"mean c{place % len(_COLOURS)}"))
        parts.append(element("text", label, x=round(x + 32, 1), y=_HEAD + 12, class_="label"))
        x += 50 + _LETTER * len(label)
    return parts


def _chart(panel: CurvePanel, colours: dict[str, int]) -> Markup | None:
    curves = tuple(_curve(label, values) for label, values in panel.curves.items())
    known = tuple(curve for curve in curves if any(map(isfinite, curve.mean)))
    if not known:
        return None
    said = "; ".join(f"{curve.label} {number(curve.early())}, then {number(curve.late())}" for curve in known)
    chart = line_chart(Chart(Panel("", panel.title), known), colours, hovers=False)
    label = f"{panel.title}, mean of the first and of the last quarter: {said}"
    # A chart fills what is around it, which must have a size.
    return element("svg", chart, width=WIDTH, height=HEIGHT, role="img", aria_label=label)


def _curve(label: str, values: ArrayLike) -> Curve:
    table = np.atleast_2d(np.asarray(values, dtype=np.float64))
    kept = table[~np.isnan(table).any(axis=1)] if len(table) > 1 else table
    points = [student_interval(column) for column in kept.T.tolist()]
    if len(kept) < 2:
        points = [(mean, nan, nan) for mean, _, _ in points]
    mean, low, high = (tuple(point[place] for point in points) for place in range(3))
    return Curve(label, tuple(map(float, range(table.shape[1]))), mean, low, high, seeds=())
