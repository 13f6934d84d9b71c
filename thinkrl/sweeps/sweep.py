"""A sweep from its command line to its runs: what will run, checked before anything does."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from thinkrl.config.build import build
from thinkrl.config.component import ConfigError
from thinkrl.config.compose import compose
from thinkrl.config.render import config_text
from thinkrl.stages.experiment import Experiment
from thinkrl.sweeps.arguments import Asked, first_point, grid, read_arguments
from thinkrl.sweeps.choice import Choice
from thinkrl.sweeps.folder import RunState, SweepFolder
from thinkrl.sweeps.job import COMMAND, Command, Job, split_seed
from thinkrl.sweeps.loader import PointLoader
from thinkrl.sweeps.means import Means, Sweeper
from thinkrl.sweeps.multirun import multirun, point_loader, quoted
from thinkrl.sweeps.random_points import draw
from thinkrl.sweeps.stopping import StoppingRule
from thinkrl.sweeps.validation import Wanted, added_stage, choose, last_training_stage
from thinkrl.tracking.atomic import write_text
from thinkrl.tracking.differences import differences
from thinkrl.tracking.lock import RunLock
from thinkrl.tracking.names import run_name

if TYPE_CHECKING:
    from thinkrl.config.composed import Composed

_FREE = ("tracker", "reuse", "paper", "claim", "deviations")
"""Top-level keys that no result depends on."""
_LONGEST_GROUP = 120


@dataclass(frozen=True)
class Sweep:
    """A sweep that can run.

    fixed: overrides of every run, those that thinkrl adds among them. added: those of a validation stage. notes: what
    the user should know of the choice.
    tracker: class of the runs' tracker; empty for none.
    """

    recipe: str
    recipe_path: Path
    recipes_dirs: tuple[Path, ...]
    asked: Asked
    fixed: tuple[str, ...]
    added: tuple[str, ...]
    seed: int
    folder: SweepFolder
    choice: Choice
    means: Means
    stop: StoppingRule | None
    notes: tuple[str, ...]
    tracker: str = ""

    @cached_property
    def loader(self) -> PointLoader:
        """Hydra's, for the recipe's groups."""
        return point_loader(self.recipe_path)

    @cached_property
    def runs(self) -> list[RunState]:
        """Every run that is known before, in order; none where the sweeper waits for results to propose more."""
        if self.means.sweeper is Sweeper.OPTUNA:
            return []
        if self.means.sweeper is Sweeper.RANDOM:
            points = draw(self.asked.swept, self.means.trials, self.means.seed, self.loader)
            return [RunState(tuple(point), seed) for point in points for seed in self.asked.seeds or (self.seed,)]
        found = []
        for overrides in grid(self.asked, self.loader):
            point, seed = split_seed(overrides)
            found.append(RunState(point, self.seed if seed is None else seed))
        return found

    def job(self, command: Command = COMMAND) -> Job:
        """The task function that launchers run. command: what starts thinkrl."""
        return Job(
            folder=self.folder.path.absolute(),
            recipe=str(self.recipe_path),
            fixed=self.fixed,
            choice=self.choice,
            seed=self.seed,
            seeds=() if self.means.sweeper is Sweeper.GRID else self.asked.seeds,
            recipes_dirs=self.recipes_dirs,
            stop=self.stop,
            jobs=self.means.jobs if self.means.here else 1,
            owner=os.getpid() if self.means.ends_with_command else None,
            cwd=Path.cwd(),
            command=command,
        )

    def configurations(self, runs: Sequence[RunState]) -> dict[str, str]:
        """The resolved configuration of each run, by name. Raises ConfigError for a point that cannot run, and where a
        run was begun with another configuration."""
        texts = {run.name: self._config(run) for run in runs}
        for name, text in texts.items():
            _refuse_another(self.folder, name, text)
        return texts

    def begin(self, runs: Sequence[RunState]) -> None:
        """Lays out the folder, with the runs that are known and their resolved configurations.

        Raises ConfigError for what cannot run; nothing has run then, and nothing is written.
        """
        texts = self.configurations(runs)
        record = {
            "choice": self.choice.as_json(),
            "notes": list(self.notes),
            "swept": list(self.asked.swept),
            "seeds": list(self.asked.seeds or (self.seed,)),
            "sweeper": self.means.sweeper,
            "launcher": self.means.launcher,
        }
        fixed = [*self.asked.fixed, *self.added]
        self.folder.begin({"recipe": self.recipe, "fixed": fixed}, record)
        for name, text in texts.items():
            write_text(self.folder.config(name), text)
        self.folder.plan(runs)

    def run(self, command: Command = COMMAND) -> None:
        """Runs what has not finished. Raises RunError while another command works in the folder."""
        self.folder.path.mkdir(parents=True, exist_ok=True)
        lock = RunLock(self.folder.path / "sweep.lock")
        try:
            self.begin(self.runs)
            multirun(self.job(command), self._arguments(), self.means, self.asked.hydra, self.loader)
        finally:
            lock.release()

    def _arguments(self) -> list[str]:
        return self.asked.arguments if self.means.sweeper is Sweeper.GRID else list(self.asked.swept)

    def _config(self, run: RunState) -> str:
        overrides = [*self.fixed, *run.point, f"seed={run.seed}"]
        composed = compose(self.recipe_path, overrides, self.recipes_dirs)
        build(Experiment, composed.tree, composed)
        return config_text(composed)


def plan_sweep(
    recipe: str,
    overrides: Sequence[str],
    recipes_dirs: Sequence[Path],
    wanted: Wanted,
    means: Means,
    stop: StoppingRule | None,
    directory: Path | None,
) -> Sweep:
    """Reads the command line and decides what the points are compared by. Raises ConfigError for what cannot run."""
    means.check()
    bare = compose(recipe, (), recipes_dirs, completed=False)
    loader = point_loader(bare.recipe_path)
    asked = read_arguments(overrides, loader)
    if means.sweeper is not Sweeper.GRID and not asked.swept:
        raise ConfigError(f"--sweeper {means.sweeper} needs keys to draw: KEY=a,b,c or 'KEY=interval(0,1)'")
    first = (*asked.fixed, *first_point(asked, loader), *_first_seed(asked))
    composed, experiment = _built(recipe, first, recipes_dirs)
    added = added_stage(experiment, wanted)
    if added:
        composed, experiment = _built(recipe, (*first, *added), recipes_dirs)
    choice, notes = choose(experiment, wanted)
    place = directory or Path("runs") / composed.recipe_id.replace("/", "_") / sweep_name(overrides)
    if stop is not None and not stop.stage:
        stop = replace(stop, stage=last_training_stage(experiment))  # type: ignore[type-var]
    return Sweep(
        recipe=composed.recipe_id,
        recipe_path=composed.recipe_path.absolute(),
        recipes_dirs=tuple(path.absolute() for path in recipes_dirs),
        asked=asked,
        fixed=(*asked.fixed, *added, *_group(composed, place)),
        added=added,
        seed=experiment.seed if asked.seed is None else asked.seed,
        folder=SweepFolder(place),
        choice=choice,
        means=means,
        stop=stop,
        notes=tuple(notes),
        tracker=str((composed.tree.get("tracker") or {}).get("_target_", "")),
    )


def sweep_name(overrides: Sequence[str]) -> str:
    """`sweep_`, then the overrides but the seeds: more seeds of the same points go to the same folder."""
    return "sweep" + run_name("", overrides).removeprefix("seed")


def _first_seed(asked: Asked) -> tuple[str, ...]:
    return (f"seed={asked.seeds[0]}",) if asked.seeds else ()


def _built(recipe: str, overrides: Sequence[str], recipes_dirs: Sequence[Path]) -> "tuple[Composed, Experiment]":
    composed = compose(recipe, overrides, recipes_dirs)
    return composed, build(Experiment, composed.tree, composed)


def _group(composed: "Composed", place: Path) -> tuple[str, ...]:
    """Shows the runs together in W&B, unless the recipe or the user groups them already."""
    tracker: Any = composed.tree.get("tracker")
    if not isinstance(tracker, dict) or "group" not in tracker or tracker["group"] is not None:
        return ()
    return (f"tracker.group={quoted(f'{composed.recipe_id}/{place.name}'[:_LONGEST_GROUP])}",)


def _refuse_another(folder: SweepFolder, name: str, text: str) -> None:
    """Raises ConfigError where the run was begun with values that the recipe no longer gives."""
    stored = folder.run(name) / "config.yaml"
    if not stored.is_file():
        return
    changes = differences(yaml.safe_load(stored.read_text(encoding="utf-8")), yaml.safe_load(text))
    kept = {key: pair for key, pair in changes.items() if key.split(".")[0] not in _FREE}
    if kept:
        listed = "\n".join(f"  {key}: {old} -> {new}" for key, (old, new) in kept.items())
        raise ConfigError(f"{stored.parent} was begun with another configuration:\n{listed}\nUse another --dir")
