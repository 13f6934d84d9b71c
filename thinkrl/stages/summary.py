"""What a finished run comes to: held-out accuracy after every stage, and what each stage changed."""

from collections.abc import Mapping
from dataclasses import dataclass

from thinkrl.benchmarks.metrics import PairedDifference
from thinkrl.benchmarks.result import BenchmarkResult, compare
from thinkrl.stages.experiment import Experiment
from thinkrl.stages.runner import Run
from thinkrl.stages.stage import BASE, PREVIOUS, Stage


@dataclass(frozen=True)
class SummaryRow:
    """One evaluation: of which stage's model, its result, and the change since the evaluation before it.

    `change` is None for the first evaluation and where the protocol is another one.
    """

    model: str
    result: BenchmarkResult
    change: PairedDifference | None


def summarise(experiment: Experiment, run: Run) -> list[SummaryRow]:
    """One row per evaluation stage, in order."""
    rows: list[SummaryRow] = []
    for name, made in run.produced.items():
        if "result" not in made:
            continue
        result = BenchmarkResult.from_json(made["result"].path.read_text(encoding="utf-8"))
        before = next((row.result for row in reversed(rows) if row.result.protocol == result.protocol), None)
        change = compare(before, result).paired if before is not None else None
        rows.append(SummaryRow(_model_of(name, experiment.stages), result, change))
    return rows


def _model_of(evaluation: str, stages: Mapping[str, Stage]) -> str:
    """Name of the stage whose model the evaluation measured."""
    source = stages[evaluation].model_from
    if source not in (BASE, PREVIOUS):
        return source
    model = "base model"
    for name, stage in stages.items():
        if name == evaluation or source == BASE:
            break
        if "model" in stage.makes:
            model = name
    return model
