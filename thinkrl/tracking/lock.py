"""One process for one run: a lock that the kernel releases however the process ends."""

import fcntl
import os
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
