"""JSON that loses nothing: every float survives, and the text is valid JSON for every reader.

Python writes each finite float so that it reads back bit for bit. JSON has no NaN and no infinity;
they are written as the strings "NaN", "Infinity" and "-Infinity", as protocol buffers' JSON does.
A text that would read as one of the three gets a backslash in front, which reading takes off again.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

_NAMES = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def dump_json(value: object) -> str:
    """One line of ASCII JSON; mappings keep their order, tuples come back as lists.

    Raises ValueError naming the place of a value that would not come back as it was.
    """
    return json.dumps(_encode(value, ""), ensure_ascii=True, allow_nan=False, separators=(", ", ": "))


def load_json(text: str | bytes) -> Any:
    """The value that `dump_json` wrote. Raises ValueError when `text` is not JSON."""
    return _decode(json.loads(text, parse_constant=_refuse_constant))


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _encode(value: object, place: str) -> object:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return "\\" + value if value.lstrip("\\") in _NAMES else str(value)
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ValueError(f"{place or 'value'}: keys must be strings, got {key!r}")
        return {key: _encode(item, f"{place}.{key}".lstrip(".")) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encode(item, f"{place}[{index}]") for index, item in enumerate(value)]
    raise ValueError(f"{place or 'value'}: {type(value).__name__} is not a JSON value")


def _decode(value: Any) -> Any:
    if isinstance(value, str):
        if value.startswith("\\") and value.lstrip("\\") in _NAMES:
            return value[1:]
        return _NAMES.get(value, value)
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if isinstance(value, dict):
        return {key: _decode(item) for key, item in value.items()}
    return value
