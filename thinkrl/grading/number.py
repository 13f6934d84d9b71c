"""The grader of single numbers."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from thinkrl.grading.grader import Grader, judged, ungradable, wrong
from thinkrl.grading.numbers import Number, read_number
from thinkrl.grading.text import shorten
from thinkrl.grading.verdict import Grade


@dataclass(frozen=True)
class NumberGrader(Grader):
    """|a - b| <= tolerance * max(|a|, |b|) in exact rational arithmetic.

    Integers, decimals, fractions, mixed numbers, thousands separators, percentages, powers of ten, scale
    words, units, and digits of any script. The whole answer must be one number: finding it in a text is
    the extractor's work. Where both name a unit, the units must agree; they are never converted.
    """

    relative_tolerance: float = 0.0
    """Difference allowed, relative to the greater magnitude."""
    decimal_tolerance: float = 1e-6
    """The same where one side is a decimal and the other, such as 1/3, has no exact decimal form."""
    units: bool = True
    """Whether a unit may follow the number; otherwise such an answer is no number."""
    bare_percent: bool = True
    """Whether 50 matches 50% beside 0.5 matching it."""

    def __post_init__(self) -> None:
        for name in ("relative_tolerance", "decimal_tolerance"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")

    def grade(self, response_answer: str | None, reference: Any) -> Grade:
        """CORRECT where both are the same number."""
        gold = self._read(reference)
        if gold is None:
            return ungradable(f"no number in the reference {shorten(reference)}")
        if response_answer is None or not response_answer.strip():
            return wrong("no answer")
        answer = self._read(response_answer)
        if answer is None:
            return wrong(f"not one number: {shorten(response_answer)}")
        if gold.unit and answer.unit and gold.unit != answer.unit:
            return wrong(f"unit {answer.unit} for {gold.unit}")
        return judged(self.same(gold, answer))

    def same(self, a: Number, b: Number) -> bool:
        """Whether two numbers are equal under the tolerances; units are not looked at."""
        pairs = [(a.worth, b.worth)]
        if self.bare_percent and a.percent != b.percent:
            pairs.append((a.value, b.value))
        lenient = (a.decimal and not b.terminates) or (b.decimal and not a.terminates)
        # By its decimal form: the float 1e-6 is a little less than one millionth.
        tolerance = Fraction(str(max(self.relative_tolerance, self.decimal_tolerance if lenient else 0.0)))
        return any(abs(x - y) <= tolerance * max(abs(x), abs(y)) for x, y in pairs)

    def _read(self, source: Any) -> Number | None:
        number = read_number(source)
        return None if number is not None and number.unit and not self.units else number
