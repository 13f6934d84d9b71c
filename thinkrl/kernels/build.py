"""Compiles the C of this folder once per machine and source, and loads it; None where there is no compiler.

What is built lies in `$THINKRL_CACHE/kernels`, else `~/.cache/thinkrl/kernels`, under a name made of everything that
goes into it, so that nothing stale is ever loaded. Threads come from the OpenMP library that torch has loaded: a
second one would bring a pool of its own, and two pools fight over the cores.
"""

import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

_SOURCES = ("kernels.c", "decode.h", "learn.h")
_FLAGS = ("-O3", "-fopenmp", "-march=native", "-std=gnu11", "-fPIC", "-fno-math-errno")
_COMPILE_SECONDS = 120.0
_LOG = logging.getLogger(__name__)


def kernels_root() -> Path:
    """Folder of compiled kernels."""
    root = os.environ.get("THINKRL_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "thinkrl") / "kernels"


@cache
def library() -> ctypes.CDLL | None:
    """The kernels of this machine; None, with the reason in the log, where they cannot be built. Either is final for
    the process."""
    try:
        return _load()
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        _LOG.info("computing without compiled kernels: %s", said[0] if said else type(error).__name__)
        return None


def _load() -> ctypes.CDLL:
    if not sys.platform.startswith("linux"):
        raise OSError(f"kernels are compiled on Linux only, this is {sys.platform}")
    compiler = os.environ.get("CC") or next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    if compiler is None:
        raise OSError("there is no C compiler (cc, gcc or clang; CC names another)")
    openmp = _loaded_openmp()
    if openmp is None:
        raise OSError("torch has not loaded GNU's OpenMP library, whose threads the kernels share")
    folder = Path(__file__).parent
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True, timeout=10).stdout
    parts = [*_FLAGS, version, _processor(), *((folder / name).read_text(encoding="utf-8") for name in _SOURCES)]
    built = kernels_root() / f"kernels-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:20]}.so"
    if not built.is_file():
        _compile(compiler, folder / _SOURCES[0], built)
    ctypes.CDLL(openmp, mode=ctypes.RTLD_GLOBAL)  # its names are then found by what is loaded next
    return ctypes.CDLL(str(built))


def _compile(compiler: str, source: Path, built: Path) -> None:
    """Two processes may do this at once: each builds in a place of its own, and the last one's file stays."""
    built.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=built.parent) as scratch:
        parts, whole = Path(scratch) / "kernels.o", Path(scratch) / built.name
        # Linked without -fopenmp, which would name an OpenMP library other than the one loaded.
        for command in (
            [compiler, *_FLAGS, "-c", str(source), "-o", str(parts)],
            [compiler, "-shared", str(parts), "-o", str(whole), "-lm"],
        ):
            subprocess.run(command, capture_output=True, text=True, check=True, timeout=_COMPILE_SECONDS)
        whole.replace(built)


def _loaded_openmp() -> str | None:
    """Path of the GNU OpenMP library in this process, torch's own."""
    import torch  # noqa: F401  (loads it)

    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        path = line.split(maxsplit=5)[-1]
        if Path(path).name.startswith("libgomp"):
            return path
    return None


def _processor() -> str:
    """What the processor can do: a cache folder may be shared by machines that differ in it."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
