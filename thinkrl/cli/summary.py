"""The table at the end of a run."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from thinkrl.stages.experiment import Experiment
    from thinkrl.stages.runner import Run
    from thinkrl.stages.summary import SummaryRow


def print_summary(experiment: "Experiment", run: "Run", recipe: str) -> None:
    """Prints held-out accuracy after every stage, where everything lies, and what to try next."""
    from thinkrl.stages.summary import summarise

    console = Console(highlight=False)
    rows = summarise(run)
    if rows:
        console.print(_table(rows))
        console.print(
            f"accuracy is the mean over {rows[-1].result.k} samples of {rows[-1].result.n} held-out prompts,"
            f" with a 95% interval; protocol {rows[-1].result.protocol.hash}",
            style="dim",
            soft_wrap=True,
        )
    console.print(f"\nrun directory  {run.directory}", soft_wrap=True)
    console.print(f"  metrics      {run.directory / 'metrics.jsonl'}", soft_wrap=True)
    if (run.directory / "report.html").exists():
        console.print(f"  report       {run.directory / 'report.html'}", soft_wrap=True)
    console.print(f"  responses    thinkrl view {run.directory}", soft_wrap=True)
    for name, made in run.produced.items():
        if "model" in made:
            console.print(f"  model        {made['model'].path}  ({name})", soft_wrap=True)
    console.print("\ntry next", style="bold")
    console.print(f"  thinkrl run {recipe} seed={experiment.seed + 1}            another seed")
    console.print(f"  thinkrl config {recipe}                what ran, and what set each value")
    console.print(f"  thinkrl show {recipe}                  the recipe in words")


def _table(rows: list["SummaryRow"]) -> Table:
    table = Table(title=f"held-out {rows[0].result.protocol.benchmark}", title_justify="left")
    table.add_column("model after", no_wrap=True)
    for heading in ("accuracy", "95% interval", "change", "95% interval", "format", "thinking tokens"):
        table.add_column(heading, justify="right")
    for row in rows:
        interval, change = row.result.interval, row.change
        table.add_row(
            row.result.model,
            f"{row.result.accuracy:.1%}",
            f"{interval.low:.1%} to {interval.high:.1%}",
            f"{change.difference:+.1%}" if change else "",
            f"{change.interval.low:+.1%} to {change.interval.high:+.1%}" if change else "",
            f"{row.result.mean('format_rate'):.1%}",
            f"{row.result.mean('thinking_tokens'):.1f}",
        )
    return table
