"""How a worked solution is written down: briefly, with lines said again, slips that are put right, or idle guesses."""

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

    With probability `guess` digits are drawn before a line that lead nowhere; with probability `slip` the line is
    first written with a wrong result, and put right in a line of its own; then, with probability `recheck` each time
    and at most `most_rechecks` times, it is said again. None of these changes the answer: a model that imitates such
    thinking has something to leave out, which is unsure (guesses), wrong (slips) or sure (repetitions). Where lines are
    `unsaid`, how sure the model is of the answer says something of whether it is right.
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
    guess: float = 0.0
    """Probability that a line of drawn digits stands before a line."""
    guess_digits: int = 5
    """Digits of a guess, each equally likely."""
    guess_text: str = "hm {digits}"
    """How a guess is written: {digits}."""
    unsaid: int = 0
    """Last lines that are left out, if one is left: they are worked out in the head, and the answer alone says them."""

    def __post_init__(self) -> None:
        for name in ("recheck", "slip", "guess"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")
        if self.most_rechecks < 0:
            raise ValueError(f"most_rechecks must be 0 or more, got {self.most_rechecks}")
        if self.unsaid < 0:
            raise ValueError(f"unsaid must be 0 or more, got {self.unsaid}")
        if self.guess_digits < 1:
            raise ValueError(f"guess_digits must be at least 1, got {self.guess_digits}")
        for name, key in (("recheck_text", "line"), ("slip_text", "line"), ("guess_text", "digits")):
            if f"{{{key}}}" not in getattr(self, name):
                raise ValueError(f"{name} must contain {{{key}}}, got {getattr(self, name)!r}")

    def written(self, lines: Sequence[Line], stream: np.random.Generator) -> list[str]:
        """The lines of one thinking, drawn from `stream`."""
        told = []
        for line in lines[: max(1, len(lines) - self.unsaid)]:
            if self.guess and stream.random() < self.guess:
                digits = "".join(str(digit) for digit in stream.integers(0, 10, self.guess_digits))
                told.append(self.guess_text.replace("{digits}", digits))
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
