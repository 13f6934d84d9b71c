"""What judges were asked about a response, and what they answered: the transcripts in a stage's folder.

A transcript can be large, and it may be growing. Its lines are looked through once for the names of their calls;
what is shown is read from its place.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from thinkrl.viewer.values import plain

_ENDING = "_transcript.jsonl"
_CALL = b'"call": '
_MOST = 40
_HEAD = 4096


class Transcript:
    """One file of calls, by the responses that they are about."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.judge = path.name.removesuffix(_ENDING)
        self._places: dict[str, list[int]] = {}
        self._read = 0

    def about(self, response_id: str) -> list[dict[str, Any]]:
        """Calls that name the response, alone or as one of two, in the order they were made."""
        self._read_on()
        found = []
        with self.path.open("rb") as file:
            for place in self._places.get(response_id, ())[:_MOST]:
                file.seek(place)
                try:
                    row = json.loads(file.readline())
                except (ValueError, RecursionError):
                    continue
                if isinstance(row, dict):
                    found.append({"judge": self.judge, **plain(row)})
        return found

    def _read_on(self) -> None:
        """Notes the calls of whole lines that were not there before."""
        if self.path.stat().st_size < self._read:  # written anew
            self._places, self._read = {}, 0
        with self.path.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                for name in _names(line):
                    self._places.setdefault(name, []).append(self._read)
                self._read += len(line)


def _names(line: bytes) -> list[str]:
    """Responses that a line's call is about: `a`, `a#1`, and both of `a : b#swapped`."""
    place = line.find(_CALL, 0, _HEAD)
    if place < 0:
        return []
    try:
        head = line[place + len(_CALL) : place + _HEAD].decode(errors="replace")
        name, _ = json.JSONDecoder().raw_decode(head)
    except ValueError:
        return []
    if not isinstance(name, str):
        return []
    case = name.rpartition("#")[0] or name
    return list(dict.fromkeys([name, case, *case.split(" : ")]))


class Transcripts:
    """The transcripts of a run's stages, each file looked through once."""

    def __init__(self) -> None:
        self._open: dict[Path, Transcript] = {}

    def about(self, folder: Path, response_id: str) -> list[dict[str, Any]]:
        """What the judges of the stage in `folder` were asked about a response."""
        return (
            [call for transcript in self._of(folder) for call in transcript.about(response_id)] if response_id else []
        )

    def _of(self, folder: Path) -> Iterator[Transcript]:
        for path in sorted(folder.glob(f"*{_ENDING}")):
            if path not in self._open:
                self._open[path] = Transcript(path)
            yield self._open[path]
