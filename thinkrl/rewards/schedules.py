"""Weights that change over a stage.

Positions are fractions of the stage, so a scale that shortens it keeps the shape.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass


class Schedule(ABC):
    """A frozen dataclass that maps a step to a weight."""

    @abstractmethod
    def value(self, step: int, total_steps: int) -> float:
        """The weight at `step` of 0..total_steps-1."""


def progress(step: int, total_steps: int) -> float:
    """How far the stage is: 0 at its first step, 1 at its last."""
    return min(1.0, max(0.0, step / max(1, total_steps - 1)))


@dataclass(frozen=True)
class Constant(Schedule):
    """The same weight throughout."""

    weight: float = 1.0
    """The weight."""

    def value(self, step: int, total_steps: int) -> float:
        """The weight, whatever the step."""
        return self.weight


@dataclass(frozen=True)
class _Ramp(Schedule):
    first: float = 0.0
    """Weight up to `begin`."""
    last: float = 1.0
    """Weight from `end` on."""
    begin: float = 0.0
    """Where the change begins, as a fraction of the stage."""
    end: float = 1.0
    """Where the change ends, as a fraction of the stage."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.begin < self.end <= 1.0:
            raise ValueError(f"begin must be below end, both in [0, 1], got {self.begin} and {self.end}")

    def _done(self, step: int, total_steps: int) -> float:
        return min(1.0, max(0.0, (progress(step, total_steps) - self.begin) / (self.end - self.begin)))


@dataclass(frozen=True)
class Linear(_Ramp):
    """w = first + (last - first) * done, `done` running from 0 to 1 between `begin` and `end`."""

    def value(self, step: int, total_steps: int) -> float:
        """The weight on the straight line from `first` to `last`."""
        return self.first + (self.last - self.first) * self._done(step, total_steps)


@dataclass(frozen=True)
class Cosine(_Ramp):
    """w = last + (first - last) * (1 + cos(pi * done)) / 2.

    The annealing of arXiv 1608.03983, eq. 5, without restarts.
    """

    def value(self, step: int, total_steps: int) -> float:
        """The weight on half a cosine from `first` to `last`."""
        return self.last + (self.first - self.last) * (1.0 + math.cos(math.pi * self._done(step, total_steps))) / 2.0


@dataclass(frozen=True)
class Stairs(Schedule):
    """Piecewise constant: `weights[i]` until the stage passes `at[i]`."""

    weights: tuple[float, ...]
    """One weight more than there are changes."""
    at: tuple[float, ...]
    """Where the weight changes, as rising fractions of the stage; the new weight holds from there on."""

    def __post_init__(self) -> None:
        if len(self.weights) != len(self.at) + 1:
            raise ValueError(
                f"weights must hold {len(self.at) + 1} values for {len(self.at)} changes, got {len(self.weights)}"
            )
        if list(self.at) != sorted(set(self.at)) or any(not 0.0 <= place <= 1.0 for place in self.at):
            raise ValueError(f"at must rise within [0, 1], got {self.at}")

    def value(self, step: int, total_steps: int) -> float:
        """The weight of the stair that `step` stands on."""
        return self.weights[sum(progress(step, total_steps) >= place for place in self.at)]


@dataclass(frozen=True)
class EpochRamp(Schedule):
    """w(e) = first + e (last - first) / (E // 2) in the first half of E epochs, and then what it last was.

    So the last value is not `last` but one epoch short of it (the released code of arXiv 2406.05673). The stage's steps
    are its epochs, E parts of equal length.
    """

    first: float
    """Weight of the first epoch."""
    last: float
    """Weight that the ramp leads to, and stops short of."""
    epochs: int = 10
    """E, at least 2."""

    def __post_init__(self) -> None:
        if self.epochs < 2:
            raise ValueError(f"epochs must be at least 2, got {self.epochs}")

    def value(self, step: int, total_steps: int) -> float:
        """The weight of the epoch that `step` is in."""
        half = self.epochs // 2
        epoch = min(self.epochs - 1, step * self.epochs // max(1, total_steps))
        return self.first + min(epoch, half - 1) * (self.last - self.first) / half
