"""Columns of the log as curves: the mean over a configuration's runs at each step, with an interval over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan

import numpy as np
from numpy.typing import NDArray

from thinkrl.reports.configurations import Configuration
from thinkrl.reports.panels import Panel, panels
from thinkrl.reproduction.statistics import student_interval
from thinkrl.tracking.metrics import Row

Values = NDArray[np.float64]
POINTS = 400
"""Most points that a curve is drawn with; more steps are averaged in equal stretches."""


@dataclass(frozen=True)
class Curve:
    """One configuration's column. steps [n]; mean, low, high [n], low and high NaN where one run alone has the step;
    seeds: each run's values [n], NaN where it has none."""

    label: str
    steps: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    seeds: tuple[tuple[float, ...], ...]

    @property
    def constant(self) -> float | None:
        """The value that every step of every run has, where there is one."""
        values = {value for run in self.seeds for value in run if isfinite(value)}
        return values.pop() if len(values) == 1 else None

    def early(self) -> float:
        """Mean of the first quarter of the steps."""
        return _mean(self.mean[: max(1, len(self.mean) // 4)])

    def late(self) -> float:
        """Mean of the last quarter of the steps."""
        return _mean(self.mean[-max(1, len(self.mean) // 4) :])


@dataclass(frozen=True)
class Chart:
    """A panel with a curve for each configuration that has the column."""

    panel: Panel
    curves: tuple[Curve, ...]

    @property
    def constant(self) -> float | None:
        """The one value of all curves, where there is one."""
        values = {curve.constant for curve in self.curves}
        return values.pop() if len(values) == 1 else None


@dataclass(frozen=True)
class StageCharts:
    """A stage's charts: those that everybody asks for, and the log's other columns."""

    stage: str
    charts: tuple[Chart, ...]
    others: tuple[Chart, ...]

    @property
    def known(self) -> dict[str, Chart]:
        """The charts by column."""
        return {chart.panel.column: chart for chart in self.charts}


def stage_charts(configurations: Sequence[Configuration]) -> tuple[StageCharts, ...]:
    """Charts of every stage with at least two steps, in the order of the stages."""
    names = dict.fromkeys(name for configuration in configurations for name in configuration.stages)
    made = [_charts_of(name, configurations) for name in names]
    return tuple(charts for charts in made if charts.charts)


def _charts_of(stage: str, configurations: Sequence[Configuration]) -> StageCharts:
    rows = {c.label: [list(run.by_stage.get(stage, ())) for run in c.runs] for c in configurations}
    longest = max((len(own) for runs in rows.values() for own in runs), default=0)
    if longest < 2:
        return StageCharts(stage, (), ())
    known, others = panels(key for runs in rows.values() for own in runs for row in own for key in row)
    return StageCharts(stage, _charts(known, rows), _charts(others, rows))


def _charts(wanted: Sequence[Panel], rows: Mapping[str, list[list[Row]]]) -> tuple[Chart, ...]:
    found = []
    for panel in wanted:
        curves = [curve(label, panel.column, runs) for label, runs in rows.items()]
        kept = tuple(one for one in curves if any(map(isfinite, one.mean)))
        if kept:
            found.append(Chart(panel, kept))
    return tuple(found)


def curve(label: str, column: str, runs: Sequence[Sequence[Row]]) -> Curve:
    """The curve of `column` over the rows of one stage, run by run."""
    values = [{float(row["step"] or 0): _number(row[column]) for row in own if column in row} for own in runs]
    steps = sorted({step for own in values for step in own})
    seeds = [[own.get(step, nan) for step in steps] for own in values if own]
    table = np.asarray(seeds, dtype=np.float64).reshape(len(seeds), len(steps))
    places, table = _thinned(np.asarray(steps), table)
    if len(table) == 1:  # one run has no interval
        points = [(value, nan, nan) for value in table[0].tolist()]
    else:
        points = [student_interval([value for value in column if isfinite(value)]) for column in table.T.tolist()]
    return Curve(
        label=label,
        steps=tuple(places.tolist()),
        mean=tuple(point[0] for point in points),
        low=tuple(point[1] for point in points),
        high=tuple(point[2] for point in points),
        seeds=tuple(map(tuple, table.tolist())),
    )


def _thinned(steps: Values, table: Values) -> tuple[Values, Values]:
    """Means of stretches of equal length, so that at most POINTS are left; infinities count as missing."""
    table = np.where(np.isfinite(table), table, np.nan)
    if len(steps) <= POINTS:
        return steps, table
    size = -(-len(steps) // POINTS)
    starts = range(0, len(steps), size)
    places = np.asarray([steps[start : start + size].mean() for start in starts])
    parts = [[_mean(own[start : start + size].tolist()) for start in starts] for own in table]
    return places, np.asarray(parts)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else nan


def _mean(values: Sequence[float]) -> float:
    kept = [value for value in values if isfinite(value)]
    return sum(kept) / len(kept) if kept else nan
