"""What a sweep found: one row a point, over its seeds, and which point is best."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import isnan
from typing import Any

from thinkrl.config.component import UserError
from thinkrl.reproduction.readings import FinishedRun
from thinkrl.sweeps.choice import Choice, Measured
from thinkrl.sweeps.folder import RunState, Status, SweepFolder

RESULTS, PAGE = "results.json", "results.md"
_LONGEST_WHY = 160


@dataclass(frozen=True)
class PointRow:
    """A point over its seeds. test: the same metric on the test prompts, where that does not decide.

    problem: why nothing could be read of runs that are finished.
    """

    point: tuple[str, ...]
    runs: tuple[RunState, ...]
    chosen: Measured | None
    test: Measured | None = None
    problem: str = ""

    @property
    def complete(self) -> bool:
        """Whether every seed finished: only then can the point be chosen."""
        return all(run.status == "finished" for run in self.runs) and self.chosen is not None

    def count(self, status: Status) -> int:
        """Runs with this status."""
        return sum(run.status == status for run in self.runs)

    @property
    def remarks(self) -> list[str]:
        """Why runs failed or were stopped, and how many are not finished."""
        told = [f"seed {run.seed} {run.status}: {run.why}" for run in self.runs if run.why]
        silent = {status: self.count(status) for status in ("running", "waiting")}
        told += [f"{count} {status}" for status, count in silent.items() if count]
        return [*told, *([self.problem] if self.problem else [])]


@dataclass(frozen=True)
class SweepTable:
    """All points in the order they were planned in. best: index of the best complete one."""

    recipe: str
    choice: Choice
    rows: tuple[PointRow, ...]
    best: int | None
    notes: tuple[str, ...] = field(default=())

    def count(self, status: Status) -> int:
        """Runs with this status."""
        return sum(row.count(status) for row in self.rows)

    def as_json(self) -> dict[str, Any]:
        """JSON values; null where there is no number."""
        return {
            "format": 1,
            "recipe": self.recipe,
            "choice": {**self.choice.as_json(), "words": self.choice.words},
            "notes": list(self.notes),
            "best": list(self.rows[self.best].point) if self.best is not None else None,
            "points": [
                {
                    "point": list(row.point),
                    "best": index == self.best,
                    "chosen": _numbers(row.chosen),
                    "test": _numbers(row.test),
                    "problem": row.problem,
                    "runs": [{"name": run.name, **asdict(run)} for run in row.runs],
                }
                for index, row in enumerate(self.rows)
            ],
        }

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """Headings and rows, as text."""
        choice = self.choice
        tested = any(row.test for row in self.rows)
        heads = ["", "point", f"{choice.metric}, {choice.stage}", "n"]
        heads += [f"{choice.metric}, {choice.test_stage}"] if tested else []
        rows = []
        for index, (row, name) in enumerate(zip(self.rows, self.names, strict=True)):
            seeds = f"{row.chosen.n if row.chosen else 0} of {len(row.runs)}"
            cells = ["best" if index == self.best else "", name, _shown(row.chosen), seeds]
            rows.append([*cells, _shown(row.test)] if tested else cells)
        return heads, rows

    @property
    def names(self) -> list[str]:
        """The points, each key as short as it is clear among all keys."""
        keys = {override.partition("=")[0] for row in self.rows for override in row.point}
        short = {key: _short_key(key, keys) for key in keys}
        split = [[override.partition("=") for override in row.point] for row in self.rows]
        return [" ".join(f"{short[key]}{sign}{value}" for key, sign, value in parts) or self.recipe for parts in split]

    @property
    def remarks(self) -> list[str]:
        """What is to be said of points, in lines."""
        return [
            f"{name}: {_short(told)}" for row, name in zip(self.rows, self.names, strict=True) for told in row.remarks
        ]

    def markdown(self) -> str:
        """The table as a page."""
        heads, rows = self.cells()
        lines = [f"# {self.recipe}: sweep", "", f"Best by: {self.choice.words}.", *(f"{note}." for note in self.notes)]
        lines += ["", _line(heads), "|" + "-|" * len(heads), *map(_line, rows), ""]
        lines += [*(f"- {remark}" for remark in self.remarks), *([""] if self.remarks else [])]
        lines += [
            "Intervals are Student's over seeds (n of them); where n is 1, over the prompts of that run.",
            "A point is chosen among those of which every seed finished.",
            "",
        ]
        return "\n".join(lines)


def tabulate(folder: SweepFolder, choice: Choice | None = None) -> SweepTable:
    """Reads all runs of a sweep and finds the best point, by the sweep's own choice unless another is given.

    Raises RunError where there is no sweep.
    """
    record = folder.record()
    choice = choice or Choice.from_json(record["choice"])
    points: dict[tuple[str, ...], list[RunState]] = {}
    for state in folder.settled_states():
        points.setdefault(state.point, []).append(state)
    rows = tuple(_row(folder, choice, point, sorted(runs, key=lambda run: run.seed)) for point, runs in points.items())
    return SweepTable(str(record["recipe"]), choice, rows, _best(choice, rows), tuple(record.get("notes") or ()))


def _row(folder: SweepFolder, choice: Choice, point: tuple[str, ...], runs: list[RunState]) -> PointRow:
    finished = {run.seed: FinishedRun(folder.run(run.name)) for run in runs if run.status == "finished"}
    if not finished:
        return PointRow(point, tuple(runs), None)
    try:
        return PointRow(point, tuple(runs), choice.measure(finished), choice.measure_test(finished))
    except (UserError, OSError) as error:
        return PointRow(point, tuple(runs), None, problem=str(error).splitlines()[0])


def _best(choice: Choice, rows: tuple[PointRow, ...]) -> int | None:
    best: int | None = None
    for index, row in enumerate(rows):
        if not row.complete or row.chosen is None or isnan(row.chosen.mean):
            continue
        held = rows[best].chosen if best is not None else None
        if held is None or choice.better(row.chosen.mean, held.mean):
            best = index
    return best


def _numbers(measured: Measured | None) -> Mapping[str, float | int | None] | None:
    if measured is None:
        return None
    return {key: None if isnan(value) else value for key, value in asdict(measured).items()}


def _shown(measured: Measured | None) -> str:
    """The mean, and its interval behind it."""
    if measured is None or isnan(measured.mean):
        return ""
    interval = "" if isnan(measured.low) else f" ({measured.low:.3g} to {measured.high:.3g})"
    return f"{measured.mean:.4g}{interval}"


def _short_key(key: str, keys: set[str]) -> str:
    """The last parts of a dotted key, as many as no other key ends with."""
    parts = key.split(".")
    for count in range(1, len(parts)):
        end = ".".join(parts[-count:])
        if sum(other == end or other.endswith(f".{end}") for other in keys) == 1:
            return end
    return key


def _short(remark: str) -> str:
    return remark if len(remark) <= _LONGEST_WHY else f"{remark[:_LONGEST_WHY]}..."


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"
