r"""LaTeX and calculator notation as text: repaired into strict LaTeX, and split outside brackets."""

import re

from thinkrl.grading.text import plain, unwrap

_LOOK = re.compile(
    r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|textstyle|limits|nolimits)(?![A-Za-z])|\\[,;:!]|\\q?quad(?![A-Za-z])"
)
_FUNCTIONS = "sqrt|pi|sin|cos|tan|cot|sec|csc|log|ln|exp|arcsin|arccos|arctan"
_SPELLINGS = (
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\(?:mathrm|text|operatorname|rm|mathit)\s*\{\s*([eidπ])\s*\}"), r" \1 "),
    (re.compile(r"\\operatorname\s*\{\s*(\w+)\s*\}"), r"\\\1 "),
    (re.compile(r"\\(?:mathrm|textbf|textit|textrm|mathbf|mbox|textnormal)(?=\s*\{)"), r"\\text"),
    (re.compile(r"\\leqslant|\\leq(?![a-z])|≤"), r"\\le "),
    (re.compile(r"\\geqslant|\\geq(?![a-z])|≥"), r"\\ge "),
    (re.compile(r"\\neq(?![a-z])|≠"), r"\\ne "),
    (re.compile(r"\\lbrace|\\\{"), r"\\{"),
    (re.compile(r"\\rbrace|\\\}"), r"\\}"),
    (re.compile(r"\\(?:varnothing|emptyset)(?![a-z])|∅"), r"\\emptyset "),
    (re.compile(r"\\(?:R|Reals|reals)(?![a-zA-Z])|ℝ"), r"\\mathbb{R}"),
    (re.compile(r"√\s*\("), r"\\sqrt("),
    (re.compile(r"√\s*([\da-zA-Z])"), r"\\sqrt{\1}"),
    (re.compile("π"), r"\\pi "),
    (re.compile("∞|(?<![A-Za-z\\\\])(?:inf|infinity|oo)(?![A-Za-z])"), r"\\infty "),
    (re.compile("∪"), r"\\cup "),
    (re.compile("∈"), r"\\in "),
    (re.compile("±"), r"\\pm "),
    (re.compile("[×⋅·]"), r"\\cdot "),
    (re.compile("÷"), "/"),
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"(?<=[\w)}\]])\s*\*\s*(?=[\w(\\{-])"), r" \\cdot "),
    (re.compile(rf"(?<![A-Za-z\\])({_FUNCTIONS})(?![A-Za-z])"), r"\\\1 "),
    (re.compile(r"\\frac\s*(\d)\s*(\d)"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\frac\s*(\d)\s*\{"), r"\\frac{\1}{"),
    (re.compile(r"\\sqrt\s*(\d|[a-zA-Z](?![a-zA-Z]))"), r"\\sqrt{\1}"),
    (re.compile(r"\^\s*(-?\d+)"), r"^{\1}"),
    (re.compile(r"\\ne(?![a-z])"), r"\\neq "),
)  # fmt: skip
_SECOND_ARGUMENT = re.compile(r"(\\frac\s*\{[^{}]*\})\s*(\d)")
_ROUND = re.compile(r"(\\sqrt|\^)\s*\(")
_SEPARATOR_WORD = re.compile(r"\s*,?\s*(?:\\text\s*\{\s*,?\s*(?:and|or)\s*\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z]))\s*")
_OPEN, _CLOSE = "([{", ")]}"


def tidy(text: str) -> str:
    r"""`text` as LaTeX that a strict parser reads: one spelling for each command, `\sqrt(x)` and `x^(2)` in braces."""
    # One space for many: patterns that skip white space stay linear.
    text = " ".join(unwrap(plain(text)).split())
    text = _LOOK.sub(" ", text.replace("\\left.", "").replace("\\right.", "")).replace("\\ ", " ").replace("\\$", "")
    for pattern, spelling in _SPELLINGS:
        text = pattern.sub(spelling, text)
    text = _SECOND_ARGUMENT.sub(r"\1{\2}", text)
    return " ".join(_SEPARATOR_WORD.sub(", ", _braced(text)).split())


def _braced(text: str) -> str:
    r"""`\sqrt(...)` and `^(...)` with braces for their round brackets."""
    place = 0
    while (match := _ROUND.search(text, place)) is not None:
        begin = match.end() - 1
        end = closing(text, begin)
        if end is None:
            break
        text = f"{text[:begin]}{{{text[begin + 1 : end]}}}{text[end + 1 :]}"
        place = begin + 1
    return text


def closing(text: str, begin: int) -> int | None:
    """Where the bracket at `begin` closes, counting every kind of bracket; None if it does not."""
    depth = 0
    for place in range(begin, len(text)):
        depth += (text[place] in _OPEN) - (text[place] in _CLOSE)
        if depth == 0:
            return place
    return None


def nesting(text: str) -> int:
    """The deepest nesting of brackets."""
    depth = deepest = 0
    for char in text:
        depth += (char in _OPEN) - (char in _CLOSE)
        deepest = max(deepest, depth)
    return deepest


def split(text: str, separator: re.Pattern[str]) -> tuple[list[str], list[str]]:
    """The parts of `text` between the matches of `separator` outside brackets and environments, and the matches.

    Half-open intervals such as `[1, 2)` count as brackets, so kinds are not told apart.
    """
    parts, found = [], []
    depth = begin = place = 0
    while place < len(text):
        match = separator.match(text, place) if depth == 0 else None
        if match is not None and match.end() > place:
            parts.append(text[begin:place].strip())
            found.append(match[0].strip())
            begin = place = match.end()
            continue
        if text.startswith(("\\begin{", "\\end{"), place):
            depth += 1 if text.startswith("\\b", place) else -1
        depth += (text[place] in _OPEN) - (text[place] in _CLOSE)
        place += 1
    return [*parts, text[begin:].strip()], found
