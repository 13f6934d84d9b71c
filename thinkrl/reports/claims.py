"""The verdict of `thinkrl reproduce` on the claim that runs belong to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinkrl.reports.configurations import arm_of
from thinkrl.reproduction.table import bound_text
from thinkrl.tracking.json_values import load_json


@dataclass(frozen=True)
class CheckLine:
    """One check: what was claimed, what the paper reports, what was measured."""

    name: str
    statement: str
    bound: str
    threshold: float
    arms: str
    ours: str
    value: float
    low: float
    high: float
    per_seed: tuple[float, ...]
    paper: str
    source: str
    verdict: str


@dataclass(frozen=True)
class ClaimReport:
    """A decided claim as `results.json` holds it."""

    recipe: str
    statement: str
    verdict: str
    analysis: str
    commits: tuple[str, ...]
    seeds: tuple[int, ...]
    arms: Mapping[str, str]
    minutes: Mapping[str, float]
    spent: Mapping[str, Mapping[str, float]]
    unequal: tuple[str, ...]
    checks: tuple[CheckLine, ...]


def find_claim(runs: Sequence[Path]) -> ClaimReport | None:
    """The claim of the folder that all `runs` lie in as `thinkrl reproduce` puts them, once it is decided."""
    folders = {run.absolute().parent.parent for run in runs if arm_of(run.absolute()) is not None}
    if len(folders) != 1 or any(arm_of(run.absolute()) is None for run in runs):
        return None
    path = folders.pop() / "results.json"
    try:
        record = load_json(path.read_text(encoding="utf-8"))
        arms = {run.absolute().parent.name for run in runs}
        return read_claim(record) if arms <= set(record["arms"]) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def read_claim(record: Mapping[str, Any]) -> ClaimReport:
    """The claim of one `results.json`."""
    return ClaimReport(
        recipe=record["recipe"],
        statement=record["claim"],
        verdict=record["verdict"],
        analysis=record["analysis"],
        commits=tuple(record.get("commits") or ()),
        seeds=tuple(record["seeds"]),
        arms={arm: " ".join(changes) or "the recipe as it is" for arm, changes in record["arms"].items()},
        minutes={arm: sum(seeds.values()) for arm, seeds in (record.get("minutes") or {}).items()},
        spent=record["spent"],
        unequal=tuple(record["unequal"]),
        checks=tuple(_check(name, check) for name, check in record["checks"].items()),
    )


def _check(name: str, check: Mapping[str, Any]) -> CheckLine:
    paper = check["paper"] or {}
    at_least = check["at_least"]
    return CheckLine(
        name=name,
        statement=check["statement"],
        bound=bound_text(check),
        threshold=float(at_least if at_least is not None else check["at_most"]),
        arms=f"{_side(check['arm'], check['stage'])} against"
        f" {_side(check['against'], check['against_stage'] or check['stage'])}",
        ours=f"{check['means'][0]:.4g} against {check['means'][1]:.4g}",
        value=check["value"],
        low=check["low"],
        high=check["high"],
        per_seed=tuple(check["per_seed"]),
        paper=str(paper.get("value", "")),
        source=str(paper.get("source", "")),
        verdict=check["verdict"],
    )


def _side(arm: str, stage: str | None) -> str:
    return f"{arm}, {stage}" if stage else arm
