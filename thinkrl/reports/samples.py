"""A few responses of each stage to read: thinking and answer marked, the parts of the reward, the verdict."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any, Literal

from thinkrl.reports.configurations import Configuration
from thinkrl.reports.reading import RunReading
from thinkrl.rollouts.spans import read_response
from thinkrl.tracking.errors import RunError
from thinkrl.tracking.response_rows import read_responses

Kind = Literal["text", "think", "answer"]
LONGEST = 6000
"""Characters of a text that a report shows."""
_PROMPT = 2000
_SHOWN = 3


@dataclass(frozen=True)
class Sample:
    """One response. parts: its text in pieces, in order. terms: name, value and contribution of each reward term."""

    stage: str
    label: str
    step: int
    prompt_id: str
    prompt: str
    reference: str
    parts: tuple[tuple[Kind, str], ...]
    finish_reason: str
    verdict: str
    reward: float | None
    advantage: float | None
    terms: tuple[tuple[str, float | None, float | None, str], ...]
    cut: int = 0
    """Characters at the end that are left out here."""


def stage_samples(configurations: Sequence[Configuration]) -> tuple[Sample, ...]:
    """Of the last step that each stage kept, a right response, a wrong one and an odd one, where there are such;
    of each configuration's first run."""
    found: list[Sample] = []
    for configuration in configurations:
        for stage in configuration.stages:
            found += _of_stage(configuration.first, stage, configuration.label)
    order = {name: place for place, name in enumerate(dict.fromkeys(n for c in configurations for n in c.stages))}
    return tuple(sorted(found, key=lambda sample: order[sample.stage]))


def _of_stage(run: RunReading, stage: str, label: str) -> list[Sample]:
    folder = run.folder(stage)
    files = sorted((folder / "rollouts").glob("*.parquet")) if folder is not None else []
    for path in reversed(files):  # a kill may have left the last one in pieces
        try:
            return [_sample(row, stage, label) for row in _chosen(read_responses(path))]
        except RunError:
            continue
    return []


def _chosen(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The first of each verdict in an order of interest, and of truncated ones; two at least, where there are two."""
    tests: list[Callable[[Mapping[str, Any]], bool]] = [
        lambda row: row.get("verdict") == "correct",
        lambda row: row.get("verdict") == "wrong" and row.get("finish_reason") == "stop",
        lambda row: row.get("verdict") in ("ungradable", "timeout"),
        lambda row: row.get("finish_reason") == "length",
    ]
    picked: list[int] = []
    for test in tests:
        found = next((number for number, row in enumerate(rows) if test(row) and number not in picked), None)
        if found is not None and len(picked) < _SHOWN:
            picked.append(found)
    picked += [number for number in range(len(rows)) if number not in picked][: max(0, 2 - len(picked))]
    return [rows[number] for number in picked]


def _sample(row: Mapping[str, Any], stage: str, label: str) -> Sample:
    text = str(row["text"])
    names = [key.removeprefix("term/") for key in row if key.startswith("term/")]
    prompt = "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in row["messages"])
    return Sample(
        stage=stage,
        label=label,
        step=int(row["step"]),
        prompt_id=str(row["prompt_id"]),
        prompt=prompt if len(prompt) <= _PROMPT else prompt[:_PROMPT] + " ...",
        reference=str(row.get("reference") or "")[:_PROMPT],
        parts=marked(text[:LONGEST]),
        finish_reason=str(row["finish_reason"]),
        verdict=str(row.get("verdict") or ""),
        reward=_number(row.get("reward")),
        advantage=_number(row.get("advantage")),
        terms=tuple(
            (name, _number(row[f"term/{name}"]), _number(row.get(f"contribution/{name}")),
             str(row.get(f"notes/{name}") or ""))
            for name in names
        ),
        cut=max(0, len(text) - LONGEST),
    )  # fmt: skip


def marked(text: str) -> tuple[tuple[Kind, str], ...]:
    """The text in pieces: the thinking, the answer, and what stands around them."""
    found = read_response(text)
    spans = [(span, kind) for span, kind in ((found.think, "think"), (found.answer, "answer")) if span is not None]
    pieces: list[tuple[Kind, str]] = []
    place = 0
    for (begin, end), kind in sorted(spans):
        begin = max(begin, place)
        pieces.append(("text", text[place:begin]))
        pieces.append(("think" if kind == "think" else "answer", text[begin:end]))
        place = max(end, place)
    pieces.append(("text", text[place:]))
    return tuple(piece for piece in pieces if piece[1])


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isnan(value) else None
