"""Model folders that appear whole or not at all, and loading without noise on the terminal."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers.utils import logging as transformers_logging

_PARTIAL = ".partial"
"""Ending of what a killed write leaves behind; a run directory that is opened again clears such names away."""


@contextmanager
def written_aside(folder: Path, *, replace: bool) -> Iterator[Path]:
    """A new folder beside `folder` that takes its place in one rename when the block succeeds.

    The files are forced to disk first, so a crash never leaves an empty file under the final name.
    With `replace` a folder that was there is exchanged; without it, it stays and the new one is dropped.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    name = f".{folder.name}.{uuid.uuid4().hex}"
    scratch = folder.parent / (name + _PARTIAL)
    scratch.mkdir()
    replaced = folder.parent / (name + ".replaced" + _PARTIAL)
    try:
        yield scratch
        for path in (*scratch.iterdir(), scratch):
            _flush(path)
        if replace and folder.exists():
            folder.rename(replaced)
        if not folder.exists():
            scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Keeps transformers' progress bars off the terminal, which belongs to the run's own display."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
