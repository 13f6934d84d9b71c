"""What a run left behind, in a form in which two runs can be compared."""

import hashlib
import json
from pathlib import Path
from typing import Any


def metric_rows(run: Path) -> list[dict[str, Any]]:
    """Metric rows without what depends on the clock."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(("seconds/", "time"))} for row in rows]


def files(run: Path) -> dict[str, str]:
    """Hashes of every weight, rollout, trace and result file."""
    wanted = (".safetensors", ".parquet", ".jsonl", "result.json")
    return {
        path.relative_to(run).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((run / "stages").rglob("*"))
        if path.is_file() and path.name.endswith(wanted)
    }
