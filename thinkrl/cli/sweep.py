"""`thinkrl sweep`: many runs of a recipe, and which point is best."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thinkrl.cli.arguments import Overrides, Recipe, RecipesDirs
from thinkrl.config.component import ConfigError, UserError
from thinkrl.sweeps.means import Launcher, Means, Sweeper

if TYPE_CHECKING:
    from thinkrl.sweeps.choice import Choice
    from thinkrl.sweeps.stopping import StoppingRule
    from thinkrl.sweeps.sweep import Sweep
    from thinkrl.sweeps.table import SweepTable

EXAMPLES = """Examples:

thinkrl sweep quickstart stages.grpo.learner.learning_rate=1e-6,3e-6 'seed=range(3)' --dry-run

thinkrl sweep quickstart stages.grpo.group_size=4,8 seed=0,1 scale=smoke --jobs 2

thinkrl sweep quickstart 'stages.grpo.learner.learning_rate=tag(log,interval(1e-6,1e-4))' --sweeper random --trials 8

thinkrl sweep quickstart stages.grpo.group_size=4,8 seed=0,1 scale=smoke --table

thinkrl sweep quickstart --wandb TEAM/PROJECT/SWEEP_ID"""

_PANEL = "Which point is best"


def sweep(
    recipe: Recipe,
    overrides: Overrides = None,
    sweeper: Annotated[
        Sweeper, typer.Option(help="How points are found among the values: all, drawn, or proposed from results.")
    ] = Sweeper.GRID,
    launcher: Annotated[
        Launcher | None,
        typer.Option(help="Where runs go; by default here, one at a time (local), or --jobs at a time (joblib)."),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 1,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Points in all, for random and optuna (20) and for W&B.")
    ] = None,
    metric: Annotated[
        str, typer.Option(help="Evaluated (accuracy), or a logged column (reward/mean).", rich_help_panel=_PANEL)
    ] = "",
    stage: Annotated[str, typer.Option(help="The stage it is read of.", rich_help_panel=_PANEL)] = "",
    minimize: Annotated[bool, typer.Option("--minimize", help="Lower is better.", rich_help_panel=_PANEL)] = False,
    validation: Annotated[
        str,
        typer.Option(
            help="Validation prompts: auto adds an evaluation on further prompts of the test's generator, a name is a"
            " choice of conf/data, none chooses on the test prompts.",
            rich_help_panel=_PANEL,
        ),
    ] = "auto",
    stop: Annotated[
        list[str] | None,
        typer.Option(metavar="RULE|KEY=VALUE", help="Stops points without hope: median or halving, then its settings."),
    ] = None,
    directory: Annotated[
        Path | None, typer.Option("--dir", help="The sweep's folder; by default runs/RECIPE/sweep_NAME.")
    ] = None,
    wandb: Annotated[str | None, typer.Option(metavar="SWEEP_ID", help="Runs what a W&B sweep proposes.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and print all runs, and stop.")] = False,
    table: Annotated[bool, typer.Option("--table", help="Print what is there already, and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
    recipes_dir: RecipesDirs = None,
) -> None:  # fmt: skip
    """Run a recipe with every combination of values. The same command goes on where it stopped."""
    from thinkrl.sweeps.sweep import plan_sweep
    from thinkrl.sweeps.validation import Wanted

    chosen = launcher or (Launcher.JOBLIB if jobs > 1 else Launcher.LOCAL)
    means = Means(sweeper, chosen, jobs, trials or 20, minimize=minimize)
    wanted = Wanted(metric, stage, minimize, validation)
    planned = plan_sweep(recipe, overrides or (), recipes_dir or (), wanted, means, _rule(stop), directory)
    if table:
        show(planned, as_json, planned.choice if metric or stage else None)
        return
    if wandb is not None and planned.asked.arguments:
        raise ConfigError(
            f"--wandb: the W&B sweep says what is swept, so give one value for {planned.asked.arguments[0]}"
        )
    print_sweep(planned, wandb, quiet=as_json)
    if dry_run:
        planned.configurations(planned.runs)
        typer.echo("nothing was run (--dry-run)")
        return
    if wandb is not None:
        from thinkrl.sweeps.wandb_agent import drive

        drive(planned, wandb, trials)
    else:
        try:
            planned.run()
        except KeyboardInterrupt as interrupt:
            typer.echo(
                f"stopped; the same command goes on with what is not finished in {planned.folder.path}", err=True
            )
            raise typer.Exit(130) from interrupt
    found = show(planned, as_json)
    leave_results(planned, found, quiet=as_json)
    if found.count("failed"):
        raise UserError(
            f"{found.count('failed')} runs failed, and say why in the table; the same command tries them again"
        )


def print_sweep(planned: "Sweep", wandb: str | None, quiet: bool) -> None:
    """Prints what will run, how far it is, and what decides; on the error output where `quiet`."""
    folder = planned.folder
    lines = [f"sweep      {folder.path}", f"best by    {planned.choice.words}"]
    lines += [f"note       {note}" for note in planned.notes]
    if wandb is not None:
        lines.append(f"runs       those that the W&B sweep {wandb} proposes")
    elif not planned.runs:
        lines.append(f"runs       {planned.means.trials} points that {planned.means.sweeper} proposes")
    else:
        known = {state.name: state.status for state in folder.settled_states()}
        lines.append(f"runs       {len(planned.runs)}")
        lines += [f"  {known.get(run.name, 'new'):<9} {' '.join(run.point)} seed={run.seed}" for run in planned.runs]
    typer.echo("\n".join(lines), err=quiet)


def show(planned: "Sweep", as_json: bool, choice: "Choice | None" = None) -> "SweepTable":
    """Prints the table; by another choice than the sweep's own where one is given."""
    import json

    from thinkrl.sweeps.table import tabulate

    found = tabulate(planned.folder, choice)
    if as_json:
        typer.echo(json.dumps(found.as_json(), indent=1))
        return found
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    heads, rows = found.cells()
    shown = Table(title=f"{found.recipe}: {len(rows)} points, mean (95% interval)", title_justify="left")
    for place, head in enumerate(heads):
        shown.add_column(head, overflow="fold", justify="right" if place > 1 else "left")
    for row in rows:
        shown.add_row(*map(Text, row), style="bold" if row[0] else "")
    console = Console(highlight=False)
    console.print(shown)
    for remark in found.remarks:
        console.print(remark, soft_wrap=True, markup=False)
    console.print(f"best by    {found.choice.words}", soft_wrap=True)
    for note in found.notes:
        console.print(f"note       {note}", soft_wrap=True, markup=False)
    if found.best is None:
        console.print("no point has finished with every seed yet", soft_wrap=True)
    else:
        point = found.rows[found.best].point
        console.print(
            f"the best   thinkrl run {found.recipe} {' '.join([*planned.asked.fixed, *point])}",
            soft_wrap=True,
            markup=False,
        )
    return found


def leave_results(planned: "Sweep", found: "SweepTable", quiet: bool) -> None:
    """Writes the table and the page of all runs into the sweep's folder."""
    import json

    from thinkrl.reports.writing import NAME, try_page
    from thinkrl.sweeps.table import PAGE, RESULTS
    from thinkrl.tracking.atomic import write_text

    folder = planned.folder.path
    write_text(folder / RESULTS, json.dumps(found.as_json(), indent=1, ensure_ascii=False) + "\n")
    write_text(folder / PAGE, found.markdown())
    typer.echo(f"{'results':<10} {folder / PAGE}", err=quiet)
    runs = [run for run in (planned.folder.run(state.name) for state in planned.folder.states()) if run.is_dir()]
    began = [run for run in runs if (run / "run.json").is_file()]
    if began and try_page(began, folder / NAME):
        typer.echo(f"{'report':<10} {folder / NAME}", err=quiet)


def _rule(given: list[str] | None) -> "StoppingRule | None":
    """The rule that `--stop median --stop after=20` names."""
    if not given:
        return None
    from thinkrl.config.build import build
    from thinkrl.config.compose import compose
    from thinkrl.config.paths import conf_dir
    from thinkrl.sweeps.stopping import Stopping

    settings = [f"stopping.{text}" if "=" in text else f"stopping={text}" for text in given]
    composed = compose(conf_dir() / "sweep.yaml", settings)
    return build(Stopping, composed.tree, composed).stopping
