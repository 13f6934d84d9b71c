"""The answer of a response that concludes: what stands behind its last mark of a conclusion, cut down to the answer."""

import re
from dataclasses import dataclass

from thinkrl.grading.extraction import AnswerExtractor, Source
from thinkrl.grading.text import boxed

_PHRASE = re.compile(r"[Tt]he (?:final )?answer is:?")
_CHOICE = re.compile(r"\(([A-E])\)|([A-E])[:)]\s")
_EQUALS = re.compile(r"(?<![<>!])=|\\approx|≈")


@dataclass(frozen=True)
class ConclusionExtractor(AnswerExtractor):
    r"""Reads what stands behind the last of the marks: a box, else what follows the last `the answer is` on its line,
    else what the other sources find (rule of arXiv 2502.06781).

    Of an answer that begins with the letter of a choice, `(B) 12` or `B: 12`, the letter is left; of one with equals
    signs, `x = 5` or `\pi \approx 3.14`, what stands behind the last.
    """

    sources: tuple[Source, ...] = ("boxed", "last_number")
    """Where to look behind the mark, in this order."""
    marks: tuple[str, ...] = ("<conclude>", "**Final Answer**", "</think>")
    """What a conclusion begins with; a response without any is read whole."""

    def extract(self, text: str) -> str | None:
        """The answer in `text`, or None."""
        begin = max((text.rfind(mark) + len(mark) for mark in self.marks if mark in text), default=0)
        concluded = text[begin:]
        answer = None if boxed(concluded) else _phrased(concluded)
        return _cut_down(answer or super().extract(concluded))


def _phrased(text: str) -> str | None:
    """What follows the last `the answer is`, up to the end of the line."""
    phrases = list(_PHRASE.finditer(text))
    if not phrases:
        return None
    lines = text[phrases[-1].end() :].strip().splitlines()
    return lines[0].strip().removesuffix(".") or None if lines else None


def _cut_down(answer: str | None) -> str | None:
    if answer is None:
        return None
    choice = _CHOICE.match(answer.strip() + " ")
    if choice is not None:
        return choice[1] or choice[2]
    return _EQUALS.split(answer)[-1].strip() or answer
