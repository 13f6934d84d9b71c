"""The run directory: where a run keeps everything, and how the same command finds it again.

config.yaml, origins.yaml   the resolved configuration, and what set each value
run.json                    versions, git state, seeds, hardware, the state of each stage
metrics.jsonl               one row a step
stages/<n>_<name>/          checkpoints, rollouts, artifacts of each stage
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import yaml

from thinkrl.tracking.atomic import PARTIAL, clean_partial, write_text
from thinkrl.tracking.differences import differences
from thinkrl.tracking.errors import RunError, disk_errors
from thinkrl.tracking.lock import RunLock
from thinkrl.tracking.provenance import git_state, hardware, now, versions

StageStatus = Literal["pending", "running", "finished"]

_LAID_OUT = ("config.yaml", "origins.yaml", "run.json")
_BEFORE_RECORD = {"run.lock", *_LAID_OUT, *(name + PARTIAL for name in _LAID_OUT)}
"""What a process killed while it laid out a new directory may leave."""


@dataclass(frozen=True)
class Artifact:
    """Something a stage hands on: where it lies, and a fingerprint of its content."""

    path: str
    """Relative to the run directory when inside it."""
    fingerprint: str


@dataclass(frozen=True)
class StageRecord:
    """How far a stage is. `metrics`: position of the metrics file when the stage began. `work`: fingerprint
    of the work it began as."""

    status: StageStatus = "pending"
    metrics: Mapping[str, int] | None = None
    artifacts: Mapping[str, Artifact] = field(default_factory=dict)
    started: str = ""
    finished: str = ""
    work: str = ""


def finished_artifacts(path: Path) -> dict[str, dict[str, Path]]:
    """What the finished stages of a run made: by stage in order, then by kind. Opens nothing for writing.

    Raises RunError when `path` holds no run.
    """
    try:
        stages = json.loads((path / "run.json").read_text(encoding="utf-8"))["stages"]
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"{path} holds no run that can be read ({type(error).__name__})") from error
    return {
        key.partition("_")[2]: {kind: path / made["path"] for kind, made in stage["artifacts"].items()}
        for key, stage in sorted(stages.items(), key=lambda item: int(item[0].partition("_")[0]))
        if stage["status"] == "finished"
    }


def wall_seconds(record: Mapping[str, Any]) -> float:
    """Seconds that the starts of a run took by the clock, from its record (`run.json`): from when each opened the run
    to its end. A start that was killed has no end noted, and is left out."""
    moments = [(_moment(start.get("time")), _moment(start.get("ended"))) for start in record.get("starts") or ()]
    return sum(end - begin for begin, end in moments if begin is not None and end is not None)


def _moment(text: object) -> float | None:
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return None


class RunDirectory:
    """An open run directory, held by this process alone until `close` or its end."""

    def __init__(self, path: Path, lock: RunLock, record: dict[str, Any], messages: Sequence[str]) -> None:
        self.path = path
        self.messages = tuple(messages)
        """What differs from when the run began, in words, for the user."""
        self._lock = lock
        self._record = record

    @classmethod
    def open(
        cls,
        path: Path | str,
        config_text: str,
        origins_text: str,
        record: Mapping[str, Any],
        free_keys: Sequence[str] = ("tracker",),
    ) -> "RunDirectory":
        """Creates the run directory, or opens it again to go on.

        config_text, origins_text: YAML of the resolved configuration and of what set each value.
        record: what else `run.json` should say (recipe, command, seeds), JSON values; kept from the first time.
        free_keys: top-level keys, or patterns of whole keys (with `*`), that may change between starts, because no
            result depends on them.

        Raises RunError when another process holds the run, when the configuration differs from the
        stored one, when `path` is something else's folder, and when the disk refuses.
        """
        path = Path(path).absolute()
        with disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
            present = {entry.name for entry in path.iterdir()}
        if "run.json" not in present and present - _BEFORE_RECORD:
            names = ", ".join(sorted(present - _BEFORE_RECORD)[:3])
            raise RunError(f"{path} holds other files ({names}) and no run. Use another --dir")
        lock = RunLock(path / "run.lock")
        try:
            clean_partial(path)
            if (path / "run.json").exists():
                return cls._reopen(path, lock, config_text, origins_text, free_keys)
            write_text(path / "config.yaml", config_text)
            write_text(path / "origins.yaml", origins_text)
            start = _start()
            first = {
                "format": 1,
                "created": start["time"],
                **start["made_by"],
                **record,
                "stages": {},
                "starts": [start],
            }
            directory = cls(path, lock, first, ())
            directory._save()
            return directory
        except BaseException:
            lock.release()
            raise

    @classmethod
    def _reopen(
        cls, path: Path, lock: RunLock, config_text: str, origins_text: str, free_keys: Sequence[str]
    ) -> "RunDirectory":
        record = _read_json(path / "run.json")
        stored_text = _read_text(path / "config.yaml")
        changes = differences(yaml.safe_load(stored_text), yaml.safe_load(config_text))
        refused = {key: pair for key, pair in changes.items() if not _free(key, free_keys)}
        if refused:
            listed = "\n".join(f"  {key}: {old} -> {new}" for key, (old, new) in refused.items())
            raise RunError(
                f"{path} was begun with another configuration:\n{listed}\n"
                "Use another --dir for the new configuration, or repeat the old one to go on"
            )
        start = _start()
        made_by = start.pop("made_by")
        messages = [f"{key}: {old} -> {new} since the run began" for key, (old, new) in changes.items()]
        before = {key: record.get(key) for key in made_by}
        messages += [
            f"{key}: {old} -> {new} since the run began; results may differ from an uninterrupted run"
            for key, (old, new) in differences(_comparable(before), _comparable(made_by)).items()
        ]
        record["starts"].append({**start, "changes": messages} if messages else start)
        if changes:
            write_text(path / "config.yaml", config_text)
            write_text(path / "origins.yaml", origins_text)
        directory = cls(path, lock, record, messages)
        directory._save()
        return directory

    @property
    def record(self) -> Mapping[str, Any]:
        """What `run.json` holds."""
        return self._record

    @property
    def resumed(self) -> bool:
        """Whether the run was begun by an earlier process."""
        return len(self._record["starts"]) > 1

    def update(self, **values: Any) -> None:
        """Sets keys of `run.json` (JSON values) and writes it."""
        self._record.update(values)
        self._save()

    def stage_path(self, index: int, name: str) -> Path:
        """The folder of stage number `index` (from 0), made when it is not there."""
        path = self.path / "stages" / _stage_key(index, name)
        with disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        return path

    def stage(self, index: int, name: str) -> StageRecord:
        """The record of a stage; pending when it has not begun."""
        stored = self._record["stages"].get(_stage_key(index, name))
        if stored is None:
            return StageRecord()
        artifacts = {key: Artifact(**artifact) for key, artifact in stored["artifacts"].items()}
        return StageRecord(**{**stored, "artifacts": artifacts})

    def plan_stages(self, names: Sequence[str]) -> None:
        """Notes every stage of the run, in order; those not begun yet are pending."""
        for index, name in enumerate(names):
            self._record["stages"].setdefault(_stage_key(index, name), asdict(StageRecord()))
        self._save()

    def begin_stage(self, index: int, name: str, metrics: Mapping[str, int], work: str = "") -> StageRecord:
        """Marks a stage as running. `metrics`: where the metrics file ends now. `work`: fingerprint of the work.

        A stage that was running already keeps its first position and work, so that a stage without a
        checkpoint can rewind the metrics to it and start over.
        """
        record = self.stage(index, name)
        if record.status == "pending":
            record = StageRecord("running", metrics=dict(metrics), started=now(), work=work)
            self._set_stage(index, name, record)
        return record

    def finish_stage(self, index: int, name: str, artifacts: Mapping[str, tuple[Path, str]]) -> StageRecord:
        """Marks a stage as finished with what it made: name -> (path, fingerprint of the content)."""
        before = self.stage(index, name)
        made = {key: Artifact(self._relative(path), fingerprint) for key, (path, fingerprint) in artifacts.items()}
        record = replace(before, status="finished", artifacts=made, finished=now())
        self._set_stage(index, name, record)
        return record

    def artifact_path(self, artifact: Artifact) -> Path:
        """Where an artifact lies, also after the run directory was moved."""
        return self.path / artifact.path

    def end(self, how: str) -> None:
        """Notes when the start in hand ended, and how: `finished`, `interrupted`, or the error in a line."""
        self._record["starts"][-1] |= {"ended": now(), "end": how}
        self._save()

    def close(self) -> None:
        """Lets other processes open the run; calling it twice does nothing."""
        self._lock.release()

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _relative(self, path: Path) -> str:
        whole = Path(path).absolute()
        return str(whole.relative_to(self.path) if whole.is_relative_to(self.path) else whole)

    def _set_stage(self, index: int, name: str, record: StageRecord) -> None:
        self._record["stages"][_stage_key(index, name)] = asdict(record)
        self._save()

    def _save(self) -> None:
        write_text(self.path / "run.json", json.dumps(self._record, indent=2, allow_nan=False) + "\n")


def _start() -> dict[str, Any]:
    made_by = {"versions": versions(), "git": git_state(), "hardware": hardware()}
    return {"time": now(), "pid": os.getpid(), "made_by": made_by}


def _comparable(made_by: Mapping[str, Any]) -> dict[str, Any]:
    """The part of versions, git and hardware that can change a result."""
    hardware_used = {key: (made_by["hardware"] or {}).get(key) for key in ("processor", "cores", "gpus")}
    return {"versions": made_by["versions"], "git": made_by["git"], "hardware": hardware_used}


def _free(key: str, free_keys: Sequence[str]) -> bool:
    return any(key.split(".")[0] == free or ("*" in free and fnmatchcase(key, free)) for free in free_keys)


def _stage_key(index: int, name: str) -> str:
    if index < 0 or not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
        raise ValueError(f"a stage needs a number from 0 and a name that can be a folder, got {index} and {name!r}")
    return f"{index}_{name}"


def _read_text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"cannot read {path}: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise RunError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from error
    if not isinstance(value, dict) or value.get("format") != 1:
        raise RunError(f"{path} is not the record of a run that this version can read")
    return value
