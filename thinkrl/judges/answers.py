"""Answers that were given before, and the record of what was asked: JSON lines, appended and flushed one by one."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from thinkrl.judges.judgement import Call, Reply
from thinkrl.sampling.sampler import SamplingSpec
from thinkrl.tracking.errors import disk_errors

_VERSION = 1


def answer_key(identity: Mapping[str, Any], call: Call, sampling: SamplingSpec) -> str:
    """32 hexadecimal digits over all that an answer depends on: the model and where it runs, the turns, the options,
    how tokens are drawn, and the call's own seed where any are drawn."""
    described = {
        "version": _VERSION,
        "identity": dict(identity),
        "messages": [[turn.role, turn.content] for turn in call.messages],
        "options": list(call.options),
        "sampling": asdict(sampling),
        "key": call.key if sampling.temperature > 0 and not call.options else 0,
    }
    text = json.dumps(described, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class JsonLines:
    """A file that grows by whole lines. A line that a killed process left torn is passed over."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None

    def read(self) -> list[dict[str, Any]]:
        """All objects that can be read; none where there is no file."""
        if not self.path.exists():
            return []
        found = []
        with disk_errors(self.path):
            data = self.path.read_bytes()
        for line in data.split(b"\n"):
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                found.append(row)
        return found

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds one object. Raises RunError when the disk refuses."""
        data = json.dumps(row).encode() + b"\n"
        with disk_errors(self.path, len(data)):
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                torn = self.path.exists() and self.path.read_bytes()[-1:] != b"\n"
                self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
                data = b"\n" + data if torn else data
            os.write(self._file, data)  # one write a line: what another process appends stays apart

    def close(self) -> None:
        """Lets go of the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


class AnswerCache:
    """Replies by key. Only answers are kept: what failed is asked again."""

    def __init__(self, path: Path | None) -> None:
        """path: the file; None keeps them for this process alone."""
        self._lines = JsonLines(path) if path is not None else None
        self._known: dict[str, Reply] = {}
        for row in self._lines.read() if self._lines is not None else ():
            key, reply = row.get("key"), _reply(row)
            if isinstance(key, str) and reply is not None:
                self._known[key] = reply

    def find(self, key: str) -> Reply | None:
        """The reply that was given, or None."""
        reply = self._known.get(key)
        return None if reply is None else replace(reply, cached=True)

    def keep(self, key: str, reply: Reply) -> None:
        """Remembers an answer."""
        if reply.fault or key in self._known:
            return
        self._known[key] = reply
        if self._lines is not None:
            row = {"key": key, "text": reply.text, "options": dict(reply.options), "cut": reply.cut}
            self._lines.append(row)

    def close(self) -> None:
        """Lets go of the file."""
        if self._lines is not None:
            self._lines.close()


def _reply(row: Mapping[str, Any]) -> Reply | None:
    text, options, cut = row.get("text"), row.get("options"), row.get("cut")
    if not isinstance(text, str) or not isinstance(options, dict) or not isinstance(cut, bool):
        return None
    if not all(isinstance(value, int | float) for value in options.values()):
        return None
    return Reply(text, {str(name): float(value) for name, value in options.items()}, cut=cut)
