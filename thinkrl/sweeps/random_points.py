"""Points drawn at random from a sweep's ranges: the sweeper that Hydra lacks."""

from collections.abc import Iterator, Sequence
from math import exp, log
from typing import TYPE_CHECKING, Any

import numpy as np
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from thinkrl.config.component import ConfigError
from thinkrl.rollouts.streams import generator

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader
    from hydra.core.override_parser.types import Override

_DRAWS_PER_POINT = 50


class RandomSweeper(Sweeper):
    """Launches `trials` different points, `batch` at a time."""

    def __init__(self, trials: int, seed: int, batch: int) -> None:
        self._trials, self._seed, self._batch = trials, seed, batch
        self.launcher: Launcher | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Makes the launcher that Hydra's settings name."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Draws the points and runs them."""
        assert self.launcher is not None
        assert self.hydra_context is not None
        points = draw(arguments, self._trials, self._seed, self.hydra_context.config_loader)
        found: list[Any] = []
        for start in range(0, len(points), self._batch):
            found += self.launcher.launch(points[start : start + self._batch], initial_job_idx=start)
        return found


def draw(arguments: Sequence[str], trials: int, seed: int, loader: "ConfigLoader") -> list[list[str]]:
    """At most `trials` different points; point i is a function of (seed, i) and of the points before it.

    Choices and ranges are drawn uniformly; intervals uniformly between their ends, or in the logarithm where they are
    tagged so: `tag(log, interval(1e-6, 1e-4))`. `int(interval(1, 8))` draws whole numbers, both ends among them.
    """
    overrides = OverridesParser.create(config_loader=loader).parse_overrides(list(arguments))
    points: dict[tuple[str, ...], None] = {}
    for number in range(trials * _DRAWS_PER_POINT):
        if len(points) == trials:
            break
        stream = generator("sweep", seed, number)
        points.setdefault(tuple(_values(overrides, stream)))
    return [list(point) for point in points]


def _values(overrides: "Sequence[Override]", stream: np.random.Generator) -> Iterator[str]:
    for override in overrides:
        key, value = override.get_key_element(), override.value()
        if isinstance(value, IntervalSweep):
            yield f"{key}={_between(override, value, stream)}"
        elif override.is_sweep_override():
            options = list(override.sweep_string_iterator())
            yield f"{key}={options[int(stream.integers(len(options)))]}"
        else:
            yield f"{key}={override.get_value_element_as_str()}"


def _between(override: "Override", interval: IntervalSweep, stream: np.random.Generator) -> str:
    low, high = interval.start, interval.end
    if low is None or high is None or not low < high:
        raise ConfigError(f"{override.input_line}: an interval must go from a lower to a higher end, got {low}, {high}")
    whole = isinstance(low, int) and isinstance(high, int)
    if "log" not in interval.tags:
        return str(int(stream.integers(int(low), int(high) + 1))) if whole else f"{stream.uniform(low, high):.6g}"
    if low <= 0:
        raise ConfigError(f"{override.input_line}: an interval in the logarithm must begin above 0, got {low}")
    value = exp(stream.uniform(log(low), log(high)))
    return str(round(value)) if whole else f"{value:.6g}"
