"""A run directory as the viewer sees it: its stages, and the rollout files that lie there at this moment."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from thinkrl.config.component import ConfigError
from thinkrl.reports.reading import RunReading, find_runs
from thinkrl.rollouts.tool_calls import ToolSyntax

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_STAGE = re.compile(r"\d+_[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class RolloutFile:
    """A rollout file as it was when it was listed. A file that was written anew is another one."""

    stage: str
    step: int
    path: Path
    changed: int
    """Nanoseconds since 1970."""
    size: int
    """Bytes."""


@dataclass(frozen=True)
class ViewedRun:
    """A run that is only read. It may be going on: what is listed is what is there when it is asked for."""

    path: Path

    @classmethod
    def open(cls, path: Path) -> "ViewedRun":
        """The run at `path`, or the only run below it.

        Raises ConfigError where there is no run or there are several.
        """
        runs = find_runs([path])
        if len(runs) > 1:
            named = "\n".join(f"  thinkrl view {run}" for run in runs[:10])
            raise ConfigError(f"{path} holds {len(runs)} runs; name one of them:\n{named}")
        run = cls(runs[0])
        run.reading()
        return run

    def reading(self) -> RunReading:
        """What run.json says now, without metrics and results.

        Raises ConfigError when it cannot be read.
        """
        try:
            record = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
            if not isinstance(record, dict):
                raise ValueError("not an object")
        except (OSError, ValueError) as error:
            raise ConfigError(f"{self.path} holds no run that can be read: {error}") from error
        return RunReading(self.path, record, self.config, {}, (), {})

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The run's configuration; empty where it cannot be read."""
        try:
            found = yaml.load((self.path / "config.yaml").read_text(encoding="utf-8"), Loader=_Loader)
        except (OSError, ValueError, yaml.YAMLError):
            return {}
        return found if isinstance(found, dict) else {}

    def stage_keys(self) -> list[str]:
        """Folders of the stages that are there, such as `3_grpo`, in order."""
        folder = self.path / "stages"
        names = [entry.name for entry in folder.iterdir() if entry.is_dir()] if folder.is_dir() else []
        return sorted((name for name in names if _STAGE.fullmatch(name)), key=_place)

    def stage_folder(self, stage: str) -> Path:
        """The folder of a stage. Raises LookupError for a name that is none of the run's."""
        if stage not in self.stage_keys():
            raise LookupError(f"no stage {stage!r}")
        return self.path / "stages" / stage

    def files(self, stage: str, step: int | None = None) -> list[RolloutFile]:
        """The rollout files of a stage by step, or those of one step. Raises LookupError for an unknown stage."""
        folder = self.stage_folder(stage) / "rollouts"
        if step is not None:
            candidates = [folder / f"{step:06d}.parquet"]
        else:
            candidates = list(folder.glob("*.parquet")) if folder.is_dir() else []
        found = []
        for path in candidates:
            if path.stem.isdigit():
                try:
                    stat = path.stat()
                except OSError:  # rewritten by a resumed run at this moment
                    continue
                found.append(RolloutFile(stage, int(path.stem), path, stat.st_mtime_ns, stat.st_size))
        return sorted(found, key=lambda file: file.step)

    def steps(self, stage: str) -> list[int]:
        """Steps of which rollouts are kept, ascending; names only, no file is looked at."""
        folder = self.stage_folder(stage) / "rollouts"
        names = folder.glob("*.parquet") if folder.is_dir() else ()
        return sorted(int(path.stem) for path in names if path.stem.isdigit())

    def tool_syntax(self, stage: str) -> ToolSyntax:
        """How the stage's environment writes tool calls; the usual way where the configuration does not say."""
        stages = self.config.get("stages")
        name = stage.partition("_")[2]
        place: Any = stages.get(name) if isinstance(stages, Mapping) else None
        for key in ("environment", "syntax"):
            place = place.get(key) if isinstance(place, Mapping) else None
        fields = vars(ToolSyntax())
        given = {key: place[key] for key in fields if isinstance(place, Mapping) and isinstance(place.get(key), str)}
        try:
            return ToolSyntax(**given)
        except ValueError:
            return ToolSyntax()


def _place(name: str) -> tuple[int, str]:
    return int(name.partition("_")[0]), name
