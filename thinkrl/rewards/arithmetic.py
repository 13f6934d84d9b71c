"""Arithmetic statements in a text, evaluated exactly, without `eval`."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from thinkrl.grading.text import plain

MAX_SIDE = 80
"""Most numbers and signs on one side of a statement; a longer one is not read."""
MAX_DEPTH = 20
"""Deepest nesting of parentheses that is read."""

_NUMBER = r"(?:\d{1,3}(?:,\d{3}){1,10}(?!\d)|\d{1,30})(?:\.\d{1,30})?"
_NUMBERS = re.compile(rf"(?<![\w.^]){_NUMBER}(?![\d^])")
_TOKEN = re.compile(rf"(?P<space>[ \t$]+)|(?P<number>{_NUMBER}(?![\w^%]|\.\d))|(?P<sign>[-+*/()=])|(?P<other>\w+|.|\n)")
_TIMES = re.compile(r"\\times\b|\\cdot\b|[×·⋅∙]|(?<=[\d)]) ?[xX] ?(?=[\d(])")
_BULLET = re.compile(r"^[ \t]*[-*+][ \t]+", re.MULTILINE)
_BOLD = re.compile(r"(?<![\d)])\*\*|\*\*(?![\d(])")
_DIVIDE = re.compile(r"\\div\b|÷")


@dataclass(frozen=True)
class Step:
    """One statement `expression = ... = result`; `operands` are the numbers it starts from.

    true: all its sides are equal.
    """

    text: str
    operands: tuple[Fraction, ...]
    result: Fraction
    true: bool


@dataclass(frozen=True)
class _Side:
    text: str
    value: Fraction
    operands: tuple[Fraction, ...]

    @property
    def works(self) -> bool:
        return len(self.operands) > 1


def read_steps(text: str, most: int = 1000) -> list[Step]:
    """The arithmetic statements of `text`, in order; at most `most`.

    A statement is a run of sides joined by equals signs, of which one has an operation (+ - * /, with
    parentheses, between integers or decimals) and all others are of the same kind or plain numbers.
    What touches letters, powers or percent signs is no statement, for its value is not known here.
    """
    steps: list[Step] = []
    for run in _runs(_DIVIDE.sub("/", _TIMES.sub("*", _BOLD.sub(" ", _BULLET.sub("", plain(text)))))):
        sides: list[_Side] = []
        # A side that cannot be read ends the statement before it; the next one may begin another.
        for part in [*_split(run), None]:
            side = _read_side(part) if part else None
            if side is not None:
                sides.append(side)
                continue
            if len(sides) > 1 and any(s.works for s in sides):
                steps.append(_step(sides))
                if len(steps) == most:
                    return steps
            sides = []
    return steps


def numbers_in(text: str) -> set[Fraction]:
    """Every number written in `text` with digits."""
    return {Fraction(found.replace(",", "")) for found in _NUMBERS.findall(plain(text))}


def _step(sides: list[_Side]) -> Step:
    first = next(side for side in sides if side.works)
    result = sides[0] if first is not sides[0] and first is sides[-1] else sides[-1]
    return Step(
        text=" = ".join(side.text for side in sides),
        operands=first.operands,
        result=result.value,
        true=all(side.value == sides[0].value for side in sides),
    )


def _runs(text: str) -> Iterator[list[str]]:
    """Stretches of numbers and signs between other things; `?` stands for a thing that touches the stretch."""
    run: list[str] = []
    before, spaced = "\n", True
    for match in _TOKEN.finditer(text):
        kind, token = match.lastgroup, match[0]
        if kind == "space":
            spaced = True
            continue
        if kind == "other":
            if run:
                yield _closed(run, token, spaced)
            run, before = [], token
        else:
            if not run:
                run = _opened(before, token, spaced)
            if kind == "number" and run[-1:] and (run[-1][-1].isdigit() or run[-1] == ")"):
                # Two numbers side by side: one statement ends here and another begins.
                yield run
                run = []
            run.append(token)
        spaced = False
    if run:
        yield _closed(run, "\n", True)


def _opened(before: str, token: str, spaced: bool) -> list[str]:
    """The beginning of a stretch: what stands before it may belong to its first side."""
    word = before[-1].isalpha() and len(before) > 1
    if token in "+*/" or (token == "-" and not (word or before in "\n.,:;")):
        return ["?"]
    touches = not spaced and (before[-1].isalnum() or before in "^_%!}])\\/.")
    return ["?"] if touches and token != "=" else []


def _closed(run: list[str], after: str, spaced: bool) -> list[str]:
    """The end of a stretch: what stands behind it may belong to its last side."""
    end = len(run)
    while end and run[end - 1] in "-*" and (after == "\n" or len(after) > 1 or not after.isalnum()):
        end -= 1
    run = run[:end]
    touches = not spaced and (after[0].isalnum() or after in "^_%")
    return [*run, "?"] if touches else run


def _split(run: list[str]) -> list[list[str]]:
    sides: list[list[str]] = [[]]
    for token in run:
        if token == "=":
            sides.append([])
        else:
            sides[-1].append(token)
    return sides


def _read_side(tokens: list[str]) -> _Side | None:
    if not tokens or len(tokens) > MAX_SIDE:
        return None
    reader = _Expression(tokens)
    try:
        value = reader.sum(0)
    except (_UnreadableError, ZeroDivisionError):
        return None
    if reader.position != len(tokens):
        return None
    return _Side(" ".join(tokens), value, tuple(reader.operands))


class _UnreadableError(Exception):
    """The tokens are no expression."""


class _Expression:
    """Recursive descent over sum := product (+|- product)*, product := factor (*|/ factor)*."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.position = 0
        self.operands: list[Fraction] = []

    def sum(self, depth: int) -> Fraction:
        value = self._product(depth)
        while (sign := self._next_of("+-")) is not None:
            term = self._product(depth)
            value = value + term if sign == "+" else value - term
        return value

    def _product(self, depth: int) -> Fraction:
        value = self._factor(depth)
        while (sign := self._next_of("*/")) is not None:
            factor = self._factor(depth)
            value = value * factor if sign == "*" else value / factor
        return value

    def _factor(self, depth: int) -> Fraction:
        if depth > MAX_DEPTH:
            raise _UnreadableError
        negative = self._next_of("-") is not None
        if self._next_of("(") is not None:
            value = self.sum(depth + 1)
            if self._next_of(")") is None:
                raise _UnreadableError
        else:
            token = self.tokens[self.position] if self.position < len(self.tokens) else ""
            if not token[:1].isdigit():
                raise _UnreadableError
            self.position += 1
            value = Fraction(token.replace(",", ""))
            self.operands.append(value)
        return -value if negative else value

    def _next_of(self, signs: str) -> str | None:
        if self.position < len(self.tokens) and self.tokens[self.position] in signs:
            self.position += 1
            return self.tokens[self.position - 1]
        return None
