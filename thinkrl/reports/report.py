"""Everything a report says, made from run directories; how it looks is the business of `page/` and `markdown`."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from thinkrl import __version__
from thinkrl.reports.claims import ClaimReport, find_claim
from thinkrl.reports.configurations import Configuration, Setting, chosen, differing, group_runs
from thinkrl.reports.curves import StageCharts, stage_charts
from thinkrl.reports.evaluations import Evaluation, evaluations
from thinkrl.reports.notices import Notice, notices
from thinkrl.reports.reading import find_runs, read_run
from thinkrl.reports.samples import Sample, stage_samples
from thinkrl.tracking.provenance import now
from thinkrl.tracking.recorder import PARTS


@dataclass(frozen=True)
class TimeLine:
    """Seconds by part that a stage's steps took, mean over the configuration's runs."""

    label: str
    stage: str
    seconds: dict[str, float]


@dataclass(frozen=True)
class Report:
    """What is known of some runs. settings: what sets configurations apart, or, for one, what the recipe chose."""

    title: str
    made: str
    version: str
    configurations: tuple[Configuration, ...]
    claim: ClaimReport | None
    notices: tuple[Notice, ...]
    evaluations: tuple[Evaluation, ...]
    charts: tuple[StageCharts, ...]
    times: tuple[TimeLine, ...]
    settings: tuple[Setting, ...]
    samples: tuple[Sample, ...]

    @property
    def seeds(self) -> bool:
        """Whether a configuration has several runs, so that there are intervals over seeds."""
        return any(len(configuration.runs) > 1 for configuration in self.configurations)

    @property
    def colours(self) -> dict[str, int]:
        """The colour of each configuration, by label."""
        return {configuration.label: index for index, configuration in enumerate(self.configurations)}

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            "format": 1,
            "title": self.title,
            "made": self.made,
            "thinkrl": self.version,
            "claim": asdict(self.claim) if self.claim else None,
            "configurations": [_configuration_json(configuration) for configuration in self.configurations],
            "notices": [asdict(notice) for notice in self.notices],
            "evaluations": [asdict(evaluation) for evaluation in self.evaluations],
            "curves": {
                charts.stage: {
                    chart.panel.column: [asdict(curve) for curve in chart.curves]
                    for chart in (*charts.charts, *charts.others)
                }
                for charts in self.charts
            },
            "times": [asdict(time) for time in self.times],
            "settings": [asdict(setting) for setting in self.settings],
            "samples": [asdict(sample) for sample in self.samples],
        }


def make_report(paths: Sequence[Path]) -> Report:
    """The report of the runs that `paths` name (run directories, or folders of them).

    Raises ConfigError for a path without a run.
    """
    places = find_runs(list(paths))
    configurations = group_runs([read_run(place) for place in places])
    charts = stage_charts(configurations)
    settings = differing(configurations) if len(configurations) > 1 else chosen(configurations[0])
    return Report(
        title=_title(configurations),
        made=now(),
        version=__version__,
        configurations=configurations,
        claim=find_claim(places),
        notices=notices(configurations, charts),
        evaluations=evaluations(configurations),
        charts=charts,
        times=tuple(line for configuration in configurations for line in _times(configuration)),
        settings=tuple(settings),
        samples=stage_samples(configurations),
    )


def _title(configurations: Sequence[Configuration]) -> str:
    runs = [run for configuration in configurations for run in configuration.runs]
    recipes = ", ".join(dict.fromkeys(run.recipe for run in runs))
    if len(runs) == 1:
        return recipes if runs[0].seed is None else f"{recipes}, seed {runs[0].seed}"
    count = f"{len(configurations)} configurations, " if len(configurations) > 1 else ""
    return f"{recipes}: {count}{len(runs)} runs"


def _times(configuration: Configuration) -> list[TimeLine]:
    found = []
    for stage in configuration.stages:
        runs = [run.by_stage[stage] for run in configuration.runs if stage in run.by_stage]
        if runs:
            rows = [row for own in runs for row in own]
            seconds = {part: _sum(rows, f"seconds/{part}") / len(runs) for part in PARTS}
            found.append(TimeLine(configuration.label, stage, seconds))
    return found


def _sum(rows: Sequence[Any], column: str) -> float:
    return float(sum(row[column] for row in rows if isinstance(row.get(column), int | float)))


def _configuration_json(configuration: Configuration) -> dict[str, Any]:
    return {
        "label": configuration.label,
        "runs": [
            {
                "path": str(run.path),
                "recipe": run.recipe,
                "seed": run.seed,
                "overrides": list(run.overrides),
                "outcome": run.outcome,
                "wall_seconds": run.wall_seconds,
                "stages": [asdict(stage) for stage in run.stages],
                "versions": dict(run.record.get("versions") or {}),
                "git": dict(run.record.get("git") or {}),
                "hardware": dict(run.record.get("hardware") or {}),
            }
            for run in configuration.runs
        ],
    }
