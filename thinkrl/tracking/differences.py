"""What differs between two configurations, key by key."""

import json
from typing import Any


def flatten(value: Any, prefix: str = "") -> dict[str, str]:
    """Dotted keys to printed values; an empty mapping or list is a value of its own."""
    if isinstance(value, dict) and value:
        parts = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list) and value:
        parts = [(str(index), item) for index, item in enumerate(value)]
    else:
        return {prefix: json.dumps(value, default=str)}
    return {
        key: printed
        for name, item in parts
        for key, printed in flatten(item, f"{prefix}.{name}" if prefix else name).items()
    }


def differences(old: Any, new: Any) -> dict[str, tuple[str, str]]:
    """Keys whose values differ between two nested values, with the printed old and new one."""
    before, after = flatten(old), flatten(new)
    keys = list(dict.fromkeys([*before, *after]))
    pairs = {key: (before.get(key, "(absent)"), after.get(key, "(absent)")) for key in keys}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}
