"""What a launcher runs: a point of the sweep, with one seed or several, each as a `thinkrl run` of its own."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isnan, nan
from pathlib import Path
from statistics import fmean
from typing import Any

from thinkrl.config.component import UserError
from thinkrl.reproduction.arms import job_environment
from thinkrl.reproduction.readings import FinishedRun
from thinkrl.sweeps.choice import Choice
from thinkrl.sweeps.folder import RunState, SweepFolder
from thinkrl.sweeps.process import run_process
from thinkrl.sweeps.stopping import StoppingRule, read_curve
from thinkrl.tracking.metrics import read_rows

Command = tuple[str, ...]
COMMAND: Command = (sys.executable, "-P", "-m", "thinkrl")
"""What starts thinkrl."""
_LOOK_SECONDS = 5.0


@dataclass(frozen=True)
class Job:
    """A task function in Hydra's sense. It is sent to other processes and machines, so it holds values only.

    folder, recipe, recipes_dirs, cwd: absolute. fixed: overrides that all points share. seeds: those that every point
    runs with, one after the other; where the points themselves name a seed it is empty, and `seed` holds for those that
    do not. jobs: how many run side by side on this machine. owner: the process that the jobs end with; None for jobs
    that a scheduler keeps.
    """

    folder: Path
    recipe: str
    fixed: tuple[str, ...]
    choice: Choice
    seed: int = 0
    seeds: tuple[int, ...] = ()
    recipes_dirs: tuple[Path, ...] = ()
    stop: StoppingRule | None = None
    jobs: int = 1
    owner: int | None = None
    cwd: Path = field(default_factory=Path.cwd)
    command: Command = COMMAND

    def __call__(self, config: Any) -> float | None:
        """Runs the point of `config.overrides`: what decides between points, None where a seed has no number.

        It raises for an interrupt and for a folder that cannot be written, not for a run that fails.
        """
        from omegaconf import OmegaConf

        overrides = OmegaConf.to_container(config.overrides, resolve=False)
        assert isinstance(overrides, list)
        point, seed = split_seed([str(override) for override in overrides])
        seeds = self.seeds or (self.seed if seed is None else seed,)
        found = fmean([self.run(point, seed) for seed in seeds])
        return None if isnan(found) else found  # Optuna counts None as failed, and stumbles over NaN

    def run(self, point: Sequence[str], seed: int, tag: str = "") -> float:
        """Runs the point with one seed, or goes on with it; one that has ended before is not begun again."""
        folder = SweepFolder(self.folder)
        name = RunState(tuple(point), seed, tag=tag).name
        with folder.hold(name, say):
            state = folder.state(point, seed, tag)
            if state.status != "finished" and not (state.status == "stopped" and self.stop):
                state = self._start(folder, state)
        return self._value(folder, state)

    def _start(self, folder: SweepFolder, state: RunState) -> RunState:
        hopeless = _stopped_before(folder, state) if self.stop else ""
        if hopeless:
            ended = state.end("stopped", hopeless)
            folder.write(ended)
            return ended
        begun = state.begin()
        folder.write(begun)
        say(f"{state.name}: started, output in {folder.log(state.name)}")
        started = time.monotonic()
        try:
            ended = self._process(folder, begun)
        except BaseException:
            folder.write(begun.end("waiting", "interrupted"))
            raise
        folder.write(ended)
        say(f"{state.name}: {ended.status} after {time.monotonic() - started:.0f} s{ended.why and f': {ended.why}'}")
        return ended

    def _process(self, folder: SweepFolder, state: RunState) -> RunState:
        overrides = [*self.fixed, *state.point, f"seed={state.seed}"]
        command = [*self.command, "run", self.recipe, *overrides, "--dir", str(folder.run(state.name))]
        for path in self.recipes_dirs:
            command += ["--recipes-dir", str(path)]
        watch = _Watch(folder, state, self.stop) if self.stop else _never
        environment = dict(job_environment(self.jobs))
        environment.pop("WANDB_SERVICE", None)  # a run talks to W&B by itself, also below W&B's agent
        done = run_process(command, folder.log(state.name), environment, self.cwd, watch, self.owner)
        if done.code == 0:
            return state.end("finished")
        if done.stopped:
            return state.end("stopped", done.stopped)
        return state.end("failed", done.why)

    def _value(self, folder: SweepFolder, state: RunState) -> float:
        if state.status != "finished":
            return nan
        try:
            return self.choice.value(FinishedRun(folder.run(state.name)))
        except UserError as error:
            say(f"{state.name}: finished, but {error}")
            return nan


class _Watch:
    """Asks the rule now and then whether the run should stop."""

    def __init__(self, folder: SweepFolder, state: RunState, rule: StoppingRule) -> None:
        self._folder, self._state, self._rule = folder, state, rule
        self._next = 0.0
        self._judged = 0

    def __call__(self) -> str:
        if time.monotonic() < self._next:
            return ""
        self._next = time.monotonic() + _LOOK_SECONDS
        own = self._curve(self._state)
        if max(own, default=0) == self._judged:
            return _stopped_before(self._folder, self._state)
        self._judged = max(own)
        others = [self._curve(other) for other in self._folder.states() if other.point != self._state.point]
        return _stopped_before(self._folder, self._state) or self._rule.reason(
            own, [curve for curve in others if curve]
        )

    def _curve(self, state: RunState) -> dict[int, float]:
        try:
            rows = read_rows(self._folder.run(state.name) / "metrics.jsonl")
        except UserError:  # a log that cannot be read says nothing; the run itself will say why
            return {}
        return read_curve(rows, self._rule.metric, self._rule.stage)


def _never() -> str:
    return ""


def _stopped_before(folder: SweepFolder, state: RunState) -> str:
    """Why the point is without hope already: one of its seeds was stopped."""
    for other in folder.states():
        if other.point == state.point and other.status == "stopped" and other.seed != state.seed:
            return f"its seed {other.seed} was stopped"
    return ""


def split_seed(overrides: Sequence[str]) -> tuple[tuple[str, ...], int | None]:
    """The overrides without the seed, and the seed where one is among them."""
    seeds = [override for override in overrides if _key(override) == "seed"]
    return tuple(o for o in overrides if _key(o) != "seed"), int(seeds[-1].partition("=")[2]) if seeds else None


def _key(override: str) -> str:
    return override.lstrip("+").partition("=")[0]


def say(text: str) -> None:
    """A line for whoever watches."""
    print(text, file=sys.stderr, flush=True)
