"""Curves, intervals and bars as inline SVG, drawn for a width of about 340 points and scaled by the page."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite, log10

from thinkrl.reports.curves import Chart, Curve
from thinkrl.reports.numbers import duration, number
from thinkrl.reports.page.elements import Markup, element

WIDTH, HEIGHT = 340, 180
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 8, 8, 22
COLOURS = 8
"""Classes c0 to c7 of the style sheet; configurations beyond that share colours."""
_HOVERS = 60
_STEPS = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True)
class _Axes:
    """Maps values to places. low, high: of the vertical axis; first, last: of the horizontal one."""

    first: float
    last: float
    low: float
    high: float

    def x(self, step: float) -> float:
        span = self.last - self.first
        share = (step - self.first) / span if span else 0.5
        return _LEFT + share * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM)


def line_chart(chart: Chart, colours: dict[str, int], hovers: bool = True) -> Markup:
    """Each configuration's mean as a line, its runs as faint ones, and its interval as a band."""
    axes = _axes(chart)
    parts: list[Markup] = [*_grid(axes)]
    for curve in chart.curves:
        parts += _curve(curve, axes, f"c{colours[curve.label] % COLOURS}")
    if hovers:
        parts += _hover(chart, axes)
    return element(
        "svg", parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=described(chart), class_="chart"
    )


def described(chart: Chart) -> str:
    """The chart in a sentence, for those who cannot see it."""
    parts = [f"{curve.label} {number(curve.early())}, then {number(curve.late())}" for curve in chart.curves]
    return f"{chart.panel.title}, mean of the first and of the last quarter of the steps: {'; '.join(parts)}"


def _axes(chart: Chart) -> _Axes:
    steps = [step for curve in chart.curves for step in curve.steps]
    values = [value for curve in chart.curves for run in (*curve.seeds, curve.mean) for value in run if isfinite(value)]
    low, high = min(values), max(values)
    if high - low < 1e-12 * max(1.0, abs(high)):
        pad = abs(high) * 0.1 or 0.5
        low, high = low - pad, high + pad
    pad = 0.05 * (high - low)
    # An axis of shares ends where shares end; one that starts near 0 starts there.
    low = max(0.0, low - pad) if low >= 0 else low - pad
    high = min(1.0, high + pad) if chart.panel.share and high <= 1 else high + pad
    return _Axes(min(steps), max(steps), low, high)


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers between `low` and `high`, about `count` of them."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** floor(log10(rough))
    step = next(size * power for size in _STEPS if size * power >= rough * 0.999)
    first = ceil(low / step - 1e-9)
    return [place * step for place in range(first, floor(high / step + 1e-9) + 1)]


def _grid(axes: _Axes) -> list[Markup]:
    parts = []
    for value in ticks(axes.low, axes.high):
        y = _place(axes.y(value))
        parts.append(element("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=y, y2=y, class_="grid"))
        parts.append(element("text", _tick(value), x=_LEFT - 5, y=_place(axes.y(value) + 3.5), class_="ytick"))
    whole = sorted({round(step) for step in ticks(axes.first, axes.last, 5)} or {round(axes.first)})
    for step in whole:
        if axes.first <= step <= axes.last:
            parts.append(element("text", step, x=_place(axes.x(step)), y=HEIGHT - 6, class_="xtick"))
    return parts


def _tick(value: float) -> str:
    if value == 0 or abs(value) < 1e-12:
        return "0"
    if abs(value) >= 1e4 or abs(value) < 1e-3:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.4g}"


def _curve(curve: Curve, axes: _Axes, colour: str) -> list[Markup]:
    parts = []
    band = [
        (step, low, high)
        for step, low, high in zip(curve.steps, curve.low, curve.high, strict=True)
        if isfinite(low) and isfinite(high)
    ]
    if band:
        inside = [(step, _within(low, axes), _within(high, axes)) for step, low, high in band]
        outline = [(s, high) for s, _, high in inside] + [(s, low) for s, low, _ in reversed(inside)]
        parts.append(element("path", d=_path(outline, axes) + "Z", class_=f"band {colour}"))
    if len(curve.seeds) > 1:
        parts += [
            element("path", d=_path(list(zip(curve.steps, run, strict=True)), axes), class_=f"seed {colour}")
            for run in curve.seeds
        ]
    parts.append(
        element("path", d=_path(list(zip(curve.steps, curve.mean, strict=True)), axes), class_=f"mean {colour}")
    )
    return parts


def _within(value: float, axes: _Axes) -> float:
    return min(max(value, axes.low), axes.high)


def _path(points: Sequence[tuple[float, float]], axes: _Axes) -> str:
    """A line through the points, broken where a value is missing."""
    words, pen = [], False
    for step, value in points:
        if not isfinite(value):
            pen = False
            continue
        words.append(f"{'L' if pen else 'M'}{_place(axes.x(step))} {_place(axes.y(value))}")
        pen = True
    return "".join(words)


def _hover(chart: Chart, axes: _Axes) -> list[Markup]:
    """Columns that say their step's values when the pointer rests on them."""
    by_step: dict[float, list[str]] = {}
    for curve in chart.curves:
        prefix = f"{curve.label}: " if len(chart.curves) > 1 else ""
        for step, mean, low, high in zip(curve.steps, curve.mean, curve.low, curve.high, strict=True):
            interval = f" ({number(low)} to {number(high)})" if isfinite(low) else ""
            by_step.setdefault(step, []).append(f"{prefix}{number(mean)}{interval}")
    steps = sorted(by_step)
    every = max(1, ceil(len(steps) / _HOVERS))
    width = (WIDTH - _LEFT - _RIGHT) / max(1, len(steps) / every)
    return [
        element(
            "rect",
            element("title", f"step {number(step)}\n" + "\n".join(by_step[step])),
            x=_place(axes.x(step) - width / 2), y=_TOP, width=_place(width), height=HEIGHT - _TOP - _BOTTOM,
            class_="hover",
        )
        for step in steps[::every]
    ]  # fmt: skip


def interval(
    value: float, low: float, high: float, left: float, right: float, threshold: float | None = None, colour: int = 0
) -> Markup:
    """A point with its interval on a scale from `left` to `right`, and a bound as a dashed line."""
    span = (right - left) or 1.0

    def x(place: float) -> float:
        return _place(4 + 112 * min(max((place - left) / span, 0.0), 1.0))

    parts = [element("line", x1=4, x2=116, y1=9, y2=9, class_="grid")]
    if threshold is not None:
        parts.append(element("line", x1=x(threshold), x2=x(threshold), y1=1, y2=17, class_="bound"))
    if isfinite(low) and isfinite(high):
        parts.append(element("line", x1=x(low), x2=x(high), y1=9, y2=9, class_=f"range c{colour % COLOURS}"))
    if isfinite(value):
        parts.append(element("circle", cx=x(value), cy=9, r=3.5, class_=f"dot c{colour % COLOURS}"))
    return element("svg", parts, viewBox="0 0 120 18", class_="interval", aria_hidden="true")


def bar(seconds: dict[str, float], longest: float) -> Markup:
    """Seconds by part as one bar; `longest` fills the width."""
    parts, place = [], 0.0
    for index, (name, value) in enumerate(seconds.items()):
        width = 300 * value / longest if longest else 0.0
        if width > 0:
            title = element("title", f"{name} {duration(value)}")
            parts.append(
                element("rect", title, x=_place(place), y=1, width=_place(width), height=12, class_=f"c{index}")
            )
        place += width
    return element("svg", parts, viewBox="0 0 300 14", class_="bar", preserveAspectRatio="none", aria_hidden="true")


def _place(value: float) -> float:
    return round(value, 1)
