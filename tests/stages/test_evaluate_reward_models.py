"""Reward models are measured one a step: what is logged of each and over all, and that a killed stage goes on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from test_stage_reuse import rows_of

from thinkrl.companions.token_reward_model import TokenRewardModel
from thinkrl.data.comparisons import Comparison
from thinkrl.grading.number import NumberGrader
from thinkrl.rollouts.prompt import Message
from thinkrl.rollouts.signals import Signal
from thinkrl.rollouts.store import Rollouts
from thinkrl.stages.artifacts import FromStage, Kind
from thinkrl.stages.context import StageContext
from thinkrl.stages.evaluate_reward_models import EvaluateRewardModels
from thinkrl.stages.stage import Stage
from thinkrl.tracking.recorder import Stopwatch

asked: list[str] = []
"""Models that were asked, each time."""


@dataclass(frozen=True)
class Solved:
    """Two problems: the right one is the longest, or else the one with an exclamation mark."""

    wrong: int = 3

    def comparisons(self) -> Sequence[Comparison]:
        return [
            Comparison(
                f"c{n}", (Message("user", "?"),), ("right" * (3 - n) + "!",), ("wrong", "no", "x" * 9)[: self.wrong]
            )
            for n in range(2)
        ]


@dataclass(frozen=True)
class Scoring:
    """Scores texts: by length, by their marks, or not at all."""

    by: str

    def supplies(self) -> tuple[Signal, ...]:
        return (Signal(f"says_{self.by}", "a number"),)

    def check(self) -> None:
        return

    def open(self, start: Any) -> "Scoring":
        asked.append(self.by)
        return self

    def signals(self, rollouts: Rollouts) -> Mapping[str, Any]:
        known = {
            "length": [float(len(text)) for text in rollouts.texts],
            "marks": [float(text.endswith("!")) for text in rollouts.texts],
            "shortness": [-float(len(text)) for text in rollouts.texts],
            "nothing": [np.nan] * len(rollouts),
        }
        return {f"says_{self.by}": np.asarray(known[self.by])}


@dataclass(frozen=True, kw_only=True)
class Sampled(Stage):
    """Responses of two prompts in two steps, of which long ones are wrong and those with a mark are right."""

    makes: ClassVar[tuple[Kind, ...]] = ("traces",)
    rollouts: Rollouts

    def check(self) -> None:
        return

    def work(self) -> float:
        return 1.0

    def plan(self) -> str:
        return "sample"

    def run(self, context: StageContext) -> Mapping[str, Path]:
        context.resume(1)
        context.write_rollouts(1, self.rollouts, {"verdict": ["correct", "wrong", "timeout", "correct"]})
        context.write_rollouts(2, self.rollouts, {"verdict": ["wrong", "wrong", "correct", "wrong"]})
        context.finish_step(1, 1, {}, Stopwatch(), every=1)
        return {"traces": context.write_traces([])}


def stage(*models: str, **changes: Any) -> EvaluateRewardModels:
    companions: Any = {name: Scoring(name) for name in models}
    benchmarks: Any = {"many": Solved(), "pairs": Solved(wrong=1)}
    return EvaluateRewardModels(**({"benchmarks": benchmarks, "companions": companions} | changes))


@pytest.fixture(autouse=True)
def _nobody_asked() -> None:
    asked.clear()


def test_each_model_on_each_benchmark(start: Any) -> None:
    rows = rows_of(start("a", {"models": stage("length", "marks", "nothing")}))
    first, second, third = rows
    # Right solutions of 16 and 11 letters against 5, 2 and 9.
    assert (first["length/many/strict"], first["length/many/reciprocal_rank"]) == (1.0, 1.0)
    assert (second["marks/many/strict"], second["marks/pairs/strict"]) == (1.0, 1.0)
    assert (third["nothing/many/strict"], third["nothing/many/tolerant"]) == (0.0, 0.0)
    assert (third["nothing/many/reciprocal_rank"], third["nothing/many/unscored"]) == (0.25, 1.0)
    assert "mean/many" not in second
    assert third["mean/many"] == pytest.approx(2 / 3)
    assert third["spread/many"] == pytest.approx(np.std([1, 1, 0]))
    assert "correlation/many" not in third
    assert asked == ["length", "marks", "nothing"]


def test_choices_of_an_earlier_stage_and_what_benchmarks_tell_of_them(start: Any, rollouts: Rollouts) -> None:
    stages = {
        "samples": Sampled(rollouts=rollouts),
        "models": stage("length", "marks", "shortness", choices=FromStage("samples")),
    }
    rows = [row for row in rows_of(start("a", stages)) if row["stage"] == "models"]
    # Responses with a verdict: two and one in the first step, two and two in the second. So the best of one it is.
    assert rows[0]["length/best_of_1"] == pytest.approx(np.mean([1, 1, 0, 1]))
    assert "length/best_of_2" not in rows[0]
    assert rows[0]["length/kl_1"] == 0.0
    last = rows[-1]
    assert last["correlation/many"] == 0.0  # all choose alike, so nothing can be told
    assert {"correlation/pairs", "correlation/many/low", "robustness/many"} <= last.keys()


def test_a_stage_that_was_stopped_asks_no_model_twice(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = rows_of(start("whole", {"models": stage("length", "marks", "shortness")}))
    asked.clear()
    finish = StageContext.finish_step

    def failing(self: StageContext, step: int, *arguments: Any, **named: Any) -> None:
        if step == 3:
            raise RuntimeError("killed")
        finish(self, step, *arguments, **named)

    monkeypatch.setattr(StageContext, "finish_step", failing)
    with pytest.raises(RuntimeError, match="killed"):
        start("parted", {"models": stage("length", "marks", "shortness")}, reuse=False)
    monkeypatch.setattr(StageContext, "finish_step", finish)
    parted = rows_of(start("parted", {"models": stage("length", "marks", "shortness")}, reuse=False))
    assert asked == ["length", "marks", "shortness", "shortness"]
    names = ("seconds/", "time")
    clean = [[{k: v for k, v in row.items() if not k.startswith(names)} for row in rows] for rows in (whole, parted)]
    assert clean[0] == clean[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"companions": {}}, "must name at least one each"),
        ({"benchmarks": {}}, "must name at least one each"),
        (
            {"companions": {"tokens": TokenRewardModel()}},
            r"companions.tokens must supply one number .* got \['token'\]",
        ),
        ({"sizes": (4, 2)}, "sizes must rise from 1 or more"),
        ({"sizes": (0, 2)}, "sizes must rise from 1 or more"),
        ({"sizes": ()}, "sizes must rise from 1 or more"),
    ],
)
def test_what_cannot_be_measured_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stage("length", **changes)


def test_it_says_what_it_needs_and_does() -> None:
    one = stage("length", "marks", choices=FromStage("samples"), same=NumberGrader())
    assert one.needs() == (("samples", "traces"),)
    assert one.plan() == "measure 2 reward models on many, pairs, and on choices among responses of samples"
    assert one.work() == 2 * (2 * 4 + 2 * 2) * 40
