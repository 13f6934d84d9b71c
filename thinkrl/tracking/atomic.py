"""Files and folders that are either the old ones or the new ones, whole, whenever the process dies.

Everything is written aside under a name that ends in `.partial`, flushed to the disk, and renamed
into place. What a killed write leaves behind keeps that ending; `clean_partial` removes it.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from thinkrl.tracking.errors import disk_errors

PARTIAL = ".partial"
_PREVIOUS = ".previous" + PARTIAL


def write_text(path: Path, text: str) -> None:
    """Writes `text` as UTF-8. Raises RunError when the disk refuses; `path` is then unchanged."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Writes `data`. Raises RunError when the disk refuses; `path` is then unchanged."""
    with replace_file(path, needed=len(data)) as aside:
        aside.write_bytes(data)


@contextmanager
def replace_file(path: Path, needed: int | None = None) -> Iterator[Path]:
    """Yields a path to write a file at; it becomes `path` when the block ends without an error.

    needed: its size in bytes where known, for the message when space runs out.
    """
    aside = path.with_name(path.name + PARTIAL)
    with disk_errors(path, needed):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield aside
            flush(aside)
            os.replace(aside, path)
            flush(path.parent)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise


@contextmanager
def replace_directory(path: Path, needed: int | None = None) -> Iterator[Path]:
    """Yields an empty folder to fill; it becomes `path` when the block ends without an error.

    An earlier `path` is set aside first, since a folder cannot be renamed onto a full one;
    `clean_partial` puts it back if the process dies between the two renames.
    """
    aside = path.with_name(path.name + PARTIAL)
    previous = path.with_name(path.name + _PREVIOUS)
    with disk_errors(path, needed):
        try:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            yield aside
            _flush_tree(aside)
            if path.exists():
                os.rename(path, previous)
            os.rename(aside, path)
            flush(path.parent)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            if previous.exists() and not path.exists():
                os.rename(previous, path)
            raise
        shutil.rmtree(previous, ignore_errors=True)


def remove_directory(path: Path) -> None:
    """Removes a folder so that a killed removal never leaves half of it under its name."""
    aside = path.with_name(path.name + PARTIAL)
    with disk_errors(path):
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(path, aside)
        shutil.rmtree(aside)


def clean_partial(folder: Path) -> list[Path]:
    """Removes what killed writes left anywhere under `folder`; returns what was removed.

    Only the process that holds the run's lock may call this.
    """
    removed = []
    with disk_errors(folder):
        for left in sorted(folder.rglob("*" + PARTIAL)):
            if not left.exists():
                continue  # inside a leftover folder that is gone already
            target = left.with_name(left.name.removesuffix(_PREVIOUS))
            if left.name.endswith(_PREVIOUS) and not target.exists():
                os.rename(left, target)
            elif left.is_dir():
                shutil.rmtree(left)
                removed.append(left)
            else:
                left.unlink()
                removed.append(left)
    return removed


def flush(path: Path) -> None:
    """Waits until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_tree(folder: Path) -> None:
    for entry in folder.rglob("*"):
        flush(entry)
    flush(folder)
