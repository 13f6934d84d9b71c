"""The grader of verdicts between two, by marks such as [[A]] and [[B]]."""

from dataclasses import dataclass
from typing import Any

from thinkrl.grading.grader import Grader, judged, ungradable, wrong
from thinkrl.grading.verdict import Grade


@dataclass(frozen=True)
class VerdictMarkGrader(Grader):
    """CORRECT where the mark of the right side stands anywhere in the answer, and the other nowhere.

    References are A or B (model_a or model_b). No mark, or both, is WRONG: so RM-R1 (arXiv 2505.02387) evaluates.
    """

    mark: str = "[[{side}]]"
    """How a side is named: {side} is A or B."""

    def __post_init__(self) -> None:
        if "{side}" not in self.mark:
            raise ValueError(f"mark must contain {{side}}, got {self.mark!r}")

    def grade(self, response_answer: str | None, reference: Any) -> Grade:
        """Compares the marks of an answer with the right side."""
        side = str(reference).removeprefix("model_").upper() if isinstance(reference, str) else ""
        if side not in ("A", "B"):
            return ungradable(f"the reference must be A or B, got {reference!r}")
        named = [one for one in "AB" if self.mark.replace("{side}", one) in (response_answer or "")]
        if len(named) != 1:
            return wrong("verdicts for both" if named else "no verdict")
        return judged(named[0] == side)
