"""How a worked solution is written down: briefly, with lines said again, or with slips that are put right."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Line:
    """One line of thinking, and the same line with a wrong result."""

    right: str
    wrong: str


@dataclass(frozen=True)
class ThinkingStyle:
    """What a teacher's thinking holds beside the necessary lines.

    With probability `slip` a line is first written with a wrong result, and put right in a line of its own;
    then, with probability `recheck` each time and at most `most_rechecks` times, it is said again. Neither
    changes the answer: a model that imitates such thinking has something to leave out.
    """

    recheck: float = 0.0
    """Probability that a line is said once more, after each time it was said."""
    most_rechecks: int = 3
    """At most this many repetitions of a line."""
    recheck_text: str = "wait, {line}"
    """How a line is said again: {line}."""
    slip: float = 0.0
    """Probability that a line is first written with a wrong result."""
    slip_text: str = "no, {line}"
    """How a wrong line is put right: {line}."""

    def __post_init__(self) -> None:
        for name in ("recheck", "slip"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")
        if self.most_rechecks < 0:
            raise ValueError(f"most_rechecks must be 0 or more, got {self.most_rechecks}")
        for name in ("recheck_text", "slip_text"):
            if "{line}" not in getattr(self, name):
                raise ValueError(f"{name} must contain {{line}}, got {getattr(self, name)!r}")

    def written(self, lines: Sequence[Line], stream: np.random.Generator) -> list[str]:
        """The lines of one thinking, drawn from `stream`."""
        told = []
        for line in lines:
            if self.slip and stream.random() < self.slip:
                told += [line.wrong, self.slip_text.replace("{line}", line.right)]
            else:
                told.append(line.right)
            for _ in range(self.most_rechecks):
                if not self.recheck or stream.random() >= self.recheck:
                    break
                told.append(self.recheck_text.replace("{line}", line.right))
        return told


PLAIN = ThinkingStyle()
"""The necessary lines and nothing else."""
