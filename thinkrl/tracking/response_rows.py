"""Responses of a rollout file to read, without their tokens."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from thinkrl.tracking.errors import RunError


def read_responses(path: Path) -> list[dict[str, Any]]:
    """The rows of a rollout file without their tokens: one mapping a response, what is aligned with tokens left out.

    Raises RunError when the file is not whole or not one of these.
    """
    try:
        schema = pq.read_schema(path)
        wanted = [field.name for field in schema if not pa.types.is_large_list(field.type)]
        rows: list[dict[str, Any]] = pq.read_table(path, columns=wanted, partitioning=None).to_pylist()
        return [{**row, "messages": json.loads(row["messages"])} for row in rows]
    except (OSError, pa.ArrowException, KeyError, ValueError, TypeError) as error:
        raise RunError(f"{path} is not a rollout file: {error}") from error
