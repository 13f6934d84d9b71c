"""Which part of a response is its answer."""

import re
from dataclasses import dataclass
from typing import Literal

from thinkrl.grading.text import boxed, plain
from thinkrl.rollouts.spans import read_response

Source = Literal["answer_tag", "boxed", "last_box", "hashes", "last_number", "last_line", "whole"]
_NUMBER = re.compile(
    r"(?<![\w.])[-+]?(?:\d{1,3}(?:,\d{3}){1,20}(?!\d)|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?(?:\s*/\s*\d+)?%?"
)


@dataclass(frozen=True)
class AnswerExtractor:
    r"""Finds the answer of a response; the first source that yields one decides.

    answer_tag: the last closed `<answer>...</answer>` after the thinking.
    boxed: `\boxed{...}` after the thinking, braces balanced; when the last box never closes there is
        no answer, neither from an earlier box nor from a later source.
    last_box: from the last `\boxed{` of the whole text on, exactly as written, thinking and white space included.
    hashes: what follows the last `####` on its line, as GSM8K writes answers.
    last_number, last_line: of the text after the thinking. whole: that text, stripped.
    """

    sources: tuple[Source, ...] = ("answer_tag",)
    """Where to look, in this order."""
    several: Literal["last", "first", "agree"] = "last"
    """Which of several boxes counts; `agree` refuses boxes that differ."""
    unwrap_box: bool = True
    """Whether a box inside the answer tag is opened."""
    prefix: str = ""
    """What the prompt already wrote of the response, such as `<think>`."""
    header: str = ""
    """Sources that read the text after the thinking read its first paragraph that begins with this, and find nothing
    where there is none; empty reads all of it."""

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("sources must name at least one place, got none")

    def extract(self, text: str) -> str | None:
        """The answer in `text`, or None."""
        parts = read_response(text, self.prefix)
        after = text[parts.think[1] :].removeprefix("</think>") if parts.think else text.rpartition("</think>")[2]
        if self.header:
            after = next((part for part in after.split("\n\n") if part.lstrip().startswith(self.header)), "")
        for source in self.sources:
            if source == "answer_tag":
                answer = text[slice(*parts.answer)].strip() if parts.answer else None
                if answer is not None and self.unwrap_box and "\\boxed" in answer:
                    return self._box(answer)
            elif source == "boxed":
                if boxed(after):
                    return self._box(after)
                continue
            elif source == "last_box":
                place = text.rfind("\\boxed{")
                answer = boxed(text[place:])[0] if place >= 0 else None
            elif source == "hashes":
                answer = _after_hashes(after)
            elif source == "last_number":
                answer = (_NUMBER.findall(plain(after)) or [None])[-1]
            elif source == "last_line":
                answer = next((line.strip() for line in reversed(after.splitlines()) if line.strip()), None)
            else:
                answer = after.strip()
            if answer:
                return answer
        return None

    def _box(self, text: str) -> str | None:
        boxes = boxed(text)
        if boxes[-1] is None or (self.several == "agree" and len({(box or "").strip() for box in boxes}) > 1):
            return None
        chosen = boxes[0 if self.several == "first" else -1]
        return (chosen or "").strip() or None


def _after_hashes(text: str) -> str | None:
    mark, rest = text.rpartition("####")[1:]
    return rest.split("\n")[0].strip() if mark else None
