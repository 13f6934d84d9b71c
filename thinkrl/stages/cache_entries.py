"""What the stage cache holds, and taking out of it what no run needs any longer."""

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from thinkrl.stages.reuse import StageCache
from thinkrl.tracking.atomic import remove_directory
from thinkrl.tracking.errors import disk_errors
from thinkrl.tracking.lock import take_lock

_FINGERPRINT = re.compile(r"[0-9a-f]{32}")
_LEFTOVER_SECONDS = 3600.0
"""Age at which what a killed write left behind is certainly nobody's."""


@dataclass(frozen=True)
class CacheEntry:
    """One finished stage in the cache, or what a killed write left there (`leftover`).

    stage: its name in the recipe that made it. used: when it was made or last taken, seconds since 1970.
    size: bytes of its files. freed: bytes that removing it would free; the rest is shared with run directories.
    """

    name: str
    path: Path
    stage: str
    rows: int
    used: float
    size: int
    freed: int
    leftover: bool = False


def cache_entries(cache: StageCache) -> list[CacheEntry]:
    """Everything in the cache, least recently used first."""
    folders = [path for path in cache.root.iterdir() if path.is_dir()] if cache.root.is_dir() else []
    return sorted(map(_entry, folders), key=lambda entry: (entry.used, entry.name))


def prune(cache: StageCache, older_than: float | None = None, dry_run: bool = False) -> tuple[list[CacheEntry], int]:
    """Removes entries that were not used for `older_than` seconds, all without it; what a run is at work on stays.

    Returns what was removed (with `dry_run`: would be), and how many entries were left because they are in use.
    """
    now, removed, busy = time.time(), [], 0
    for entry in cache_entries(cache):
        least = _LEFTOVER_SECONDS if entry.leftover else (older_than or 0.0)
        if now - entry.used < least:
            continue
        with _alone(cache, entry.name) as alone:
            if not alone:
                busy += 1
                continue
            removed.append(entry)
            if not dry_run:
                _remove(entry)
    if not dry_run:
        _remove_idle_locks(cache)
    return removed, busy


@contextmanager
def _alone(cache: StageCache, name: str) -> Iterator[bool]:
    """Whether no run is at the entry; none comes to it before the block ends."""
    fingerprint = name[:32]
    if not _FINGERPRINT.fullmatch(fingerprint):
        yield True
        return
    with disk_errors(cache.root):
        lock = take_lock(cache.lock_path(fingerprint))
    try:
        yield lock is not None
    finally:
        if lock is not None:
            os.close(lock)


def _remove(entry: CacheEntry) -> None:
    if entry.leftover:
        with disk_errors(entry.path):
            shutil.rmtree(entry.path)
    else:
        remove_directory(entry.path)


def _remove_idle_locks(cache: StageCache) -> None:
    """Lock files of work that is neither kept nor under way; a run that waits on one of them at this moment does
    at worst the work again."""
    locks = cache.lock_path("x").parent
    for path in sorted(locks.iterdir()) if locks.is_dir() else ():
        if (cache.root / path.name).exists():
            continue
        with disk_errors(path):
            lock = take_lock(path)
            if lock is not None:
                path.unlink(missing_ok=True)
                os.close(lock)


def _entry(folder: Path) -> CacheEntry:
    record = folder / "reuse.json"
    try:
        rows = json.loads(record.read_text(encoding="utf-8"))["rows"]
        stage = str(rows[0]["stage"]) if rows else ""
        used, leftover = record.stat().st_mtime, _FINGERPRINT.fullmatch(folder.name) is None
    except (OSError, ValueError, KeyError, TypeError):
        rows, stage, used, leftover = [], "", folder.stat().st_mtime, True
    stats = [path.lstat() for path in folder.rglob("*") if path.is_file()]
    return CacheEntry(
        name=folder.name,
        path=folder,
        stage=stage,
        rows=len(rows),
        used=used,
        size=sum(stat.st_size for stat in stats),
        freed=sum(stat.st_size for stat in stats if stat.st_nlink == 1),
        leftover=leftover,
    )
