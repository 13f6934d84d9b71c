"""Runs of one configuration, which differ in their seed alone, and what sets configurations apart."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from thinkrl.reports.reading import RunReading
from thinkrl.tracking.differences import flatten

_NO_RESULT_DEPENDS_ON = {"seed", "tracker", "reuse", "paper", "claim", "deviations"}
_ABSENT = "(absent)"


@dataclass(frozen=True)
class Configuration:
    """Runs with different seeds. label: names it among the configurations of a report."""

    label: str
    runs: tuple[RunReading, ...]

    @property
    def first(self) -> RunReading:
        """The run that stands for the configuration where one is enough."""
        return self.runs[0]

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages, in order."""
        names = [stage.name for run in self.runs for stage in run.stages]
        return tuple(dict.fromkeys(names))


@dataclass(frozen=True)
class Setting:
    """A configuration key: for each configuration its value and who set it."""

    key: str
    values: tuple[tuple[str, str], ...]


def group_runs(runs: Sequence[RunReading]) -> tuple[Configuration, ...]:
    """Configurations in the order of their first runs; runs by seed."""
    groups: dict[tuple[tuple[str, str], ...], list[RunReading]] = {}
    for run in runs:
        groups.setdefault(tuple(sorted(_settings(run).items())), []).append(run)
    labels = _labels([found[0] for found in groups.values()])
    return tuple(
        Configuration(label, tuple(sorted(found, key=lambda run: (run.seed is None, run.seed or 0))))
        for label, found in zip(labels, groups.values(), strict=True)
    )


def differing(configurations: Sequence[Configuration]) -> list[Setting]:
    """Every key that has another value in one of `configurations`, in the order of the files."""
    flat = [_settings(configuration.first) for configuration in configurations]
    keys = dict.fromkeys(key for settings in flat for key in settings)
    return [
        _setting(key, configurations, flat)
        for key in keys
        if len({settings.get(key, _ABSENT) for settings in flat}) > 1
    ]


def chosen(configuration: Configuration) -> list[Setting]:
    """Every key that the recipe or the command line set, rather than a group's file or a default."""
    settings = _settings(configuration.first)
    found = [_setting(key, [configuration], [settings]) for key in settings]
    return [s for s in found if s.values[0][1] and not s.values[0][1].startswith(("default of", "conf/"))]


def _setting(key: str, configurations: Sequence[Configuration], flat: Sequence[dict[str, str]]) -> Setting:
    pairs = zip(configurations, flat, strict=True)
    return Setting(key, tuple((s.get(key, _ABSENT), _origin(c.first, key) if key in s else "") for c, s in pairs))


def _origin(run: RunReading, key: str) -> str:
    """Who set the value: of the key itself, or of the nearest node around it."""
    while key:
        if key in run.origins:
            return str(run.origins[key])
        key = key.rpartition(".")[0]
    return ""


def _settings(run: RunReading) -> dict[str, str]:
    kept = {key: value for key, value in run.config.items() if key not in _NO_RESULT_DEPENDS_ON}
    return flatten(kept) if kept else {"recipe": run.recipe}


def _labels(firsts: Sequence[RunReading]) -> list[str]:
    """The shortest way of naming that tells all apart: the recipe, an arm's folder, the overrides that not all share,
    the path."""
    shared = set.intersection(*(set(run.overrides) for run in firsts)) if firsts else set()

    def own(run: RunReading) -> str:
        return " ".join(override for override in run.overrides if override not in shared) or run.recipe

    ways: tuple[Callable[[RunReading], str], ...] = (
        lambda run: run.recipe,
        lambda run: arm_of(run.path) or own(run),
        own,
    )
    for way in ways:
        labels = [way(run) for run in firsts]
        if len(set(labels)) == len(labels):
            return labels
    return [_short_path(run.path) for run in firsts]


def arm_of(path: Path) -> str | None:
    """The arm, where the run lies as `thinkrl reproduce` puts it: `<arm>/seed<n>`."""
    return path.parent.name if path.name.removeprefix("seed").isdigit() and path.name.startswith("seed") else None


def _short_path(path: Path) -> str:
    return "/".join(path.absolute().parts[-3:])
