"""Reading one number exactly: as a rational, with its percent sign and its unit kept apart."""

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from thinkrl.grading.text import plain, unwrap
from thinkrl.grading.units import CURRENCY, read_unit

MAX_CHARACTERS = 4000
"""Longer text is no number (Python refuses to convert integers of more than 4300 digits)."""
MAX_EXPONENT = 4000
"""Greatest power of ten that is written out."""


@dataclass(frozen=True)
class Number:
    """What a text says: `value`, of which `percent` and `unit` have been taken off ('50%' is 50 with percent).

    decimal: whether it was written with a decimal point or an exponent.
    """

    value: Fraction
    unit: str = ""
    percent: bool = False
    decimal: bool = False

    @property
    def worth(self) -> Fraction:
        """The value with the percent sign worked out."""
        return self.value / 100 if self.percent else self.value

    @property
    def terminates(self) -> bool:
        """Whether a decimal can write it: the denominator has no prime factor beside 2 and 5."""
        rest = self.worth.denominator
        for prime in (2, 5):
            while rest % prime == 0:
                rest //= prime
        return rest == 1


_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d+)"
_DECIMAL = rf"(?:{_DIGITS}(?:\.\d*)?|\.\d+)"
_PLAIN = re.compile(rf"(?P<mantissa>{_DECIMAL})(?P<exp>[eE][-+]?\d+(?![\w.]))?")
_POWER = re.compile(
    rf"(?:(?P<mantissa>{_DECIMAL})\s*(?:\*|x|×|\\times|\\cdot)\s*)?10\s*(?:\^|\*\*)\s*(?:\{{(?P<braced>[-+]?\d+)\}}|(?P<bare>[-+]?\d+))"
)
_LATEX_FRACTION = re.compile(r"\\[dtc]?frac\s*(?:\{\s*([-+]?[^{}]+?)\s*\}|(\d))\s*(?:\{\s*([-+]?[^{}]+?)\s*\}|(\d))")
_SLASH = re.compile(rf"(?P<top>{_DECIMAL})\s*/\s*(?P<bottom>{_DECIMAL})(?![\d.])")
_MIXED = re.compile(r"(?P<whole>\d+)\s+(?P<top>\d+)\s*/\s*(?P<bottom>\d+)(?![\d.])")
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_SCALE = re.compile(rf"\s*({'|'.join(_SCALES)})\b", re.IGNORECASE)
_PERCENT = re.compile(r"\s*(?:\\?%|(?:percent|per cent|pct|percentage points?)\b)", re.IGNORECASE)
_ASSIGNED = re.compile(r"\s*(?:[A-Za-z]\w{0,15}\s*)?=\s*(?!=)")
_TEXT = re.compile(r"\\(?:text|mathrm|textrm|rm|mbox|textbf|mathbf)\s*\{([^{}]*)\}")
_SPACE = re.compile(r"\\[,;:! ]|~|\\quad|\\qquad")


def read_number(source: Any, assignment: bool = True) -> Number | None:
    """The number that `source` (text, int, float or Fraction) is, or None when it is not one number.

    Whole text only: words around the number, a second number or an unfinished expression give None.
    A float is read by its shortest decimal form. assignment: whether a name before it, as in `x = 5`, is dropped.
    """
    if isinstance(source, bool):
        return None
    if isinstance(source, int | Fraction):
        return Number(Fraction(source))
    if isinstance(source, float):
        source = repr(source)
    if not isinstance(source, str) or len(source) > MAX_CHARACTERS:
        return None
    text = _prepared(source)
    assigned = _ASSIGNED.match(text) if assignment else None
    text = text[assigned.end() :] if assigned else text
    sign, text = _sign(text)
    unit = CURRENCY.get(text[:1], "")
    if unit:
        inner, text = _sign(text[1:].lstrip())
        sign *= inner
    found = _value(text)
    if found is None:
        return None
    value, decimal, rest = found
    scale = _SCALE.match(rest)
    if scale:
        value, rest = value * 10 ** _SCALES[scale[1].lower()], rest[scale.end() :]
    percent = _PERCENT.match(rest)
    rest = rest[percent.end() :] if percent else rest
    tail = read_unit(rest)
    if tail is None or (unit and tail and unit != tail):
        return None
    return Number(sign * value, unit or tail, bool(percent), decimal)


def _prepared(source: str) -> str:
    text = unwrap(" ".join(plain(source).split()))
    text = text.replace("\\$", "$").replace("{,}", ",").replace("\\left", "").replace("\\right", "")
    text = re.sub(r"(?<=\d)(?:\\,|\\!|_|')(?=\d{3}(?!\d))", ",", text.replace(",\\!", ","))
    text = _SPACE.sub(" ", _TEXT.sub(r" \1", text)).replace("^\\circ", "°").replace("^{\\circ}", "°").strip()
    while len(text) > 1 and text[0] == "(" and text[-1] == ")" and "(" not in text[1:] and ")" not in text[:-1]:
        text = text[1:-1].strip()
    return text


def _sign(text: str) -> tuple[int, str]:
    if text[:1] in ("-", "+"):
        return (-1 if text[0] == "-" else 1), text[1:].lstrip()
    return 1, text


def _value(text: str) -> tuple[Fraction, bool, str] | None:
    """The unsigned number that `text` opens with, whether it is a decimal, and what follows."""
    for pattern in (_MIXED, _POWER, _SLASH, _PLAIN):
        match = pattern.match(text)
        if match is not None:
            rest = text[match.end() :]
            read = _READERS[pattern](match)
            if read is None:
                return None
            value, decimal = read
            fraction = _LATEX_FRACTION.match(rest.lstrip()) if pattern is _PLAIN and value.denominator == 1 else None
            if fraction is not None:
                part = _latex_fraction(fraction)
                after = rest.lstrip()[fraction.end() :]
                return None if part is None or part < 0 or part >= 1 else (value + part, decimal, after)
            return value, decimal, rest
    fraction = _LATEX_FRACTION.match(text)
    if fraction is None or (part := _latex_fraction(fraction)) is None:
        return None
    return part, False, text[fraction.end() :]


def _fraction(text: str) -> Fraction:
    return Fraction(text.replace(",", "").rstrip(".") or "0")


def _read_plain(match: re.Match[str]) -> tuple[Fraction, bool] | None:
    exponent = int(match["exp"][1:]) if match["exp"] else 0
    if abs(exponent) > MAX_EXPONENT:
        return None
    return _fraction(match["mantissa"]) * Fraction(10) ** exponent, "." in match["mantissa"] or bool(match["exp"])


def _read_power(match: re.Match[str]) -> tuple[Fraction, bool] | None:
    exponent = int(match["braced"] or match["bare"])
    if abs(exponent) > MAX_EXPONENT:
        return None
    return _fraction(match["mantissa"] or "1") * Fraction(10) ** exponent, "." in (match["mantissa"] or "")


def _read_slash(match: re.Match[str]) -> tuple[Fraction, bool] | None:
    bottom = _fraction(match["bottom"])
    return (_fraction(match["top"]) / bottom, False) if bottom else None


def _read_mixed(match: re.Match[str]) -> tuple[Fraction, bool] | None:
    top, bottom = int(match["top"]), int(match["bottom"])
    return (int(match["whole"]) + Fraction(top, bottom), False) if 0 < top < bottom else None


_READERS = {_MIXED: _read_mixed, _POWER: _read_power, _SLASH: _read_slash, _PLAIN: _read_plain}


def _latex_fraction(match: re.Match[str]) -> Fraction | None:
    parts = [_SIGNED.fullmatch(match[1] or match[2]), _SIGNED.fullmatch(match[3] or match[4])]
    top, bottom = (_fraction(part[0].replace(" ", "")) if part else None for part in parts)
    return None if top is None or not bottom else top / bottom


_SIGNED = re.compile(rf"[-+]?\s*{_DECIMAL}")
