"""Runs a recipe's stages in order, handing artifacts on by name; an existing run goes on where it stopped."""

import uuid
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from thinkrl.config.composed import Composed
from thinkrl.config.render import config_text, origins_text
from thinkrl.models.allocator import keep_freed_memory, release_freed_memory
from thinkrl.parallel.ranks import Ranks, ranks
from thinkrl.stages.artifacts import Artifact, Kind, model_artifact
from thinkrl.stages.context import StageContext
from thinkrl.stages.experiment import Experiment
from thinkrl.stages.following import Produced, announce, announce_end, follow
from thinkrl.stages.interrupt import Interrupt
from thinkrl.stages.reuse import StageCache, cache_root, stage_fingerprint
from thinkrl.stages.stage import Stage
from thinkrl.tracking.checkpoints import CheckpointStore
from thinkrl.tracking.directory import RunDirectory
from thinkrl.tracking.errors import RunError
from thinkrl.tracking.metrics import read_rows
from thinkrl.tracking.progress import ProgressDisplay
from thinkrl.tracking.recorder import Recorder
from thinkrl.tracking.tracker import NoTracker

_BY_ROUNDING = ("*learner.processes", "*learner.wait_minutes", "*learner.zero_stage", "*learner.offload")
_FREE_KEYS = ("tracker", "reuse", "paper", "claim", "deviations", *_BY_ROUNDING)
"""What may change between two starts of a run: no result depends on it, or by rounding alone."""


@dataclass(frozen=True)
class Run:
    """A finished run: where it is, and what each stage made."""

    directory: Path
    produced: Produced


def run_experiment(experiment: Experiment, composed: Composed, directory: Path) -> Run:
    """Runs or continues `experiment` in `directory`.

    Where this process is one of several, all of them call this. Raises KeyboardInterrupt after Ctrl-C, with
    the step in hand saved; every other error leaves the run as it was at its last checkpoint.
    """
    keep_freed_memory()
    if not ranks().first:
        return Run(directory.absolute(), follow(experiment, ranks()))
    for stage in experiment.stages.values():
        stage.check()
    record = {"recipe": experiment.name, "overrides": list(composed.overrides), "seed": experiment.seed}
    with RunDirectory.open(directory, config_text(composed), origins_text(composed), record, _FREE_KEYS) as run:
        run.plan_stages(list(experiment.stages))
        progress = ProgressDisplay(weights=[max(stage.work(), 1.0) for stage in experiment.stages.values()])
        tracker = (experiment.tracker or NoTracker()).open(run, composed.tree, experiment.name)
        recorder = Recorder(run, tracker, progress)
        exit_code, how = 1, ""
        try:
            for message in run.messages:
                recorder.message(message)
            with Interrupt(recorder.message) as interrupt:
                produced = Pipeline(experiment, composed.tree, run, recorder, progress, interrupt).run()
            exit_code, how = 0, "finished"
        except KeyboardInterrupt:
            exit_code, how = 130, "interrupted"
            raise
        except BaseException as error:
            how = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
            raise
        finally:
            recorder.close(exit_code)
            with suppress(RunError):  # a full disk must not hide why the run ended
                run.end(how)
    return Run(run.path, produced)


class Pipeline:
    """The stages of one run and what they have produced so far."""

    def __init__(
        self,
        experiment: Experiment,
        tree: Mapping[str, Any],
        run: RunDirectory,
        recorder: Recorder,
        progress: ProgressDisplay,
        interrupt: Interrupt,
    ) -> None:
        self._experiment = experiment
        self._tree = tree
        self._directory = run
        self._recorder = recorder
        self._progress = progress
        self._interrupt = interrupt
        self._cache = StageCache(cache_root() / "stages")
        self._produced: dict[str, dict[str, Artifact]] = {}
        self._ranks: Ranks = ranks()

    def run(self) -> Produced:
        """Runs every stage that is not finished yet."""
        for index, (name, stage) in enumerate(self._experiment.stages.items()):
            record = self._directory.stage(index, name)
            if record.status == "finished":
                # A kill right after the stage was finished left them.
                CheckpointStore(self._directory.stage_path(index, name) / "checkpoints").clear()
                self._produced[name] = {
                    kind: Artifact(cast(Kind, kind), self._directory.artifact_path(made), made.fingerprint)
                    for kind, made in record.artifacts.items()
                }
            else:
                if self._interrupt.requested:
                    announce_end(self._ranks, self._produced, stopped=True)
                    raise KeyboardInterrupt(f"stopped before stage '{name}'; what is finished is saved")
                self._produced[name] = self._run_stage(index, name, stage)
        announce_end(self._ranks, self._produced)
        return self._produced

    def _run_stage(self, index: int, name: str, stage: Stage) -> dict[str, Artifact]:
        fingerprint = stage_fingerprint(name, self._tree, self._inputs(stage))
        record = self._directory.begin_stage(index, name, self._recorder.position, fingerprint)
        folder = self._directory.stage_path(index, name)
        checkpoints = CheckpointStore(folder / "checkpoints", report=self._recorder.message)
        context = StageContext(
            name=name,
            index=index,
            count=len(self._experiment.stages),
            folder=folder,
            seed=self._experiment.seed,
            model=self._experiment.model,
            produced=self._produced,
            recorder=self._recorder,
            progress=self._progress,
            checkpoints=checkpoints,
            start=record.metrics or self._recorder.position,
            interrupt=self._interrupt,
            plumbing=self._experiment.scale.plumbing,
        )
        reuse = self._experiment.reuse
        if record.work not in ("", fingerprint) and checkpoints.steps():
            self._recorder.message(
                f"{name}: code, libraries or data changed after this stage began; no other run takes its result"
            )
            # Part old, part new: neither work's result, nor the input of any work that was done before.
            fingerprint, reuse = uuid.uuid4().hex, False
        with context.opened:
            if reuse:
                made = self._reuse_or_run(stage, context, checkpoints, fingerprint)
            else:
                made = self._run_on_all(stage, context)
        release_freed_memory()
        _ = self._recorder.position  # the rows are on the disk before the stage counts as finished
        self._directory.finish_stage(index, name, {kind: (path, fingerprint) for kind, path in made.items()})
        checkpoints.clear()
        return {kind: Artifact(cast(Kind, kind), path, fingerprint) for kind, path in made.items()}

    def _run_on_all(self, stage: Stage, context: StageContext) -> Mapping[str, Path]:
        announce(self._ranks, context)
        return stage.run(context)

    def _reuse_or_run(
        self, stage: Stage, context: StageContext, checkpoints: CheckpointStore, fingerprint: str
    ) -> Mapping[str, Path]:
        """Takes the stage from the cache, or runs it and puts it there; waits for another run that is at the same."""
        # The other processes of this run would give up on a first one that waits.
        alone = self._ranks.size == 1
        with self._cache.reserved(fingerprint, self._look(context.name)) if alone else nullcontext():
            cached = self._cache.find(fingerprint)
            if cached is None:
                made = self._run_on_all(stage, context)
                rows = read_rows(self._directory.path / "metrics.jsonl")[context.start["rows"] :]
                try:
                    self._cache.store(fingerprint, context.folder, made, rows)
                except RunError as error:  # the result is whole; only later runs must do the work again
                    self._recorder.message(f"{context.name}: not kept for reuse: {error}")
                return made
            self._recorder.message(f"{context.name}: the same work was done before, taken from the cache")
            made, rows = self._cache.restore(cached, context.folder)
        checkpoints.clear()
        # This process alone: the others do not hear of a stage that is not run.
        replace(context, ranks=Ranks()).resume(total=len(rows))
        for row in rows:
            self._recorder.replay(row)
        return made

    def _look(self, name: str) -> Callable[[str], None]:
        """Called while another run is at the same work: says so once, and ends the wait at Ctrl-C."""
        told = False

        def look(owner: str) -> None:
            nonlocal told
            if not told:
                self._recorder.message(f"{name}: another run (process {owner}) is at the same work; waiting for it")
                told = True
            if self._interrupt.requested:
                raise KeyboardInterrupt(f"stopped before stage '{name}'; what is finished is saved")

        return look

    def _inputs(self, stage: Stage) -> list[str]:
        """Fingerprints of all that the stage reads from earlier stages."""
        model = model_artifact(self._produced, stage.model_from)
        read = [model.fingerprint if model else "base"]
        for source, kind in stage.needs():
            read += [a.fingerprint for a in self._produced[source].values() if a.kind == kind]
        return read
