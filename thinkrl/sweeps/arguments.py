"""What the overrides of a sweep ask for, in Hydra's grammar: what stays, what is swept, seeds, and Hydra's settings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from thinkrl.config.component import ConfigError

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader
    from hydra.core.override_parser.types import Override

Point = tuple[str, ...]


@dataclass(frozen=True)
class Asked:
    """The overrides of a sweep, as they were given.

    fixed: those of one value, the seed left out. swept: those of several, the seed left out. seeds: of a swept seed.
    seed: of a fixed one. hydra: settings of Hydra's sweeper and launcher.
    """

    fixed: tuple[str, ...] = ()
    swept: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    seed: int | None = None
    hydra: tuple[str, ...] = ()

    @property
    def arguments(self) -> list[str]:
        """What a sweeper enumerates, the seeds among it; they change fastest, so that neighbours differ in the seed."""
        return [*self.swept, *([f"seed={','.join(map(str, self.seeds))}"] if len(self.seeds) > 1 else [])]


def read_arguments(overrides: Sequence[str], loader: "ConfigLoader") -> Asked:
    """Sorts overrides. loader: knows the groups, for `model=glob(*)`. Raises ConfigError for what cannot be read."""
    fixed, swept, settings = [], [], []
    seeds: tuple[int, ...] = ()
    seed: int | None = None
    for override in _parsed(overrides, loader):
        line = str(override.input_line)
        if override.is_hydra_override():
            settings.append(line)
        elif override.key_or_group == "seed":
            seeds = _seeds(override)
            seed = seeds[0] if len(seeds) == 1 else None
        elif override.is_sweep_override():
            swept.append(line)
        else:
            fixed.append(line)
    return Asked(tuple(fixed), tuple(swept), seeds, seed, tuple(settings))


def grid(asked: Asked, loader: "ConfigLoader") -> list[list[str]]:
    """Every point of the grid, the seed in it, as Hydra's own sweeper enumerates it."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.errors import HydraException

    try:
        batches = BasicSweeper.split_arguments(_parsed(asked.arguments, loader), None)
    except HydraException as error:
        raise ConfigError(f"the grid cannot be enumerated: {error}; --sweeper random or optuna takes it") from error
    return [list(point) for point in batches[0]]


def first_point(asked: Asked, loader: "ConfigLoader") -> Point:
    """One point, whatever the sweeper: the first value of each key."""
    return tuple(f"{override.get_key_element()}={_first(override)}" for override in _parsed(asked.swept, loader))


def _parsed(overrides: Sequence[str], loader: "ConfigLoader") -> "list[Override]":
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create(config_loader=loader).parse_overrides(list(overrides))
    except HydraException as error:
        raise ConfigError(f"an override cannot be read: {str(error).partition(chr(10))[0]}") from error


def _first(override: "Override") -> Any:
    if override.is_interval_sweep():
        return override.value().start  # type: ignore[union-attr]
    values = list(override.sweep_string_iterator())
    if not values:
        raise ConfigError(f"{override.input_line} has no values to sweep over")
    return values[0]


def _seeds(override: "Override") -> tuple[int, ...]:
    if override.is_interval_sweep():
        raise ConfigError(f"{override.input_line}: write the seeds out, such as seed=range(3)")
    values = list(override.sweep_iterator()) if override.is_sweep_override() else [override.value()]
    if not values or any(type(value) is not int for value in values) or len(set(values)) < len(values):
        raise ConfigError(f"{override.input_line}: seeds must be different whole numbers, at least one")
    return tuple(value for value in values if isinstance(value, int))
