"""The grader of mathematical expressions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from thinkrl.grading.grader import Grader, judged, ungradable, wrong
from thinkrl.grading.number import NumberGrader
from thinkrl.grading.numbers import read_number
from thinkrl.grading.text import last_box
from thinkrl.grading.verdict import Grade, Verdict
from thinkrl.grading.worker_pool import PoolSpec, WorkerDiedError, WorkerTimeoutError, shared_pool

MAX_CHARACTERS = 4000


@dataclass(frozen=True)
class MathGrader(Grader):
    r"""Equal as mathematics: expressions, equations, inequalities, intervals, sets, tuples, matrices, words.

    Expressions are parsed by latex2sympy, whole or not at all, and compared by exact arithmetic, certified
    numerical difference and sampling of their variables. Checking runs in a process that is killed when its
    time is over. Plain numbers are compared in this process, as NumberGrader does.
    """

    timeout_seconds: float = 5.0
    """Wall clock for one answer."""
    workers: int = 2
    """Checking processes; graders with equal sizes share them."""
    memory_mib: int = 1024
    """What a checking process may allocate beyond its libraries, in MiB."""
    relative_tolerance: float = 0.0
    """Difference allowed between numbers, relative to the greater magnitude."""
    decimal_tolerance: float = 1e-6
    """The same where one side is a decimal and the other has no exact decimal form."""

    def __post_init__(self) -> None:
        if not self.timeout_seconds > 0.0:
            raise ValueError(f"timeout_seconds must be above 0, got {self.timeout_seconds}")
        for name in ("workers", "memory_mib"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        _ = self._numbers

    @property
    def _numbers(self) -> NumberGrader:
        return NumberGrader(self.relative_tolerance, self.decimal_tolerance)

    def grade(self, response_answer: str | None, reference: Any) -> Grade:
        """CORRECT where both are equal; TIMEOUT where the clock or the memory ran out."""
        return self.grade_all([response_answer], [reference])[0]

    def grade_all(self, answers: Sequence[str | None], references: Sequence[Any]) -> list[Grade]:
        """Compares pair by pair; equal pairs are checked once, different ones side by side."""
        pairs = [(a, _text(r)) for a, r in zip(answers, references, strict=True)]
        grades = {pair: grade for pair in pairs if (grade := self._at_once(*pair)) is not None}
        asked = list(dict.fromkeys(pair for pair in pairs if pair not in grades))
        pool = shared_pool(PoolSpec("thinkrl.grading.math_worker", self.workers, self.memory_mib))
        grades.update(zip(asked, pool.map(self._ask, asked), strict=True))
        return [grades[pair] for pair in pairs]

    def _at_once(self, answer: str | None, reference: str | None) -> Grade | None:
        """What needs no worker."""
        if reference is None or not reference.strip():
            return ungradable("no reference")
        if answer is None or not answer.strip():
            # A reference that cannot be read is ungradable for every answer, so it is read all the same.
            return wrong("no answer") if read_number(reference) else None
        gold, given = (read_number(_unboxed(text), assignment=False) for text in (reference, answer))
        if gold is None or given is None:
            return None
        if gold.unit and given.unit and gold.unit != given.unit:
            return wrong(f"unit {given.unit} for {gold.unit}")
        return judged(self._numbers.same(gold, given))

    def _ask(self, pair: tuple[str | None, str]) -> Grade:
        answer, reference = pair
        request = {
            "answer": _unboxed(answer or "")[: MAX_CHARACTERS + 1],
            "reference": _unboxed(reference)[: MAX_CHARACTERS + 1],
            "relative_tolerance": self.relative_tolerance,
            "decimal_tolerance": self.decimal_tolerance,
        }
        pool = shared_pool(PoolSpec("thinkrl.grading.math_worker", self.workers, self.memory_mib))
        try:
            found = pool.ask(request, self.timeout_seconds)
        except (WorkerTimeoutError, WorkerDiedError) as error:
            return Grade(Verdict.TIMEOUT, str(error))
        return Grade(Verdict(found["verdict"]), found["note"])


def _text(reference: Any) -> str | None:
    if isinstance(reference, str):
        return reference
    return str(reference) if isinstance(reference, int | float) and not isinstance(reference, bool) else None


def _unboxed(text: str) -> str:
    r"""The content of the last `\boxed{}`, where there is one; empty where it never closes."""
    if "\\boxed" not in text:
        return text
    return last_box(text)[0] or ""
