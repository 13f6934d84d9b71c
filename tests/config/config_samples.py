"""Small components for the tests of the configuration."""

import enum
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from thinkrl.config.component import Epochs, GroupSize, NewTokens, Steps
from thinkrl.config.scale import Scale


class Term(Protocol):
    def score(self, length: int) -> float: ...


class Shape(enum.Enum):
    LINEAR = "linear"
    COSINE = 2


@dataclass(frozen=True)
class Bonus:
    """Pays a bonus below a target length."""

    target_tokens: int
    """Length in tokens
    that a response should stay under."""
    bonus: float = 0.5
    """What it is worth."""
    mode: Literal["step", "ramp"] = "step"

    def __post_init__(self) -> None:
        if self.bonus < 0:
            raise ValueError(f"bonus must be 0 or more, got {self.bonus}")

    def score(self, length: int) -> float:
        return self.bonus * (length < self.target_tokens)


@dataclass(frozen=True)
class CappedBonus(Bonus):
    """A bonus with an upper limit."""

    limit: float | None = None
    """The limit; null has none."""


@dataclass(frozen=True)
class Silent:
    """No method."""

    target_tokens: int = 1


@dataclass
class Thawed:
    """Not frozen."""

    target_tokens: int = 1


@dataclass(frozen=True)
class Spec:
    """How tokens are drawn."""

    new_tokens: NewTokens = 512
    """Limit of a response."""
    temperature: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Stage(ABC):
    model_from: str = "previous"
    """Where the policy comes from."""

    @abstractmethod
    def run(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Grpo(Stage):
    """Policy optimisation."""

    reward: Term
    steps: Steps = 100
    """Optimizer steps."""
    group_size: GroupSize | None = None
    spec: Spec = field(default_factory=lambda: Spec(temperature=0.7))
    names: tuple[str, ...] = ()
    shape: Shape = Shape.LINEAR
    place: Path | None = None

    def run(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Sft(Stage):
    """Supervised learning."""

    epochs: Epochs = 3
    learning_rate: float
    """Step size."""

    def run(self) -> None: ...


@dataclass(frozen=True)
class Model:
    size: int
    dtype: str = "float32"


@dataclass(frozen=True)
class Root:
    """A recipe of the tests."""

    name: str
    stages: Mapping[str, Stage]
    """The pipeline."""
    model: Model
    reward: Term
    scale: Scale = field(default_factory=Scale)
    seed: int = 0
    """Of every random choice."""
    extra: Any = None
