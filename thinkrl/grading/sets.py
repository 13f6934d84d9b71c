"""The grader of collections whose order does not matter."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from thinkrl.grading.grader import Grader, judged, ungradable, wrong
from thinkrl.grading.number import NumberGrader
from thinkrl.grading.text import plain, shorten, unwrap
from thinkrl.grading.verdict import Grade, Verdict

MAX_CHARACTERS = 20000
"""Only so much of an answer is read; what a cut leaves is WRONG by its elements."""
_BRACES = (("\\{", "\\}"), ("{", "}"), ("[", "]"), ("(", ")"))
_AND = re.compile(r"\s*(?:,\s*)?(?:\\text\s*\{\s*(?:and|or)\s*\}|\b(?:and|or)\b)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class SetGrader(Grader):
    """Equal sets: every element of each side has its own equal on the other side.

    Elements are parted by commas, semicolons, `and` or `or`; braces or brackets around the whole are
    dropped. A comma always parts, so thousands are written without, or as `{,}`.
    """

    element: Grader = field(default_factory=NumberGrader)
    """Compares single elements."""
    multiset: bool = False
    """Whether it counts how often an element stands there."""
    max_elements: int = 200
    """More elements than this are WRONG (in the reference: UNGRADABLE)."""

    def __post_init__(self) -> None:
        if self.max_elements < 1:
            raise ValueError(f"max_elements must be at least 1, got {self.max_elements}")

    def grade(self, response_answer: str | None, reference: Any) -> Grade:
        """CORRECT where both hold the same elements in any order."""
        gold = list(reference) if isinstance(reference, list | tuple) else self._split(reference)
        if not gold or len(gold) > self.max_elements:
            return ungradable(f"no set in the reference {shorten(reference)}")
        for element in gold:
            if self._compare(str(element), element).verdict is not Verdict.CORRECT:
                return ungradable(f"element {shorten(element)} of the reference cannot be read")
        answer = self._split(response_answer)
        if not answer:
            return wrong("no answer")
        if len(answer) > self.max_elements:
            return wrong(f"{len(answer)} elements")
        return self._match(answer, gold)

    def _match(self, answer: Sequence[str], gold: Sequence[Any]) -> Grade:
        if not self.multiset:
            gold = self._different(gold)
            answer = self._different(answer)
        if len(answer) != len(gold):
            return wrong(f"{len(answer)} elements for {len(gold)}")
        left = list(gold)
        for element in answer:
            grades = [self._compare(element, other) for other in left]
            stopped = next((grade for grade in grades if grade.verdict is Verdict.TIMEOUT), None)
            found = next((i for i, grade in enumerate(grades) if grade.verdict is Verdict.CORRECT), None)
            if found is None:
                return stopped or wrong(f"{shorten(element)} is not in the reference")
            left.pop(found)
        return judged(True)

    def _different(self, elements: Sequence[Any]) -> list[Any]:
        kept: list[Any] = []
        for element in elements:
            if not any(self._compare(str(element), other).verdict is Verdict.CORRECT for other in kept):
                kept.append(element)
        return kept

    def _compare(self, element: str, other: Any) -> Grade:
        return self.element.grade(element, other)

    def _split(self, source: Any) -> list[str]:
        if not isinstance(source, str) or not source.strip():
            return []
        text = plain(source[:MAX_CHARACTERS]).replace("\\left", "").replace("\\right", "")
        # One space for many: patterns that skip white space stay linear.
        text = unwrap(" ".join(text.split()))
        for left, right in _BRACES:
            if text.startswith(left) and text.endswith(right):
                text = text[len(left) : len(text) - len(right)]
                break
        text = _AND.sub(",", text.replace("{,}", "\x00"))
        parts = _split_outside(text)
        return [] if parts == [""] else [part.replace("\x00", "{,}") for part in parts]


def _split_outside(text: str) -> list[str]:
    """Splits at commas and semicolons outside all brackets."""
    parts, depth, begin = [], 0, 0
    for place, char in enumerate(text):
        if char in "([{":
            depth += 1
        elif char in ")]}":
            depth = max(0, depth - 1)
        elif char in ",;" and depth == 0:
            parts.append(text[begin:place].strip())
            begin = place + 1
    return [*parts, text[begin:].strip()]
