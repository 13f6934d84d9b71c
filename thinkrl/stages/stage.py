"""The contract of a stage: a frozen dataclass that turns earlier artifacts into new ones."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from thinkrl.stages.artifacts import PREVIOUS, Kind

if TYPE_CHECKING:
    from thinkrl.stages.context import StageContext


@dataclass(frozen=True, kw_only=True)
class Stage(ABC):
    """One step of a recipe's pipeline. Subclasses add their configuration and `run`."""

    makes: ClassVar[tuple[Kind, ...]] = ()

    model_from: str = PREVIOUS
    """Where the policy comes from: `previous` (the last stage that made a model, else the base model), `base`, or a
    stage's name."""

    @abstractmethod
    def run(self, context: "StageContext") -> Mapping[str, Path]:
        """Does the work and returns the files or folders it made, by artifact name, each inside `context.folder`."""

    @abstractmethod
    def check(self) -> None:
        """Reads the data and looks for the engines the stage will need, so that what is bad or missing ends the run
        before anything loads. Raises UserError."""

    @abstractmethod
    def plan(self) -> str:
        """One line for `--dry-run`: what will be done, with its sizes."""

    @abstractmethod
    def work(self) -> float:
        """About how long the stage takes, in sampled tokens of that time; for the time left of a pipeline only."""

    def needs(self) -> tuple[tuple[str, Kind], ...]:
        """Artifacts of earlier stages that this stage reads, besides the policy: those of its companions."""
        companions: Mapping[str, object] = getattr(self, "companions", {})
        return tuple(need for companion in companions.values() for need in getattr(companion, "needs", tuple)())
