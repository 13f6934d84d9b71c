"""How the other processes of a run follow the first: stage after stage, told what to do, writing nothing.

The first process alone opens the run directory. It decides what is run, what is taken from the cache and what is
finished, and announces each stage before it begins; the others then run the same stage beside it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from thinkrl.models.allocator import release_freed_memory
from thinkrl.parallel.ranks import Ranks
from thinkrl.stages.artifacts import Artifact, Kind
from thinkrl.stages.context import StageContext
from thinkrl.stages.interrupt import Interrupt
from thinkrl.tracking.metrics import Value
from thinkrl.tracking.progress import ProgressDisplay
from thinkrl.tracking.recorder import Recorder

if TYPE_CHECKING:
    from thinkrl.stages.experiment import Experiment

Produced = Mapping[str, Mapping[str, Artifact]]
_NAME = "the next stage"


@dataclass(frozen=True)
class _Next:
    """What the first process announces: a stage to run, or the end of the run (no stage)."""

    stage: str | None
    folder: str
    produced: dict[str, dict[str, tuple[str, str, str]]]
    stopped: bool = False


def announce(ranks: Ranks, context: StageContext) -> None:
    """Tells the other processes to run a stage."""
    ranks.share(_Next(context.name, str(context.folder), _told(context.produced)), _NAME)


def announce_end(ranks: Ranks, produced: Produced, *, stopped: bool = False) -> None:
    """Tells the other processes that no stage is left, or that the run was stopped between two stages."""
    ranks.share(_Next(None, "", _told(produced), stopped), _NAME)


def follow(experiment: "Experiment", ranks: Ranks) -> Produced:
    """Runs each stage that the first process announces, until the end; returns what the stages made."""
    names = list(experiment.stages)
    with Interrupt(lambda text: None) as interrupt:
        while True:
            told = ranks.share(None, _NAME, (_Next,))
            produced = {
                name: {kind: Artifact(cast(Kind, made[0]), Path(made[1]), made[2]) for kind, made in artifacts.items()}
                for name, artifacts in told.produced.items()
            }
            if told.stopped:
                raise KeyboardInterrupt("stopped between two stages")
            if told.stage is None:
                return produced
            context = StageContext(
                name=told.stage,
                index=names.index(told.stage),
                count=len(names),
                folder=Path(told.folder),
                seed=experiment.seed,
                model=experiment.model,
                produced=produced,
                recorder=SilentRecorder(),
                progress=SilentProgress(),
                checkpoints=None,
                start={},
                interrupt=interrupt,
                plumbing=experiment.scale.plumbing,
                ranks=ranks,
            )
            with context.opened:
                experiment.stages[told.stage].run(context)
            release_freed_memory()


def _told(produced: Produced) -> dict[str, dict[str, tuple[str, str, str]]]:
    return {
        name: {kind: (made.kind, str(made.path), made.fingerprint) for kind, made in artifacts.items()}
        for name, artifacts in produced.items()
    }


class SilentRecorder(Recorder):
    """Records nothing: the first process does."""

    def __init__(self) -> None:
        pass

    @property
    def position(self) -> dict[str, int]:
        """No file, no place in it."""
        return {}

    def rewind(self, position: object) -> None:
        """Nothing."""

    def record(self, stage: str, step: int, values: Mapping[str, Any], seconds: Mapping[str, float]) -> None:
        """Nothing."""

    def replay(self, row: Mapping[str, Any]) -> None:
        """Nothing."""

    def samples(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Value]]) -> None:
        """Nothing."""

    def message(self, text: str) -> None:
        """Nothing."""

    def close(self, exit_code: int = 0) -> None:
        """Nothing."""


class SilentProgress(ProgressDisplay):
    """Shows nothing: the first process does."""

    def __init__(self) -> None:
        pass

    def stage(self, name: str, index: int, count: int, steps: int, done: int = 0) -> None:
        """Nothing."""

    def step(self, values: Mapping[str, Any]) -> None:
        """Nothing."""

    def message(self, text: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""
