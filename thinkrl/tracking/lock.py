"""One process for one run: a lock that the kernel releases however the process ends."""

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from thinkrl.tracking.errors import RunError, disk_errors

_HELD: set[tuple[int, int]] = set()
"""Device and inode of each lock file this process holds: the kernel's lock keeps out other processes only."""


class RunLock:
    """An exclusive lock on `path`, taken at once or refused.

    It is a POSIX record lock: a forked worker that outlives the process does not keep it.
    """

    def __init__(self, path: Path) -> None:
        with disk_errors(path):
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        stat = os.fstat(self._file)
        self._key = (stat.st_dev, stat.st_ino)
        if self._key in _HELD:
            # Closing any descriptor of the file would release the lock, so this one stays open.
            raise RunError(f"{path.parent} is in use by this process (pid {os.getpid()}) already")
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            holder = os.read(self._file, 20).decode(errors="replace").strip() or "unknown"
            os.close(self._file)
            raise RunError(
                f"{path.parent} is in use by another process (pid {holder}). Wait for it, stop it, or use another --dir"
            ) from error
        _HELD.add(self._key)
        with disk_errors(path):
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Gives the lock back; calling it twice does nothing."""
        if self._key in _HELD:
            _HELD.discard(self._key)
            os.close(self._file)


def take_lock(path: Path) -> int | None:
    """The open file that keeps other processes out of `path` until it is closed; None while one of them has it.

    The kernel gives the lock back however its owner ends. A process must not take the same lock twice: closing
    either file would give it back. Raises OSError where the file cannot be made or its file system has no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        os.close(file)
        return None
    except BaseException:
        os.close(file)
        raise
    with suppress(OSError):  # a full disk: the lock is held all the same
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
    return file


def lock_owner(path: Path) -> str:
    """The process that took the lock on `path` last, for messages."""
    try:
        return path.read_text().strip() or "unknown"
    except (OSError, UnicodeDecodeError):
        return "unknown"
