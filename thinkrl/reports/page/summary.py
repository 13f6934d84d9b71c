"""The first sections of the page: what ran, where, and how far it came."""

import re
from typing import Any

from thinkrl.reports.numbers import duration
from thinkrl.reports.page.elements import Markup, element, join
from thinkrl.reports.page.tables import Column, table
from thinkrl.reports.reading import RunReading
from thinkrl.reports.report import Report

_ARXIV = re.compile(r"\d{4}\.\d{4,5}(v\d+)?")
_MOST_RUNS = 60


def summary_section(report: Report) -> Markup:
    """Recipe, paper, versions, commit, hardware and time; then the runs, when there are several."""
    runs = [run for configuration in report.configurations for run in configuration.runs]
    first = runs[0]
    paper = first.config.get("paper") or {}
    facts: list[tuple[str, object]] = [
        ("Recipe", ", ".join(dict.fromkeys(run.recipe for run in runs))),
        ("Model", _model(first)),
        ("State", first.outcome if len(runs) == 1 else _states(runs)),
        ("Seeds" if len(runs) > 1 else "Seed", _unique(run.seed for run in runs)),
        ("Time", duration(sum(run.wall_seconds for run in runs) or None)),
        ("Begun", _unique(str(run.record.get("created", ""))[:10] for run in runs)),
        ("Commit", _unique(_commit(run) for run in runs)),
        ("Versions", _unique(_versions(run) for run in runs)),
        ("Hardware", _unique(_hardware(run) for run in runs)),
    ]
    if len(runs) == 1:
        facts.append(("Directory", str(first.path)))
        if first.overrides:
            facts.append(("Overrides", " ".join(first.overrides)))
    parts: list[object] = []
    if paper.get("title"):
        parts.append(element("p", element("b", paper["title"]), " ", arxiv(str(paper.get("arxiv") or ""))))
    if paper.get("summary"):
        parts.append(element("p", str(paper["summary"]).strip()))
    parts.append(
        element(
            "dl", [element("div", element("dt", name), element("dd", value)) for name, value in facts], class_="facts"
        )
    )
    deviations = first.config.get("deviations") or []
    if deviations:
        listed = element("ul", [element("li", line) for line in deviations])
        parts.append(element("details", element("summary", f"{len(deviations)} deviations from the paper"), listed))
    if len(runs) > 1:
        parts.append(_runs_table(report))
    return join(*parts)


def arxiv(number: str) -> Markup | str:
    """A paper's number with its address, when it is one."""
    if _ARXIV.fullmatch(number):
        return element("a", f"arXiv {number}", href=f"https://arxiv.org/abs/{number}", rel="noreferrer")
    return number


def stages_section(report: Report) -> Markup | None:
    """The stages of every configuration's first run."""
    several = len(report.configurations) > 1
    columns = [*([Column("runs")] if several else []), Column("stage"), Column("kind"), Column("state"),
               Column("steps", True), Column("time", True), Column("made")]  # fmt: skip
    rows = [
        [
            *([configuration.label] if several else []),
            line.name,
            line.kind,
            join(line.status, element("small", "taken from the cache") if line.reused else None),
            line.rows or "",
            duration(line.seconds) if line.seconds is not None else "",
            ", ".join(line.artifacts),
        ]
        for configuration in report.configurations
        for line in configuration.first.stages
    ]
    if not rows:
        return None
    what = " of each configuration's first run" if report.seeds else ""
    return join(table(columns, rows), element("p", f"Time by the clock{what}, with loading and saving.", class_="soft"))


def _runs_table(report: Report) -> Markup:
    columns = [Column("runs"), Column("seed", True), Column("state"), Column("time", True), Column("directory")]
    rows = [
        [configuration.label, run.seed if run.seed is not None else "", run.outcome, duration(run.wall_seconds or None),
         element("code", run.path)]
        for configuration in report.configurations
        for run in configuration.runs
    ]  # fmt: skip
    left = len(rows) - _MOST_RUNS
    made = table(columns, rows[:_MOST_RUNS])
    listed = join(made, element("p", f"{left} more.") if left > 0 else None)
    return element("details", element("summary", f"{len(rows)} runs"), listed, open=len(rows) <= 6)


def _states(runs: list[RunReading]) -> str:
    finished = sum(run.finished for run in runs)
    return f"{finished} of {len(runs)} runs finished"


def _model(run: RunReading) -> str:
    node = run.config.get("model") or {}
    name = node.get("source") or str(node.get("_target_", "")).rpartition(".")[2]
    return f"{name}, {node['dtype']}" if node.get("dtype") else str(name)


def _commit(run: RunReading) -> str:
    git = run.record.get("git") or {}
    commit = str(git.get("commit") or "")[:12] or "not a checkout"
    return f"{commit} with changes" if git.get("dirty") else commit


def _versions(run: RunReading) -> str:
    versions = run.record.get("versions") or {}
    return ", ".join(f"{name} {versions[name]}" for name in ("thinkrl", "python", "torch", "transformers", "vllm")
                     if name in versions)  # fmt: skip


def _hardware(run: RunReading) -> str:
    hardware = run.record.get("hardware") or {}
    if not hardware:
        return ""
    gpus = hardware.get("gpus") or []
    memory = hardware.get("memory_bytes")
    parts = [", ".join(map(str, gpus)), str(hardware.get("processor", "")), f"{hardware.get('cores')} cores"]
    if isinstance(memory, int | float):
        parts.append(f"{memory / 2**30:.0f} GiB")
    return ", ".join(part for part in parts if part)


def _unique(values: Any) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values if value not in (None, ""))) or "–"
