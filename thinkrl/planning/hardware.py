"""The machine that a plan is for: a named GPU from a table of published figures, or this machine, measured."""

import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from thinkrl.config.component import ConfigError
from thinkrl.config.nearest import suggestion

TABLE = Path(__file__).with_name("devices.json")
GIB = 1 << 30
_NAME = re.compile(r"(?:(?P<count>\d+)x)?(?P<name>[a-z0-9]+?)(?:-(?P<memory>\d+)gb)?")
_ASSUMED_FLOPS_A_CORE, _ASSUMED_BANDWIDTH = 30e9, 10e9
_MEASURED_SECONDS = 0.4


@dataclass(frozen=True)
class Hardware:
    """`count` equal devices. Rates are peaks: what a program reaches of them is assumed elsewhere.

    memory: bytes a device can give to one process. flops: dense matrix products of the compute precision, per
    second. bandwidth: bytes per second of the device's memory. source: where the figures come from.
    """

    name: str
    count: int
    memory: int
    flops: float
    bandwidth: float
    source: str
    gpu: bool
    bfloat16: bool = True


def find_hardware(text: str | None, *, dtype: str = "bfloat16", rows: int = 512, measure: bool = True) -> Hardware:
    """The hardware that `text` names: `8xh100-80gb`, `h200`, `cpu`; None is this machine, its GPUs when it has any.

    Args:
        dtype: precision whose matrix products count.
        rows: rows of the products that a processor is measured with.
        measure: false takes assumed rates for a processor.

    Raises ConfigError with the nearest name for one that is not known.
    """
    if text is None:
        found = _local_gpus()
        text = found if found is not None else "cpu"
    if text.lower() == "cpu":
        return _processor(dtype, rows, measure)
    return _from_table(text, dtype)


def _from_table(text: str, dtype: str) -> Hardware:
    devices = json.loads(TABLE.read_text(encoding="utf-8"))["devices"]
    match = _NAME.fullmatch(re.sub(r"[\s_]+", "", text.lower()))
    if match is None or match["name"] not in devices:
        name = match["name"] if match else text
        raise ConfigError(
            f"--hardware: there is no {name!r}: {suggestion(name, ['cpu', *devices], shown=30)}"
            " (written 8xh100-80gb, 2xh200, a100-40gb, cpu)"
        )
    row = devices[match["name"]]
    memory = int(match["memory"] or row["memory"][0])
    if memory not in row["memory"]:
        variants = ", ".join(f"{match['name']}-{size}gb" for size in row["memory"])
        raise ConfigError(f"--hardware: {row['shown']} has no {memory} GB variant; there are: {variants}")
    count = int(match["count"] or 1)
    if count < 1:
        raise ConfigError(f"--hardware: the number of devices must be at least 1, got {count}")
    has_bfloat16 = bool(row.get("bfloat16", True))
    # float32 has no tensor cores to run on: a sixteenth of the 16-bit rate, an eighth before bfloat16 came.
    share = (1.0 if dtype == "bfloat16" else 1 / 16) if has_bfloat16 else 1 / 8
    flops = row["tflops"] * 1e12 * share
    bandwidth = row["bandwidth"][row["memory"].index(memory)] * 1e9
    shown = f"{count} x {row['shown']} {memory} GB"
    return Hardware(shown, count, memory * GIB, flops, bandwidth, row["source"], gpu=True, bfloat16=has_bfloat16)


def _local_gpus() -> str | None:
    """This machine's GPUs in the grammar of `find_hardware`; None without any."""
    import torch

    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    return describe_gpu(torch.cuda.device_count(), properties.name, properties.total_memory)


def describe_gpu(count: int, name: str, memory: int) -> str:
    """A driver's description (`NVIDIA H100 80GB HBM3`, bytes) in the grammar of `find_hardware`.

    Raises ConfigError for a GPU that is not in the table.
    """
    devices = json.loads(TABLE.read_text(encoding="utf-8"))["devices"]
    squeezed = re.sub(r"[^a-z0-9]+", "", name.lower())
    known = [key for key, row in devices.items() if key in squeezed or _bare(row["shown"]) in squeezed]
    if not known:
        raise ConfigError(f"this machine's {name} is not among the known GPUs: name one like it with --hardware")
    key = max(known, key=len)
    size = min(devices[key]["memory"], key=lambda variant: abs(variant * GIB - memory))
    return f"{count}x{key}-{size}gb"


def _bare(shown: str) -> str:
    return re.sub(r"[^a-z0-9]+", "", shown.lower().removeprefix("nvidia ").removeprefix("amd instinct "))


def _processor(dtype: str, rows: int, measure: bool) -> Hardware:
    import psutil

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = int(psutil.virtual_memory().available)
    if measure:
        flops, bandwidth = _measured_flops(dtype, rows), _measured_bandwidth()
        source = f"measured here: {dtype} products of {rows} rows, and copies"
    else:
        flops, bandwidth = cores * _ASSUMED_FLOPS_A_CORE, _ASSUMED_BANDWIDTH
        source = f"assumed: {_ASSUMED_FLOPS_A_CORE / 1e9:.0f} GFLOP/s a core, {_ASSUMED_BANDWIDTH / 1e9:.0f} GB/s"
    name = f"this machine's processor, {cores} cores, {memory / GIB:.1f} GiB free"
    return Hardware(name, 1, memory, flops, bandwidth, source, gpu=False)


def _measured_flops(dtype: str, rows: int) -> float:
    """Floating-point operations per second of products as layers make them, [rows, 1024] by [1024, 4096]."""
    import torch

    compute = {"bfloat16": torch.bfloat16, "float32": torch.float32}[dtype]
    left, right = torch.ones((rows, 1024), dtype=compute), torch.ones((4096, 1024), dtype=compute)
    with torch.inference_mode():
        seconds = _fastest(lambda: torch.nn.functional.linear(left, right))
    return 2.0 * rows * 1024 * 4096 / seconds


def _measured_bandwidth() -> float:
    """Bytes per second, read and written, of a copy that no cache holds."""
    import torch

    source = torch.ones(16 << 20, dtype=torch.float32)
    target = torch.empty_like(source)
    return 2.0 * source.nbytes / _fastest(lambda: target.copy_(source))


def _fastest(work: Callable[[], object]) -> float:
    """Seconds of the fastest of several calls."""
    work()
    best, begun = float("inf"), time.perf_counter()
    while time.perf_counter() - begun < _MEASURED_SECONDS:
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best
