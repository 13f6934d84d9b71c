"""`thinkrl config`: the composed configuration, and what one key of it means."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thinkrl.cli.arguments import Overrides, Recipe, RecipesDirs

if TYPE_CHECKING:
    from thinkrl.config.explain import Explanation

EXAMPLES = """Examples:

thinkrl config quickstart

thinkrl config quickstart scale=smoke --explain stages.grpo.steps

thinkrl config quickstart seed=1 --json"""


def config(
    recipe: Recipe,
    overrides: Overrides = None,
    explain: Annotated[
        str | None, typer.Option("--explain", metavar="KEY", help="Value, type, meaning and origin of one key.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    recipes_dir: RecipesDirs = None,
) -> None:
    """Print the composed configuration: every value with the file or override that set it.

    Everything is checked first, except with --explain, which also helps with a configuration that is refused.
    """
    from rich.console import Console

    from thinkrl.config.build import build
    from thinkrl.config.compose import compose
    from thinkrl.config.render import to_json, with_origins

    composed = compose(recipe, overrides or (), recipes_dir or ())
    from thinkrl.stages.experiment import Experiment

    if explain is not None:
        from thinkrl.config.explain import explain as explain_key

        _print_explanation(explain_key(composed, explain, Experiment), as_json)
        return
    build(Experiment, composed.tree, composed)
    if as_json:
        typer.echo(to_json(composed))
    else:
        Console().print(with_origins(composed), soft_wrap=True)


def _print_explanation(found: "Explanation", as_json: bool) -> None:
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    if as_json:
        typer.echo(json.dumps(asdict(found), indent=2, default=str))
        return
    table = Table.grid(padding=(0, 2))
    rows = {
        "key": found.key or "(the whole configuration)",
        "value": "" if found.children else _shown(found.value),
        "type": found.type,
        "meaning": found.meaning,
        "set by": found.origin,
        "note": found.note,
    }
    for name, text in rows.items():
        if text:
            table.add_row(f"[bold]{name}[/bold]", text.replace("[", r"\["))
    console = Console()
    console.print(table)
    if found.children:
        below = Table("key", "meaning", title="keys below", title_justify="left")
        for name, meaning in found.children:
            below.add_row(name, meaning.replace("[", r"\["))
        console.print(below)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
