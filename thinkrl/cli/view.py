"""`thinkrl view`: every response of a run, in the browser, as files, or in the terminal."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlencode

import typer

from thinkrl.config.component import ConfigError

if TYPE_CHECKING:
    from thinkrl.viewer.finding import Query
    from thinkrl.viewer.pages import Pages

EXAMPLES = """Examples:

thinkrl view runs/quickstart/seed0

thinkrl view runs/quickstart/seed0 --show wrong_rewarded --step all

thinkrl view runs/quickstart/seed0 --export seed0_responses

thinkrl view runs/quickstart/seed0 --terminal --find wait"""


def view(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="A run directory, finished, going on or crashed.", exists=True,
                       file_okay=False, show_default=False),
    ],
    stage: Annotated[
        str, typer.Option("--stage", help="The stage to begin at, by name or folder; else the last one trained.")
    ] = "",
    step: Annotated[str, typer.Option("--step", help="The step to begin at, or all; else the last one.")] = "",
    show: Annotated[
        str,
        typer.Option("--show", help="all, correct, wrong, wrong_rewarded, correct_unrewarded, wrong_reinforced, "
                                    "ungradable, excluded, truncated, flat or mixed."),
    ] = "all",
    order: Annotated[
        str,
        typer.Option("--order", help="stored, longest, shortest, reward, lowest_reward, advantage, lowest_advantage."),
    ] = "stored",
    find: Annotated[str, typer.Option("--find", help="Only responses that hold this text, or whose prompts do.")] = "",
    export: Annotated[
        Path | None, typer.Option("--export", help="Write the page into this folder, as files that need no server.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Most responses that --export writes.")] = 2_000,
    terminal: Annotated[bool, typer.Option("--terminal", help="Show responses here, group by group.")] = False,
    whole: Annotated[bool, typer.Option("--whole", help="With --terminal: whole texts, however long.")] = False,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port of the page; 0 takes a free one.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")] = True,
) -> None:  # fmt: skip
    """Look at what the model wrote: responses by step, prompt and group, with tokens, rewards, verdicts and reasons."""
    from thinkrl.viewer.pages import Pages

    pages = Pages(run)
    query = _query(pages, stage, step, show, order, find)
    if export is not None:
        _export(pages, export, limit)
    elif terminal:
        _terminal(pages, query, whole)
    else:
        _serve(pages, query, stage, step, port, browser)


def _query(pages: "Pages", stage: str, step: str, show: str, order: str, find: str) -> "Query":
    """What is asked for first. Raises ConfigError for a stage, step, filter or order that is not there."""
    from thinkrl.viewer.finding import Query

    keys = pages.run.stage_keys()
    named = [key for key in keys if stage in (key, key.partition("_")[2])]
    if stage and not named:
        names = ", ".join(key.partition("_")[2] for key in keys) or "none yet"
        raise ConfigError(f"--stage: no stage '{stage}' in {pages.run.path}; there are: {names}")
    chosen = named[0] if stage else pages.default_stage()
    steps = pages.run.steps(chosen) if chosen else []
    if step and step != "all" and step not in map(str, steps):
        kept = f"{steps[0]} to {steps[-1]}" if steps else "none"
        raise ConfigError(f"--step: no rollouts of step '{step}' in stage '{chosen}'; steps kept: {kept}")
    number = None if step == "all" or not steps else int(step) if step else steps[-1]
    try:
        return Query(stage=chosen, step=number, mark=show, order=order, text=find)
    except ValueError as error:
        raise ConfigError(f"--show, --order or --find: {error}") from error


def _export(pages: "Pages", folder: Path, limit: int) -> None:
    from thinkrl.viewer.export import export_page

    written, total = export_page(pages, folder, limit)
    left = "" if written == total else f" (of {total}; --limit takes more)"
    typer.echo(f"wrote {written} responses{left}: open {folder / 'index.html'}")


def _terminal(pages: "Pages", query: "Query", whole: bool) -> None:
    from rich.console import Console

    from thinkrl.viewer.terminal import TerminalView, key_presses

    if not query.stage:
        raise ConfigError(f"{pages.run.path} has kept no responses yet")
    shown = TerminalView(pages, query, Console(highlight=False), whole=whole)
    if sys.stdin.isatty() and sys.stdout.isatty():
        shown.walk(key_presses())
    else:
        shown.print_page()


def _serve(pages: "Pages", query: "Query", stage: str, step: str, port: int, browser: bool) -> None:
    import webbrowser

    from thinkrl.viewer.server import Server

    given = {"stage": query.stage if stage else "", "step": step, "find": query.text}
    given |= {
        "show": query.mark if query.mark != "all" else "",
        "order": query.order if query.order != "stored" else "",
    }
    given = {name: value for name, value in given.items() if value}
    with Server(pages, port) as server:
        url = server.url + (f"#{urlencode(given)}" if given else "")
        typer.echo(f"{url}\nThis machine alone can open it, and only with the whole address. Ctrl-C ends it.")
        if browser and _has_display():
            webbrowser.open(url)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            typer.echo("stopped")


def _has_display() -> bool:
    """Whether a browser would have a window: without one, a browser for terminals would take this terminal."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
