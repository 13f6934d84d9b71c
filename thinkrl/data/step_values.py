"""Beginnings of solutions with what they are worth: what a search finds out, and a value model learns from."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from thinkrl.data.files import read_rows
from thinkrl.data.judged import JudgedResponse
from thinkrl.data.source import DataError, json_value
from thinkrl.data.traces import stored_prompt
from thinkrl.tracking.atomic import write_text

_KEYS = frozenset({"prompt_id", "messages", "reference", "source", "metadata", "response", "worth"})


def write_step_values(path: Path, values: Sequence[JudgedResponse]) -> Path:
    """Writes one JSON object a line; `path` holds all of them or is not touched. Returns `path`."""
    rows = [json_value({**asdict(one.prompt), "response": one.response, "worth": one.worth}) for one in values]
    write_text(path, "".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows))
    return path


def read_step_values(path: Path) -> list[JudgedResponse]:
    """Reads what `write_step_values` wrote. Raises DataError naming file and line."""
    return [_step_value(where, row) for where, row in read_rows(path)]


def _step_value(where: str, row: Mapping[str, Any]) -> JudgedResponse:
    if row.keys() != _KEYS:
        raise DataError(f"{where}: expected the keys {sorted(_KEYS)}, got {sorted(row)}")
    return JudgedResponse(stored_prompt(row), row["response"], float(row["worth"]))
