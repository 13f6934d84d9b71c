"""The open companions of a stage, as one."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from thinkrl.algorithms.types import Advantages
from thinkrl.companions.companion import Companion, CompanionSource, CompanionStart
from thinkrl.environments.environment import Environment
from thinkrl.learning.learner import LearnerState
from thinkrl.rewards.result import RewardResult
from thinkrl.rewards.signals import Reading
from thinkrl.rollouts.signals import ROLLOUT_SIGNALS
from thinkrl.rollouts.store import Rollouts


@dataclass(frozen=True, eq=False)
class Companions:
    """Companions by name; with none, everything here is empty."""

    opened: Mapping[str, Companion]

    @classmethod
    def open(cls, sources: Mapping[str, CompanionSource], start: CompanionStart) -> "Companions":
        """Opens all of them, in order."""
        return cls({name: source.open(start) for name, source in sources.items()})

    def around(self, environment: Environment) -> Environment:
        """The environment, within what companions put around it to explore (`around`, where one has it)."""
        for companion in self.opened.values():
            if (wrap := getattr(companion, "around", None)) is not None:
                environment = wrap(environment)
        return environment

    def signals(self, rollouts: Rollouts) -> dict[str, Any]:
        """The signals of all, by their own names."""
        return {
            name: column for companion in self.opened.values() for name, column in companion.signals(rollouts).items()
        }

    def learn(self, rollouts: Rollouts, rewards: RewardResult, advantages: Advantages) -> dict[str, float]:
        """Lets each learn from the batch; metrics as `companion/metric`."""
        return {
            f"{name}/{metric}": value
            for name, companion in self.opened.items()
            for metric, value in companion.learn(rollouts, rewards, advantages).items()
        }

    def state(self) -> LearnerState:
        """The states of all, tensors as `companion/NAME/tensor`."""
        states = {name: companion.state() for name, companion in self.opened.items()}
        tensors = {
            f"{_prefix(name)}{tensor}": data for name, state in states.items() for tensor, data in state.tensors.items()
        }
        return LearnerState({name: state.values for name, state in states.items()}, tensors)

    def load_state(self, state: LearnerState) -> None:
        """Restores what `state` gave; tensors of others are passed over."""
        for name, companion in self.opened.items():
            prefix, values = _prefix(name), state.values[name]
            assert isinstance(values, dict)
            tensors = {
                tensor.removeprefix(prefix): data for tensor, data in state.tensors.items() if tensor.startswith(prefix)
            }
            companion.load_state(LearnerState(values, tensors))

    def save(self, folder: Path) -> None:
        """Writes what each has learned to `folder`/NAME."""
        for name, companion in self.opened.items():
            companion.save(folder / name)


_ALL = "companion/"
"""Prefix of the names of companions' tensors."""


def _prefix(name: str) -> str:
    return f"{_ALL}{name}/"


def without_companions(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a checkpoint that are no companion's: the learner's."""
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(_ALL)}


def check_supplied(readings: Iterable[Reading], sources: Mapping[str, CompanionSource]) -> None:
    """Raises ValueError where a signal is read that neither the sampler nor a companion supplies, where two
    companions supply one, or where one is read in another shape than it is supplied in."""
    suppliers: dict[str, tuple[str, str]] = {}
    for name, source in sources.items():
        for signal in source.supplies():
            if signal.name in suppliers or signal.name in ROLLOUT_SIGNALS:
                other = suppliers.get(signal.name, ("the sampler", ""))[0]
                raise ValueError(
                    f"companions must supply different signals, got {signal.name!r} from {name!r} and {other!r}"
                )
            suppliers[signal.name] = (name, signal.shape)
    for reading in readings:
        signal = reading.signal
        if signal.name in ROLLOUT_SIGNALS:
            continue
        readers = " and ".join(reading.readers)
        if signal.name not in suppliers:
            raise ValueError(
                f"companions must supply the signal {signal.name!r}, read by {readers}: {signal.meaning};"
                f" got {', '.join(suppliers) or 'none'}"
            )
        supplier, shape = suppliers[signal.name]
        if shape != signal.shape:
            raise ValueError(
                f"the signal {signal.name!r} must have the shape {signal.shape!r} that {readers} reads, got {shape!r}"
                f" from the companion {supplier!r}"
            )
