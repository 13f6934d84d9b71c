"""Rules that stop points without hope before they have cost what a good one costs. None applies unless asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Protocol

from thinkrl.tracking.metrics import Row

Curve = Mapping[int, float]
"""A column of the metrics log by step, from 1."""


class StoppingRule(Protocol):
    """A component that compares a run with those of other points, step by step.

    It reads `metric` of `stage`; an empty stage is the last one of the recipe that trains.
    """

    @property
    def metric(self) -> str:
        """Column of the metrics log."""
        ...

    @property
    def stage(self) -> str:
        """Stage whose rows are read."""
        ...

    def reason(self, own: Curve, others: Sequence[Curve]) -> str:
        """Why the run should stop now, from its rows and those of the runs of other points; empty if it should not."""
        ...


@dataclass(frozen=True)
class MedianStop:
    """Stops a run at step s when its best value up to s is worse than the median of the others' means up to s.

    The median stopping rule of Google Vizier (Golovin et al. 2017, section 3.2.2). It is asked from step `after` on.
    """

    metric: str = "reward/mean"
    """Column of the metrics log that is compared."""
    stage: str = ""
    """Stage whose rows are read; empty takes the last one that trains."""
    after: int = 10
    """The first step at which a run may stop."""
    others: int = 3
    """So many runs of other points must have come as far; with fewer, nothing stops."""
    minimize: bool = False
    """Lower is better."""

    def __post_init__(self) -> None:
        for name in ("after", "others"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def reason(self, own: Curve, others: Sequence[Curve]) -> str:
        """Compares at the last step that the run has made."""
        step = max(own, default=0)
        peers = [fmean(_until(curve, step)) for curve in others if max(curve, default=0) >= step > 0]
        if step < self.after or len(peers) < self.others:
            return ""
        best = min(own.values()) if self.minimize else max(own.values())
        middle = median(peers)
        if (best <= middle) if self.minimize else (best >= middle):
            return ""
        return (
            f"at step {step} its best {self.metric} is {best:.4g}, and the median of the means of {len(peers)} runs of"
            f" other points {middle:.4g}"
        )


@dataclass(frozen=True)
class HalvingStop:
    """At steps r, r*f, r*f^2, ... a run goes on only if it is among the best 1/f of all that have come so far.

    Asynchronous successive halving in its stopping form (Li et al. 2020, arXiv 1810.05934): r is `first`, f is
    `factor`. Compared is the mean over the last quarter of the steps up to there. It is asked
    again while others come.
    """

    metric: str = "reward/mean"
    """Column of the metrics log that is compared."""
    stage: str = ""
    """Stage whose rows are read; empty takes the last one that trains."""
    first: int = 10
    """The first step at which runs are compared."""
    factor: int = 3
    """One in so many goes on, and the next comparison is at so many times the steps."""
    minimize: bool = False
    """Lower is better."""

    def __post_init__(self) -> None:
        if self.first < 1:
            raise ValueError(f"first must be at least 1, got {self.first}")
        if self.factor < 2:
            raise ValueError(f"factor must be at least 2, got {self.factor}")

    def reason(self, own: Curve, others: Sequence[Curve]) -> str:
        """Compares at the highest rung that the run has reached."""
        step, rung = max(own, default=0), self.first
        if step < rung:
            return ""
        while rung * self.factor <= step:
            rung *= self.factor
        sign = -1.0 if self.minimize else 1.0
        mine = sign * _late_mean(own, rung)
        peers = [sign * _late_mean(curve, rung) for curve in others if max(curve, default=0) >= rung]
        if len(peers) + 1 < self.factor:
            return ""
        better = sum(value > mine for value in peers)
        kept = (len(peers) + 1) // self.factor
        if better < kept:
            return ""
        return (
            f"at step {rung} its {self.metric} is {sign * mine:.4g}: {better} of {len(peers)} runs of other points are"
            f" better, and the best {kept} go on"
        )


@dataclass(frozen=True)
class Stopping:
    """The configuration behind `thinkrl sweep --stop`."""

    stopping: StoppingRule
    """The rule."""


def read_curve(rows: Sequence[Row], metric: str, stage: str) -> dict[int, float]:
    """A column of a stage by step, without NaN; empty where nothing logs it yet."""
    return {
        step: float(value)
        for row in rows
        if row.get("stage") == stage
        and isinstance(step := row.get("step"), int)
        and isinstance(value := row.get(metric), int | float)
        and value == value
    }


def _until(curve: Curve, step: int) -> list[float]:
    return [value for at, value in curve.items() if at <= step]


def _late_mean(curve: Curve, step: int) -> float:
    values = _until(curve, step)
    return fmean(values[-max(1, len(values) // 4) :])
