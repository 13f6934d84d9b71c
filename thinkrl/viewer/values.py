"""Values as the page gets them: plain JSON that every browser reads, no longer than a reader can use."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_DIGITS = 4


def plain(value: Any) -> Any:
    """`value` as JSON: NaN becomes None, infinities texts that JavaScript's `Number` reads, bytes their count."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if value != value:
            return None
        return value if abs(value) != float("inf") else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(item) for item in value]
    return str(value)


def number(value: Any) -> Any:
    """`value` as JSON where it is a number that is known (see `plain`), else None."""
    if isinstance(value, np.generic):
        value = value.item()
    return plain(float(value)) if isinstance(value, int | float) else None


def number_list(values: NDArray[Any]) -> list[Any]:
    """Numbers [t] to four significant digits, which is what a colour and a tooltip can show."""
    numbers = np.asarray(values, dtype=np.float64)
    finite = np.isfinite(numbers) & (numbers != 0)
    rounded = numbers.copy()
    digits = _DIGITS - 1 - np.floor(np.log10(np.abs(numbers[finite])))
    scale = 10.0 ** np.clip(digits, -300, 300)
    rounded[finite] = np.round(numbers[finite] * scale) / scale
    found: list[Any] = rounded.tolist()
    for place in np.flatnonzero(~np.isfinite(numbers)).tolist():
        found[place] = plain(found[place])
    return found


def loaded(text: Any) -> Any:
    """What a column of JSON texts holds; the text itself where it is none."""
    if not isinstance(text, str):
        return plain(text)
    try:
        return plain(json.loads(text))
    except (ValueError, RecursionError):
        return text


def beginning(text: str, length: int) -> str:
    """The first `length` characters, on one line."""
    cut = " ".join(text[: 2 * length].split())
    return cut if len(cut) <= length and len(text) <= 2 * length else cut[:length] + " …"


def around(text: str, found: str, length: int) -> str:
    """`length` characters around the first place where `found` stands, on one line; the beginning where it does not."""
    place = text.lower().find(found.lower()) if found else -1
    if place < 0:
        return beginning(text, length)
    start = max(0, place - length // 3)
    return ("… " if start else "") + beginning(text[start:], length)
