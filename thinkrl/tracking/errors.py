"""Errors of a run that a user can act on: a full disk, a read-only folder, a run in use."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from thinkrl.config.component import UserError

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_WRITING = (errno.EROFS, errno.EACCES, errno.EPERM)


class RunError(UserError):
    """A run that cannot start or go on, for a reason outside the configuration.

    The message says what happened, to which file, and what to do.
    """


@contextmanager
def disk_errors(path: Path, needed: int | None = None) -> Iterator[None]:
    """Turns an OSError raised inside into a RunError about `path`.

    needed: bytes that were being written, for the message when space runs out.
    """
    try:
        yield
    except OSError as error:
        raise RunError(_explain(error, path, needed)) from error


def _explain(error: OSError, path: Path, needed: int | None) -> str:
    if error.errno in _NO_SPACE:
        wanted = "" if needed is None else f", which needs {readable_bytes(needed)}"
        limit = " (or a limit on file size was reached)" if error.errno == errno.EFBIG else ""
        return (
            f"no space left to write {path}{wanted}; {readable_bytes(free_bytes(path))} free{limit}. "
            "Make room, then run the same command again: it goes on from the last checkpoint"
        )
    if error.errno in _NO_WRITING:
        return f"cannot write {path}: {os.strerror(error.errno)}. Use another --dir, or change its permissions"
    return f"cannot write {path}: {error.strerror or error}"


def free_bytes(path: Path) -> int:
    """Free space in bytes on the file system that holds (or would hold) `path`."""
    folder = path.absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def readable_bytes(count: int) -> str:
    """A byte count in decimal units, such as 1.6 GB."""
    size = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{count} bytes" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
