"""`thinkrl report`: one page about one run or many, that opens anywhere and loads nothing."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from thinkrl.config.component import ConfigError

EXAMPLES = """Examples:

thinkrl report runs/quickstart/seed0

thinkrl report runs/quickstart/seed0 runs/quickstart/seed1 --output seeds.html

thinkrl report runs/laser/reproduce --format md"""


class Format(StrEnum):
    """What a report is written as."""

    HTML = "html"
    MD = "md"
    JSON = "json"


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Run directories, or folders of them such as runs/RECIPE.", exists=True,
                       file_okay=False, show_default=False),
    ],
    form: Annotated[
        Format, typer.Option("--format", help="html writes a page; md and json are printed without --output.")
    ] = Format.HTML,
    output: Annotated[
        Path | None,
        typer.Option("--output", dir_okay=False,
                     help="The file to write; a page goes to RUN/report.html, of several runs to ./report.html."),
    ] = None,
) -> None:  # fmt: skip
    """Report on runs: curves with intervals over seeds, warnings, differences, samples, held-out results, verdicts."""
    from thinkrl.reports.report import make_report
    from thinkrl.reports.writing import default_place, json_text, write_page

    made = make_report(runs)
    if form is Format.HTML:
        place = output or default_place(runs)
        write_page(made, place)
        typer.echo(f"wrote {place}")
        return
    from thinkrl.reports.markdown import markdown

    text = markdown(made) if form is Format.MD else json_text(made)
    if output is None:
        typer.echo(text)
        return
    from thinkrl.tracking.atomic import write_bytes

    if output.exists():
        raise ConfigError(f"--output: {output} is there already")
    write_bytes(output, text.encode("utf-8", errors="replace"))
    typer.echo(f"wrote {output}")
