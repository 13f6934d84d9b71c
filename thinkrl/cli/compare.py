"""`thinkrl compare`: two runs on the same held-out prompts."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from thinkrl.reproduction.comparison import Compared
    from thinkrl.reproduction.readings import FinishedRun

EXAMPLES = """Examples:

thinkrl compare runs/quickstart/seed0 runs/quickstart/seed1

thinkrl compare runs/quickstart/seed0 runs/quickstart/seed0 --stage after_refinement --against-stage after_grpo

thinkrl compare runs/laser/reproduce/baseline runs/laser/reproduce/method --json"""

_Run = Annotated[
    Path,
    typer.Argument(metavar="RUN", help="A run directory, or a folder with one run a seed.", exists=True,
                   file_okay=False, show_default=False),
]  # fmt: skip


def compare(
    first: _Run,
    second: _Run,
    stage: Annotated[
        str | None, typer.Option(help="The evaluation that is read, of both; by default the last one.")
    ] = None,
    against_stage: Annotated[str | None, typer.Option(help="That of the second run, where it is another one.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Compare across different protocols all the same.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare two runs: what the second one does better or worse, paired on the same prompts, with intervals."""
    import json

    from thinkrl.reproduction.comparison import compare_runs

    found = compare_runs(_runs(first), _runs(second), (stage, against_stage or stage), force)
    if as_json:
        typer.echo(json.dumps({"first": str(first), "second": str(second), **found.as_json()}, indent=1))
    else:
        print_comparison(found, str(first), str(second))


def print_comparison(found: "Compared", first: str, second: str) -> None:
    """Prints a row for every metric, and what the numbers stand on."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table("metric", title=f"{second} minus {first}", title_justify="left")
    for heading in ("first", "second", "difference", "95% interval", "prompts"):
        table.add_column(heading, justify="right")
    for one in found.differences:
        estimate = one.estimate
        table.add_row(
            one.metric,
            f"{one.first:.4g}",
            f"{one.second:.4g}",
            f"{estimate.value:+.4g}",
            f"{estimate.low:+.4g} to {estimate.high:+.4g}",
            str(one.prompts),
        )
    console.print(table)
    console.print(f"first   {first}, stage {found.stages[0]}", soft_wrap=True)
    console.print(f"second  {second}, stage {found.stages[1]}", soft_wrap=True)
    if len(found.pairs) > 1:
        console.print(f"paired by prompt and seed ({', '.join(str(a) for a, _ in found.pairs)})", soft_wrap=True)
    else:
        console.print("one run each, paired by prompt: the interval says nothing of other seeds", soft_wrap=True)
    if found.alone:
        console.print(f"[yellow]left out[/yellow] {found.alone} prompts that not every run was asked", soft_wrap=True)
    if found.differing:
        console.print(f"[yellow]protocols differ[/yellow] in {', '.join(found.differing)}", soft_wrap=True)
    else:
        console.print(f"protocol {found.protocols[0]}", soft_wrap=True)


def _runs(path: Path) -> "list[FinishedRun]":
    from thinkrl.reports.reading import find_runs
    from thinkrl.reproduction.readings import FinishedRun

    return [FinishedRun(run) for run in find_runs([path])]
