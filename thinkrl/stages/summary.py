"""What a finished run comes to: held-out accuracy after every stage, and what each stage changed."""

from dataclasses import dataclass

from thinkrl.benchmarks.metrics import PairedDifference
from thinkrl.benchmarks.result import BenchmarkResult, compare
from thinkrl.stages.runner import Run


@dataclass(frozen=True)
class SummaryRow:
    """One evaluation and the change since the one before it. `change` is None where nothing earlier
    stands under the same protocol."""

    result: BenchmarkResult
    change: PairedDifference | None


def summarise(run: Run) -> list[SummaryRow]:
    """One row per evaluation stage, in order."""
    rows: list[SummaryRow] = []
    for made in run.produced.values():
        if "result" not in made:
            continue
        result = BenchmarkResult.from_json(made["result"].path.read_text(encoding="utf-8"))
        before = next((row.result for row in reversed(rows) if row.result.protocol == result.protocol), None)
        change = compare(before, result).paired if before is not None else None
        rows.append(SummaryRow(result, change))
    return rows
