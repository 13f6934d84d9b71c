"""Graders of words: normalised strings and multiple choice."""

import re
import unicodedata
from dataclasses import dataclass
from typing import Any

from thinkrl.grading.grader import Grader, judged, ungradable, wrong
from thinkrl.grading.text import plain, shorten, unwrap
from thinkrl.grading.verdict import Grade


@dataclass(frozen=True)
class ExactGrader(Grader):
    """Equal strings after normalisation. A list of references accepts any of its entries."""

    ignore_case: bool = True
    """Whether letters of different case are equal."""
    ignore_space: bool = False
    """Whether white space is dropped; otherwise runs of it count as one space, and none at the ends."""
    ignore_punctuation: bool = False
    """Whether punctuation is dropped (all characters of unicode class P)."""
    fold_unicode: bool = True
    """Whether compatibility forms (full-width letters, ligatures, digits of any script) are equal."""

    def grade(self, response_answer: str | None, reference: Any) -> Grade:
        """CORRECT where the normalised strings are equal; an empty reference is UNGRADABLE."""
        accepted = reference if isinstance(reference, list | tuple) else [reference]
        readable = [r for r in accepted if isinstance(r, str | int | float) and self._normalise(str(r))]
        if not readable:
            return ungradable("the reference is empty or no string")
        if response_answer is None or not (answer := self._normalise(response_answer)):
            return wrong("no answer")
        return judged(any(answer == self._normalise(str(r)) for r in readable))

    def _normalise(self, text: str) -> str:
        text = plain(text) if self.fold_unicode else text
        text = text.casefold() if self.ignore_case else text
        if self.ignore_punctuation:
            text = "".join(c for c in text if not unicodedata.category(c).startswith("P"))
        return ("" if self.ignore_space else " ").join(text.split())


@dataclass(frozen=True)
class ChoiceGrader(Grader):
    """Multiple choice by letter: `B`, `(b)`, `B. text`, `option B`, `**B**`, `\\text{B}`.

    An answer that names two different letters is WRONG.
    """

    letters: str = "ABCDE"
    """The letters offered, upper case."""

    def __post_init__(self) -> None:
        if not self.letters.isalpha() or self.letters != self.letters.upper():
            raise ValueError(f"letters must be upper-case letters, got {self.letters!r}")

    def grade(self, response_answer: str | None, reference: Any) -> Grade:
        """CORRECT where both name the same letter."""
        gold = self._read(reference) if isinstance(reference, str) else None
        if not isinstance(gold, str) or len(gold) != 1:
            return ungradable(f"no choice in the reference {shorten(reference)}")
        if response_answer is None or not response_answer.strip():
            return wrong("no answer")
        answer = self._read(response_answer)
        if len(answer) != 1:
            return wrong("several choices" if answer else f"no choice in {shorten(response_answer)}")
        return judged(answer == gold)

    def _read(self, text: str) -> str:
        """The distinct letters named, in order of first mention; empty when the text opens with none."""
        text = re.sub(r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}", r"\1", plain(text[:2000]))
        text = unwrap(" ".join(text.split()))
        one = rf"[{self.letters}]"
        lead = r"(?:(?:the\s+)?(?:correct\s+|final\s+)?(?:answer|option|choice)\s*(?:(?:is\b|:|=)\s*)?)*"
        opening = re.match(
            rf"{lead}(?:\(\s*({one})\s*\)|\[\s*({one})\s*\]|({one})(?=[).:,;]|\s*$))", text, re.IGNORECASE
        )
        if opening is None:
            opening = re.match(rf"{lead}(?<=\s)({one})(?!\w)", text, re.IGNORECASE)
        if opening is None:
            opening = re.match(rf"({one})(?=\s+(?:or|and|/|&)\s+{one}(?!\w))", text)
        if opening is None:
            return ""
        first = next(group for group in opening.groups() if group).upper()
        rest = text[opening.end() :]
        others = re.findall(rf"\(({one})\)|(?:^|\s)({one})\)|(?:option|choice|or|and|,|;|/|&)\s*\(?({one})(?!\w)", rest)
        # A lone "A" may be the article; other lone capitals are choices.
        others += [(letter,) for letter in re.findall(rf"(?<![\w']){one}(?![\w'])", rest) if letter != "A"]
        named = first + "".join(next(group for group in groups if group).upper() for groups in others)
        return "".join(dict.fromkeys(named))
