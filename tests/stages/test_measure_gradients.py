"""Gradients of responses in several degrees of detail: what is measured and written, and that it goes on."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from thinkrl.config.composed import Composed
from thinkrl.data.answer_traces import AnswerTraces
from thinkrl.data.chat import ChatRenderer
from thinkrl.data.source import DataError
from thinkrl.data.traces import Trace
from thinkrl.models.tiny import TinyModel
from thinkrl.probes.gradient_spectra import response_gradient
from thinkrl.probes.layer_curves import mean_absolute_difference
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.stages.context import StageContext
from thinkrl.stages.experiment import Experiment
from thinkrl.stages.measure_gradients import MeasureGradients
from thinkrl.stages.runner import run_experiment
from thinkrl.tracking.tables import read_table, write_table

MODEL = TinyModel(
    hidden=16, intermediate=16, layers=3, heads=2, kv_heads=1, tokenizer="character", init_seed=0, device="cpu"
)


@dataclass(frozen=True)
class Sums:
    """Five sums with their answers, after `before`."""

    before: str = ""
    size: int = 5

    def traces(self) -> Sequence[Trace]:
        return [
            Trace(Prompt(f"s{n}", (Message("user", f"{n}+{n}"),), str(2 * n)), f"{self.before}{2 * n}")
            for n in range(10, 10 + self.size)
        ]


def stage(**changes: Any) -> MeasureGradients:
    levels: Any = {"none": Sums(), "long": Sums("twice it is "), "answer": AnswerTraces(Sums("twice it is "))}
    return MeasureGradients(**({"levels": levels, "samples": 5, "prompts_per_step": 2} | changes))


@pytest.fixture
def measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("THINKRL_CACHE", str(tmp_path / "cache"))

    def run(directory: str, measured: MeasureGradients) -> Path:
        tree = {"model": {"source": "tiny"}, "seed": 0, "stages": {"gradients": {"n": 1}}}
        composed = Composed(tree, {}, "gradients", tmp_path / "gradients.yaml")
        experiment = Experiment("gradients", MODEL, {"gradients": measured}, reuse=False)
        return run_experiment(experiment, composed, tmp_path / directory).directory / "stages" / "0_gradients"

    return run


def test_each_response_is_measured_alone_right_and_irrelevant(measure: Any) -> None:
    folder = measure("a", stage())
    rows = [row for path in sorted((folder / "gradients").iterdir()) for row in read_table(path)]
    assert len(rows) == 5 * 3 * 2 * 4 * 3  # prompts, levels, right and irrelevant, projections, layers
    policy = MODEL.load()
    renderer = ChatRenderer(policy.tokenizer)
    traces = {trace.prompt.prompt_id: trace for trace in Sums("twice it is ").traces()}
    order = list(dict.fromkeys(row["prompt_id"] for row in rows))
    for name, trace, given in (
        ("long", traces[order[1]], 0),
        ("long/irrelevant", replace(traces[order[2]], prompt=traces[order[1]].prompt), 0),
        ("answer", traces[order[1]], len("twice it is")),
    ):
        start, response = renderer.prompt_ids(trace.prompt.messages), renderer.response_ids(trace.response, end=False)
        learned = np.arange(len(start) + len(response)) >= len(start) + given
        wanted = response_gradient(policy.module, np.concatenate([start, response]), learned)
        own = [row for row in rows if (row["responses"], row["prompt_id"]) == (name, order[1])]
        assert {row["tokens"] for row in own} == {len(response) - given}
        for row in own:
            assert row["loss"] == pytest.approx(wanted.loss, rel=1e-5)
            spectrum = wanted.spectra[row["projection"], row["layer"]]
            assert row["nuclear"] == pytest.approx(spectrum.nuclear, rel=1e-3)


def test_the_log_and_the_files_are_a_recount(measure: Any) -> None:
    folder = measure("a", stage())
    last = [json.loads(line) for line in (folder.parents[1] / "metrics.jsonl").read_text().splitlines()][-1]
    rows = [row for path in sorted((folder / "gradients").iterdir()) for row in read_table(path)]

    def curve(responses: str, statistic: str = "nuclear") -> Any:
        own = [row for row in rows if row["responses"] == responses and row["projection"] == "v"]
        return np.asarray([np.mean([row[statistic] for row in own if row["layer"] == layer]) for layer in range(3)])

    right, other = curve("long"), curve("long/irrelevant")
    assert last["mad/long/v"] == pytest.approx(mean_absolute_difference(right))
    assert last["nuclear/long/v"] == pytest.approx(right.mean())
    assert last["ratio/long/v"] == pytest.approx(curve("long", "ratio").mean())
    assert last["rd/long/v"] == pytest.approx(np.mean(np.abs(other - right) / right))
    assert last["rd_signed/long/v"] == pytest.approx(np.mean((other - right) / right))
    assert (last["count/long"], last["dropped/long"]) == (5, 0)
    found = json.loads((folder / "spectra.json").read_text())
    assert found["nuclear"]["long/v"]["curve"] == pytest.approx(right.tolist())
    assert found["nuclear"]["long/irrelevant/v"]["relative_difference"] == pytest.approx(
        ((other - right) / right).tolist()
    )
    per_loss = [row["nuclear"] / row["loss"] for row in rows
                if (row["responses"], row["projection"], row["layer"]) == ("none", "o", 1)]  # fmt: skip
    assert found["nuclear_per_loss"]["none/o"]["curve"][1] == pytest.approx(np.mean(per_loss))
    figure = (folder / "spectra.svg").read_text()
    assert figure.startswith("<svg")
    assert "script" not in figure
    assert figure.count("V: ") >= 3


def test_a_killed_stage_comes_to_the_same_bytes(measure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = measure("whole", stage())
    finish = StageContext.finish_step

    def failing(self: StageContext, step: int, *arguments: Any, **named: Any) -> None:
        if step == 2:
            raise RuntimeError("killed")
        finish(self, step, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(StageContext, "finish_step", failing)
        with pytest.raises(RuntimeError, match="killed"):
            measure("killed", stage())
    killed = measure("killed", stage())
    files = {path.relative_to(whole) for path in whole.rglob("*") if path.is_file()}
    assert files == {path.relative_to(killed) for path in killed.rglob("*") if path.is_file()}
    assert {path.suffix for path in files} == {".parquet", ".json", ".svg"}
    for path in files:
        assert (whole / path).read_bytes() == (killed / path).read_bytes(), path
    rows = [[{k: v for k, v in json.loads(line).items() if "seconds" not in k and k != "time"} for line in
             (folder.parents[1] / "metrics.jsonl").read_text().splitlines()] for folder in (whole, killed)]  # fmt: skip
    assert rows[0] == rows[1]
    assert len(rows[0]) == 3


def test_a_response_that_is_cut_off_is_not_measured(measure: Any) -> None:
    policy = MODEL.load()
    start = len(ChatRenderer(policy.tokenizer).prompt_ids(Sums().traces()[0].prompt.messages))
    folder = measure("cut", stage(max_tokens=start + 1, samples=2, irrelevant=False))
    rows = read_table(folder / "gradients" / "000001.parquet")
    assert {row["responses"] for row in rows} == {"none", "long"}  # of "answer" what is left is given
    assert {row["tokens"] for row in rows} == {1}


def test_levels_must_answer_the_same_prompts() -> None:
    with pytest.raises(DataError, match="at least 5 of them, got none 5, long 4"):
        stage(levels={"none": Sums(), "long": Sums("is ", 4)}).check()
    with pytest.raises(DataError, match="at least 6 of them, got none 5"):
        stage(levels={"none": Sums()}, samples=6).check()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": 1}, "samples must be at least 2, got 1"),
        ({"levels": {}}, "levels must be different ones, at least one"),
        ({"levels": {"a/b": Sums()}}, "levels must have names without '/'"),
        ({"projections": ("q", "q")}, "projections must be different ones"),
        ({"max_tokens": 1}, "max_tokens must be at least 2, got 1"),
    ],
)
def test_bad_values_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stage(**changes)


def test_tables_come_back_as_they_were(tmp_path: Path) -> None:
    rows = [{"name": "a", "value": float("nan"), "layer": 1}, {"name": "b", "value": 2.5, "layer": 2}]
    found = read_table(write_table(tmp_path / "t.parquet", rows))
    assert np.isnan(found[0].pop("value"))
    assert found == [{"name": "a", "layer": 1}, rows[1]]
    with pytest.raises(ValueError, match="row 1 has the keys"):
        write_table(tmp_path / "t.parquet", [rows[0], {"name": "b"}])
