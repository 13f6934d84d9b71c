"""The contract of what stands behind a judge: a model that answers calls, wherever it runs."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from thinkrl.judges.judgement import Call, Reply
from thinkrl.sampling.sampler import SamplingSpec

if TYPE_CHECKING:
    from thinkrl.models.source import ModelSource  # torch, which configurations do without

Arrived = Callable[[int, Reply], None]
"""Called with the position of a call and its reply as soon as that is there, in any order."""


def _no_stage(model_from: str) -> Path | None:
    return None


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What a judge may take from the stage that it works for.

    model: the recipe's model configuration. weights: the folder of the model that an earlier stage made, by that
    stage's name; None for the base model. folder: the stage's own place, None where nothing may be written.
    seed: the run's. closing: closed when the stage ends.
    """

    model: "ModelSource | None" = None
    weights: Callable[[str], Path | None] = _no_stage
    folder: Path | None = None
    seed: int = 0
    closing: ExitStack = field(default_factory=ExitStack)


class OpenBackend(Protocol):
    """A model that is ready to answer."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that an answer depends on beside the call and the sampling specification, as JSON values."""
        ...

    def ask(self, calls: Sequence[Call], sampling: SamplingSpec, arrived: Arrived) -> list[Reply]:
        """A reply to each call, in order. What fails for one call is that reply's fault and stops no other.

        Raises UserError for what would fail every call, such as a refused key.
        """
        ...


class Backend(Protocol):
    """A frozen dataclass: where a judge's model runs."""

    def check(self, sampling: SamplingSpec) -> None:
        """Raises a UserError, before anything loads, when what it needs is not there or `sampling` asks for what it
        cannot do."""
        ...

    def open(self, surroundings: Surroundings) -> OpenBackend:
        """Loads or connects."""
        ...
