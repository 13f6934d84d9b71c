"""The `thinkrl` command. Each command lives in its own file and imports what is heavy only when it runs."""

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from thinkrl import __version__
from thinkrl.cli import (
    cache,
    compare,
    config,
    doctor,
    evaluate,
    listing,
    models,
    plan,
    report,
    reproduce,
    run,
    score,
    show,
    sweep,
    view,
)
from thinkrl.config.component import ConfigError, UserError

CONFIG_EXIT = 2
RUN_EXIT = 1
INTERRUPT_EXIT = 130


class Commands(TyperGroup):
    """Prints errors that a user can put right without a traceback, and exits with their code."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command named on the command line."""
        try:
            return super().invoke(ctx)
        except UserError as error:
            typer.secho("error: ", fg="red", bold=True, err=True, nl=False)
            typer.echo(str(error), err=True)
            raise typer.Exit(CONFIG_EXIT if isinstance(error, ConfigError) else RUN_EXIT) from error
        except KeyboardInterrupt as error:
            typer.echo("stopped", err=True)
            raise typer.Exit(INTERRUPT_EXIT) from error


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    suggest_commands=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with [bold]thinkrl run quickstart --dry-run[/bold].",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"thinkrl {__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Reproduce, compare and extend papers that reward thinking, one recipe at a time."""


app.command("run", epilog=run.EXAMPLES)(run.run)
app.command("plan", epilog=plan.EXAMPLES)(plan.plan)
app.command("list", epilog=listing.EXAMPLES)(listing.list_kinds)
app.command("show", epilog=show.EXAMPLES)(show.show)
app.command("config", epilog=config.EXAMPLES)(config.config)
app.command("evaluate", epilog=evaluate.EXAMPLES)(evaluate.evaluate)
app.command("score", epilog=score.EXAMPLES)(score.score)
app.command("sweep", epilog=sweep.EXAMPLES)(sweep.sweep)
app.command("compare", epilog=compare.EXAMPLES)(compare.compare)
app.command("reproduce", epilog=reproduce.EXAMPLES)(reproduce.reproduce)
app.command("report", epilog=report.EXAMPLES)(report.report)
app.command("view", epilog=view.EXAMPLES)(view.view)
app.add_typer(models.app, name="models")
app.add_typer(cache.app, name="cache")
app.command("doctor", epilog=doctor.EXAMPLES)(doctor.doctor)


def main() -> None:
    """Entry point of the `thinkrl` script."""
    sys.exit(app())
