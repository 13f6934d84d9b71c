"""A tracker that writes down how much of the GPU is in use after every step: gpu_check.py runs with it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinkrl.tracking.directory import RunDirectory
from thinkrl.tracking.metrics import Value

KEPT = ("stage", "step", "loss", "sampled_tokens", "time/tokens_per_second", "mismatch/mean_abs", "mismatch/max_abs")
SECONDS = "seconds/"


@dataclass(frozen=True)
class MemoryTracker:
    """Appends a line of JSON for each row: the step's figures, and the device's memory at that moment."""

    path: str
    """The file."""

    def open(self, run: RunDirectory, config: Mapping[str, Any], name: str) -> "OpenMemoryTracker":
        """Follows a run."""
        return OpenMemoryTracker(Path(self.path))


class OpenMemoryTracker:
    """Writes the lines."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def log(self, row_number: int, row: Mapping[str, Value]) -> None:
        """Appends a line."""
        kept = {key: value for key, value in row.items() if key in KEPT or key.startswith(SECONDS)}
        with self._path.open("a") as file:
            file.write(json.dumps(kept | device_memory()) + "\n")

    def log_samples(self, row_number: int, name: str, columns: Sequence[str], rows: Sequence[Sequence[Value]]) -> None:
        """Does nothing."""

    def finish(self, exit_code: int) -> None:
        """Does nothing."""


def device_memory() -> dict[str, Any]:
    """Bytes: in use on the whole device by anyone, allocated and reserved by this process's torch, and the most it
    had allocated; all None without a GPU."""
    import torch

    if not torch.cuda.is_available():
        return dict.fromkeys(("device_used", "allocated", "reserved", "most_allocated"))
    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info()
    return {
        "device_used": total - free,
        "allocated": torch.cuda.memory_allocated(),
        "reserved": torch.cuda.memory_reserved(),
        "most_allocated": torch.cuda.max_memory_allocated(),
    }
