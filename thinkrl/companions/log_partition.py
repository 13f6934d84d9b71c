"""A learned log Z: one number for all prompts, or one for each, beside the policy."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from thinkrl.algorithms.trajectory_balance import LOG_Z
from thinkrl.algorithms.types import Advantages
from thinkrl.companions.companion import Companion, CompanionStart
from thinkrl.config.component import ConfigError
from thinkrl.learning.learner import LearnerState
from thinkrl.rewards.result import RewardResult
from thinkrl.rollouts.signals import Signal
from thinkrl.rollouts.store import Rollouts

_ALL = "all"


@dataclass(frozen=True)
class LogPartition:
    """log Z, stepped by Adam (arXiv 1412.6980) against the mean of (log Z - Phi_i)^2 over the responses of a batch.

    Phi_i = log R + log P_B - log P_F is what log Z is for every response once the policy is in balance (arXiv
    2201.13259).
    """

    learning_rate: float = 1e-5
    """Adam's, in nats a step."""
    initial: float = 0.0
    """What log Z is at first."""
    per: Literal["all", "prompt"] = "all"
    """Whether all prompts share one number, or each has its own, stepped where it is asked."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the first and second moment."""
    epsilon: float = 1e-8
    """Added to the root of the second moment."""

    def __post_init__(self) -> None:
        if not self.learning_rate >= 0:
            raise ValueError(f"learning_rate must be 0 or more, got {self.learning_rate}")
        if not math.isfinite(self.initial):
            raise ValueError(f"initial must be finite, got {self.initial}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be at least 0 and below 1, got {self.betas}")
        if not self.epsilon > 0:
            raise ValueError(f"epsilon must be above 0, got {self.epsilon}")

    def supplies(self) -> tuple[Signal, ...]:
        """log Z of every response's prompt."""
        return (LOG_Z,)

    def check(self) -> None:
        """Nothing outside is needed."""

    def open(self, start: CompanionStart) -> Companion:
        """Begins at `initial`."""
        return OpenLogPartition(self)


class OpenLogPartition:
    """Numbers with their moments, by prompt id (or one for all): value, first moment, second moment, steps."""

    def __init__(self, config: LogPartition) -> None:
        self._config = config
        self._numbers: dict[str, list[float]] = {}

    def signals(self, rollouts: Rollouts) -> Mapping[str, NDArray[np.float64]]:
        """The number of each response's prompt, [n]."""
        return {LOG_Z.name: np.asarray([self._number(key)[0] for key in self._keys(rollouts)], dtype=np.float64)}

    def learn(self, rollouts: Rollouts, rewards: RewardResult, advantages: Advantages) -> Mapping[str, float]:
        """A step of each number that was asked for; without a response that is kept it stays."""
        if LOG_Z.name not in advantages.targets:
            raise ConfigError("log Z learns from residuals, which the advantage estimator does not give: take another")
        sums, counts = advantages.targets[LOG_Z.name], rollouts.sampled_counts
        errors: dict[str, list[float]] = {}
        for row, key in enumerate(self._keys(rollouts)):
            if advantages.kept[row] and counts[row]:
                phi = float(np.nanmax(sums[row]))  # the same at every sampled token
                errors.setdefault(key, []).append(self._number(key)[0] - phi)
        for key, found in errors.items():
            self._step(self._number(key), 2.0 * sum(found) / len(found))
        known = [error for found in errors.values() for error in found]
        values = [number[0] for number in self._numbers.values()]
        loss = {"loss": float(np.mean(np.square(known)))} if known else {}
        return {**loss, "value": float(np.mean(values)) if values else self._config.initial}

    def state(self) -> LearnerState:
        """The numbers and their moments: JSON, which gives floats back bit for bit."""
        return LearnerState({"numbers": {key: list(number) for key, number in self._numbers.items()}}, {})

    def load_state(self, state: LearnerState) -> None:
        """Restores `state` bit for bit."""
        numbers: Any = state.values["numbers"]
        self._numbers = {key: list(number) for key, number in numbers.items()}

    def save(self, folder: Path) -> None:
        """Writes log Z as JSON."""
        folder.mkdir(parents=True)
        values = {key: number[0] for key, number in sorted(self._numbers.items())}
        (folder / "log_z.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")

    def _keys(self, rollouts: Rollouts) -> list[str]:
        if self._config.per == "all":
            return [_ALL] * len(rollouts)
        return [rollouts.prompt(row).prompt_id for row in range(len(rollouts))]

    def _number(self, key: str) -> list[float]:
        return self._numbers.setdefault(key, [self._config.initial, 0.0, 0.0, 0.0])

    def _step(self, number: list[float], gradient: float) -> None:
        config = self._config
        value, first, second, steps = number
        steps += 1
        first = config.betas[0] * first + (1 - config.betas[0]) * gradient
        second = config.betas[1] * second + (1 - config.betas[1]) * gradient**2
        unbiased, scale = first / (1 - config.betas[0] ** steps), second / (1 - config.betas[1] ** steps)
        number[:] = [
            value - config.learning_rate * unbiased / (math.sqrt(scale) + config.epsilon),
            first,
            second,
            steps,
        ]
