"""What a run's record says about the code, the packages and the hardware that made it."""

import os
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import psutil

_PACKAGES = (
    "thinkrl",
    "torch",
    "transformers",
    "numpy",
    "hydra-core",
    "omegaconf",
    "datasets",
    "math-verify",
    "reasoning-gym",
    "safetensors",
    "pyarrow",
    "wandb",
    "vllm",
    "deepspeed",
)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages a result can depend on; those not installed are left out."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_state() -> dict[str, object]:
    """Commit of the code that runs, and whether it has uncommitted changes; empty outside a checkout."""
    folder = Path(__file__).resolve().parent
    commit = _output("git", "-C", str(folder), "rev-parse", "HEAD")
    status = _output("git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no")
    return {} if not commit else {"commit": commit, "dirty": bool(status)}


def hardware() -> dict[str, object]:
    """Processor, cores this process may use, memory in bytes, and the names of NVIDIA cards."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cards = _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    return {
        "host": platform.node(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": cores,
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": cards.splitlines() if cards else [],
    }


def now() -> str:
    """The time in UTC, to the second, in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _output(*command: str) -> str | None:
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
