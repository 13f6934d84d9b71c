"""The sweep's folder: what was asked, and every run with its configuration and its state.

sweep.json            the recipe, what holds for every run, and by what the best point is chosen
runs/<name>/          the run directories, as `thinkrl run` makes them
configs/<name>.yaml   the resolved configuration of each run
states/<name>.json    its state: waiting, running, finished, stopped, or failed with why
logs/<name>.log       what it printed
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from thinkrl.config.component import ConfigError
from thinkrl.tracking.atomic import write_text
from thinkrl.tracking.errors import RunError, disk_errors
from thinkrl.tracking.lock import lock_owner, take_lock
from thinkrl.tracking.names import run_name
from thinkrl.tracking.provenance import now

Status = Literal["waiting", "running", "finished", "stopped", "failed"]
RECORD = "sweep.json"
_LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class RunState:
    """One run of a sweep: a point with a seed, and how far it is.

    point: the overrides that make the point, the seed left out. number: place in the order that runs were planned in.
    why: of a run that failed or was stopped. starts: how often it was begun. tag: tells runs of one point and seed
    apart, where W&B counts them as two.
    """

    point: tuple[str, ...]
    seed: int
    number: int = 0
    status: Status = "waiting"
    why: str = ""
    starts: int = 0
    begun: str = ""
    ended: str = ""
    tag: str = ""

    @property
    def name(self) -> str:
        """Names the run's files: a function of point, seed and tag."""
        return "_".join([run_name(self.seed, self.point), *([self.tag] if self.tag else [])])

    def begin(self) -> "RunState":
        """Running, once more."""
        return replace(self, status="running", why="", starts=self.starts + 1, begun=now(), ended="")

    def end(self, status: Status, why: str = "") -> "RunState":
        """Ended so."""
        return replace(self, status=status, why=why, ended=now())


@dataclass(frozen=True)
class SweepFolder:
    """A sweep's folder, which several processes may read and write at once, each the runs it holds."""

    path: Path

    def begin(self, must_agree: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        """Makes the folder, or goes on in it.

        must_agree: what makes runs comparable (JSON values). about: what else `sweep.json` should say, as of now.
        Raises ConfigError where another sweep was begun here, RunError where the folder holds something else.
        """
        place = self.path / RECORD
        with disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            others = [entry.name for entry in self.path.iterdir() if entry.name not in ("sweep.lock", RECORD)]
        if place.exists():
            stored = self.record()
            changed = [key for key, value in must_agree.items() if not _same(stored.get(key), value)]
            if changed:
                listed = "\n".join(f"  {key}: {stored.get(key)} -> {must_agree[key]}" for key in changed)
                raise ConfigError(f"{self.path} holds another sweep:\n{listed}\nUse another --dir for this one")
        elif others:
            raise RunError(f"{self.path} holds other files ({', '.join(sorted(others)[:3])}). Use another --dir")
        created = self.record()["created"] if place.exists() else now()
        record = {"format": 1, "created": created, **must_agree, **about}
        write_text(place, json.dumps(record, indent=1, ensure_ascii=False) + "\n")

    def record(self) -> dict[str, Any]:
        """What `sweep.json` holds. Raises RunError where there is no sweep."""
        try:
            record = json.loads((self.path / RECORD).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{self.path} holds no sweep that can be read ({type(error).__name__})") from error
        if not isinstance(record, dict) or record.get("format") != 1:
            raise RunError(f"{self.path / RECORD} is not the record of a sweep that this version can read")
        return record

    def run(self, name: str) -> Path:
        """The run directory."""
        return self.path / "runs" / name

    def log(self, name: str) -> Path:
        """What the run printed, over all its starts."""
        return self.path / "logs" / f"{name}.log"

    def config(self, name: str) -> Path:
        """The run's resolved configuration."""
        return self.path / "configs" / f"{name}.yaml"

    def plan(self, runs: Sequence[RunState]) -> None:
        """Notes runs that are to be made; what is known of those that were begun stays."""
        known = {state.name for state in self.states()}
        for number, state in enumerate((run for run in runs if run.name not in known), start=len(known)):
            self.write(replace(state, number=number))

    def state(self, point: Sequence[str], seed: int, tag: str = "") -> RunState:
        """What is known of a run; waiting, and the next in order, where nothing is."""
        fresh = RunState(tuple(point), seed, tag=tag)
        found = self._read(self._state_path(fresh.name))
        return found or replace(fresh, number=len(self.states()))

    def states(self) -> list[RunState]:
        """All runs, in the order they were planned in."""
        found = [self._read(path) for path in sorted((self.path / "states").glob("*.json"))]
        return sorted((state for state in found if state), key=lambda state: (state.number, state.name))

    def settled_states(self) -> list[RunState]:
        """All runs; one that is noted as running, but that no process holds any more, as waiting.

        Not for a process that holds a run itself: looking at its own lock would give it back.
        """
        return [
            replace(state, status="waiting", why="cut off")
            if state.status == "running" and not self._is_held(state.name)
            else state
            for state in self.states()
        ]

    def write(self, state: RunState) -> None:
        """Keeps the state of a run."""
        write_text(self._state_path(state.name), json.dumps(asdict(state), indent=1, ensure_ascii=False) + "\n")

    @contextmanager
    def hold(self, name: str, say: Callable[[str], None]) -> Iterator[None]:
        """Keeps the run for this process; waits while another one has it, and says so."""
        path = self._lock_path(name)
        told = False
        with disk_errors(path):
            while (file := take_lock(path)) is None:
                if not told:
                    say(f"{name}: another process ({lock_owner(path)}) is at this run; waiting for it")
                    told = True
                time.sleep(_LOOK_SECONDS)
        try:
            yield
        finally:
            os.close(file)

    def _is_held(self, name: str) -> bool:
        try:
            file = take_lock(self._lock_path(name))
        except OSError:  # a folder that can only be read, or without locks
            return True
        if file is None:
            return True
        os.close(file)
        return False

    def _lock_path(self, name: str) -> Path:
        return self.path / "states" / f"{name}.lock"

    def _state_path(self, name: str) -> Path:
        return self.path / "states" / f"{name}.json"

    def _read(self, path: Path) -> RunState | None:
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            return RunState(**{**stored, "point": tuple(stored["point"])})
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path} is not the state of a run: {error}") from error


def _same(a: Any, b: Any) -> bool:
    """Whether two JSON values agree; the order of a list does not count."""
    return sorted(a) == sorted(b) if isinstance(a, list) and isinstance(b, list) else bool(a == b)
