r"""Reading mathematics: collections, relations and words are told apart here; single expressions go to latex2sympy.

latex2sympy sees only whole expressions and no text is ever searched for something that parses, so nothing
is read in part.
"""

import re
from dataclasses import dataclass
from typing import TypeAlias

import sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy
from math_verify.grader import should_treat_as_complex
from sympy.core.function import AppliedUndef

from thinkrl.grading.latex import closing, nesting, split, tidy
from thinkrl.grading.numbers import Number, read_number
from thinkrl.grading.units import read_unit

MAX_CHARACTERS = 4000
MAX_NESTING = 40


class UnreadableError(Exception):
    """The text is no mathematics that is read here."""


@dataclass(frozen=True)
class Words:
    """An answer in words, or in digits that are no number (a numeral of another base)."""

    text: str


@dataclass(frozen=True)
class Collection:
    """Several values between brackets: `{}` and bare lists have no order; `kind` is the pair of brackets."""

    kind: str
    items: tuple["Value", ...]


@dataclass(frozen=True)
class Relation:
    """`sides[0] signs[0] sides[1] signs[1] ...`, with signs = < > <= >= !=."""

    sides: tuple["Value", ...]
    signs: tuple[str, ...]


@dataclass(frozen=True)
class SetExpression:
    r"""Parts joined by `\cup`, `\cap` or `\setminus`, from left to right."""

    parts: tuple["Value", ...]
    operations: tuple[str, ...]


Value: TypeAlias = Number | Words | Collection | Relation | SetExpression | sympy.Basic | sympy.MatrixBase

_COMMA = re.compile(r"[,;](?!\\!)")
_SET_SIGN = re.compile(r"\\(cup|cap|setminus)(?![A-Za-z])")
_RELATION = re.compile(r"\\(?:le|ge|neq|in|lt|gt|approx)(?![A-Za-z])|<=|>=|!=|<|>|=")
_SIGNS = {r"\le": "<=", r"\ge": ">=", r"\neq": "!=", r"\lt": "<", r"\gt": ">", r"\in": "=", r"\approx": "="}
_WORD = re.compile(r"(?<![A-Za-z\\{])[A-Za-z]{3,}")
_COMMAND_ARGUMENT = re.compile(r"\\(?:begin|end|mathbb|text|mathcal)\s*\{[^{}]*\}")
_ONLY_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_NUMERAL = re.compile(r"([0-9A-Za-z]+)_\{?(\d+)\}?")
_TEXT_UNIT = re.compile(
    r"\\text\s*\{\s*([^{}]*)\}\s*(?:\^\s*\{?\s*[-\d]+\s*\}?)?$"
    r"|(?<=[\d}) ])(cm|mm|km|kg|ft|mph|inches|feet|meters|units)$"
)


def read(text: str) -> Value:
    """The value that the whole of `text` is. Raises UnreadableError."""
    if len(text) > MAX_CHARACTERS:
        raise UnreadableError(f"{len(text)} characters")
    if "\x00" in text:
        raise UnreadableError("a null character")
    return _read(tidy(text), 0)


def _read(text: str, depth: int) -> Value:
    if not text:
        raise UnreadableError("empty text")
    if nesting(text) > MAX_NESTING or depth > MAX_NESTING:
        raise UnreadableError("nested too deeply")
    number = read_number(text, assignment=False)
    if number is not None:
        return number
    if "\\pm" in text or "\\mp" in text:
        return Collection("{}", tuple(_read(sign, depth + 1) for sign in _both_signs(text)))
    parts, commas = split(text, _COMMA)
    if commas:
        return Collection("", tuple(_read(part, depth + 1) for part in parts))
    parts, signs = split(text, _RELATION)
    if signs:
        sides = tuple(_read(part, depth + 1) for part in parts)
        return Relation(sides, tuple(_SIGNS.get(sign, sign) for sign in signs))
    parts, operations = split(text, _SET_SIGN)
    if operations:
        return SetExpression(tuple(_read(part, depth + 1) for part in parts), tuple(sign[1:] for sign in operations))
    return _bracketed(text, depth) or _words(text) or _expression(text)


def _both_signs(text: str) -> tuple[str, str]:
    upper = text.replace("\\pm", " +").replace("\\mp", " -")
    lower = text.replace("\\pm", " -").replace("\\mp", " +")
    return upper.strip().removeprefix("+").strip(), lower.strip().removeprefix("+").strip()


def _bracketed(text: str, depth: int) -> Value | None:
    r"""The value of text that one pair of brackets encloses, if it is that: a set, a tuple, an interval."""
    if text.startswith("\\{") and closing(text, 1) == len(text) - 1 and text.endswith("\\}"):
        return Collection("{}", _items(text[2:-2], depth))
    if text[0] not in "([{" or closing(text, 0) != len(text) - 1:
        return None
    inner, kind = text[1:-1].strip(), text[0] + text[-1]
    if split(inner, _COMMA)[1]:
        return Collection(kind, _items(inner, depth))
    if kind in ("()", "{}"):
        return _read(inner, depth + 1)
    return Collection(kind, _items(inner, depth)) if kind == "[]" else None


def _items(inner: str, depth: int) -> tuple[Value, ...]:
    if not inner.strip():
        return ()
    return tuple(_read(part, depth + 1) for part in split(inner, _COMMA)[0])


def _words(text: str) -> Value | None:
    only = _ONLY_TEXT.fullmatch(text)
    if only and len(only[1].strip().strip("()")) == 1 and only[1].strip().strip("()").isalpha():
        return _expression(only[1].strip().strip("()"))
    bare = re.sub(r"[().,!?]", "", only[1] if only else text).strip()
    if re.fullmatch(r"[A-Za-z][A-Za-z' -]*", bare) and (only or _WORD.search(bare)):
        return Words(" ".join(bare.casefold().split()))
    numeral = _NUMERAL.fullmatch(text)
    return Words(f"{numeral[1].casefold()}_{numeral[2]}") if numeral and numeral[1][0].isdigit() else None


def _expression(text: str) -> sympy.Basic | sympy.MatrixBase:
    unit = _TEXT_UNIT.search(text)
    if unit is not None and unit.start() > 0 and read_unit(" " + (unit[1] or unit[2])):
        text = text[: unit.start()].strip()
    bare = _COMMAND_ARGUMENT.sub("", text)
    if _WORD.search(bare):
        raise UnreadableError("words beside the mathematics")
    text = re.sub(r"\\?%\s*$", r" \\cdot \\frac{1}{100}", text)
    try:
        found = latex2sympy(
            text,
            is_real=False if should_treat_as_complex(text) else None,
            convert_degrees=False,
            normalization_config=None,
            conversion_config=ConversionConfig(lowercase_symbols=False),
        )
    except MemoryError:
        raise
    except Exception as error:
        raise UnreadableError(f"{type(error).__name__} in latex2sympy") from error
    if not isinstance(found, sympy.Basic | sympy.MatrixBase) or found.has(sympy.nan, sympy.zoo):
        raise UnreadableError("no value")
    return _standard(found, should_treat_as_complex(text))


def _standard(found: sympy.Basic | sympy.MatrixBase, is_complex: bool) -> sympy.Basic | sympy.MatrixBase:
    """Decimals as exact rationals, `f(x)` as one symbol, `i` as the imaginary unit, symbols without assumptions."""
    exact = {number: sympy.Rational(str(number)) for number in found.atoms(sympy.Float)}
    functions = {call: sympy.Symbol(str(call)) for call in found.atoms(AppliedUndef)}
    found = found.xreplace(functions).xreplace(exact)
    # A counter named i is bound, not free.
    names = {symbol: sympy.Symbol(symbol.name) for symbol in found.free_symbols}
    units = {symbol: sympy.I for symbol in names if symbol.name == "i" and is_complex}
    return found.xreplace(names | units)
