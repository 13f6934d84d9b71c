"""`thinkrl run`: composes a recipe, and runs it or goes on with it."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thinkrl.cli.arguments import Overrides, Recipe, RecipesDirs
from thinkrl.cli.launch import LOST_RANK_EXIT, launch, wanted_processes
from thinkrl.config.component import ConfigError
from thinkrl.parallel.lifeline import watch_launcher
from thinkrl.parallel.place import ALONE, find_place
from thinkrl.tracking.names import run_name

if TYPE_CHECKING:
    from thinkrl.config.composed import Composed
    from thinkrl.stages.experiment import Experiment

EXAMPLES = """Examples:

thinkrl run quickstart

thinkrl run quickstart seed=1 scale=smoke

thinkrl run quickstart learner.processes=2

thinkrl run my/recipe.yaml stages.grpo.steps=50 --dir runs/trial --dry-run"""


def run(
    recipe: Recipe,
    overrides: Overrides = None,
    directory: Annotated[
        Path | None,
        typer.Option("--dir", help="The run's directory; by default runs/RECIPE/NAME, NAME made of the overrides."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Compose, check, print the plan, and stop.")] = False,
    recipes_dir: RecipesDirs = None,
) -> None:
    """Run a recipe. The same command on an existing run goes on where it stopped."""
    from thinkrl.config.build import build
    from thinkrl.config.compose import compose

    watch_launcher(os.environ)
    composed = compose(recipe, overrides or (), recipes_dir or ())
    found = find_place(os.environ)
    processes = wanted_processes(composed.tree)
    if found is None and processes > 1 and not dry_run:
        raise typer.Exit(launch(processes, sys.argv[1:]))
    from thinkrl.stages.experiment import Experiment

    experiment = build(Experiment, composed.tree, composed)
    place = directory if directory is not None else default_directory(composed)
    if dry_run:
        print_plan(experiment, composed, place)
        return
    from thinkrl.cli.summary import print_summary
    from thinkrl.parallel.ranks import LostRankError, joined
    from thinkrl.reports.writing import leave_report
    from thinkrl.stages.runner import run_experiment

    here = found or ALONE
    if here.size != experiment.processes:
        raise ConfigError(
            f"{here.size} processes were started, but learner.processes is {experiment.processes}:"
            f" set learner.processes={here.size}"
        )
    try:
        with joined(here, experiment.wait_minutes * 60):
            finished = run_experiment(experiment, composed, place)
    except LostRankError as lost:
        typer.echo(f"error: {lost}", err=True)
        raise typer.Exit(LOST_RANK_EXIT) from lost
    except KeyboardInterrupt as interrupt:
        typer.echo(f"stopped; the same command goes on from the last step kept in {place}", err=True)
        raise typer.Exit(130) from interrupt
    finally:
        if here.rank == 0:
            leave_report(place)
    if here.rank == 0:
        print_summary(experiment, finished, composed.recipe_id)


def default_directory(composed: "Composed") -> Path:
    """`runs/<recipe>/<name>`: one command always means one directory."""
    return Path("runs") / composed.recipe_id.replace("/", "_") / run_name(composed.tree.get("seed"), composed.overrides)


def print_plan(experiment: "Experiment", composed: "Composed", directory: Path) -> None:
    """Prints what would run, in order, with the sizes, and where it goes."""
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "", "stage", "what it does", title=f"{experiment.name} (seed {experiment.seed})", title_justify="left"
    )
    for number, (name, stage) in enumerate(experiment.stages.items(), start=1):
        table.add_row(str(number), name, stage.plan())
    console = Console()
    console.print(table)
    console.print(f"model      {_named(composed, 'model')}", highlight=False, soft_wrap=True)
    console.print(f"recipe     {composed.recipe_path}", highlight=False, soft_wrap=True)
    state = "goes on with the run there" if (directory / "run.json").exists() else "new"
    console.print(f"directory  {directory} ({state})", highlight=False, soft_wrap=True)
    if composed.capped:
        console.print(f"{len(composed.capped)} sizes are capped by the scale", highlight=False)
    console.print("nothing was run (--dry-run)", highlight=False)


def _named(composed: "Composed", key: str) -> str:
    node = composed.tree.get(key)
    if not isinstance(node, dict):
        raise ConfigError(f"{key} must be a component, got {node!r} (set by {composed.origin(key)})")
    source = node.get("source") or str(node.get("_target_", "")).rpartition(".")[2]
    return f"{source} ({composed.origin(key)})"
