"""`thinkrl reproduce`: method against baseline on an equal budget, and a verdict with an interval."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thinkrl.cli.arguments import Overrides, RecipesDirs, complete_recipe
from thinkrl.config.component import ConfigError

if TYPE_CHECKING:
    from thinkrl.config.composed import Composed
    from thinkrl.reproduction.arms import ArmRun
    from thinkrl.reproduction.claim import Claim
    from thinkrl.reproduction.verdicts import Outcome
    from thinkrl.stages.experiment import Experiment

EXAMPLES = """Examples:

thinkrl reproduce quickstart

thinkrl reproduce quickstart --seeds 3,4,5 --jobs 2

thinkrl reproduce quickstart scale=smoke --seeds 0

thinkrl reproduce laser --scale paper --dry-run

thinkrl reproduce --table"""


def reproduce(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="[RECIPE|PATH]",
            help="A recipe that states a claim; NAME/paper for its full-size form.",
            autocompletion=complete_recipe,
            show_default=False,
        ),
    ] = None,
    overrides: Overrides = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds, such as 0,1,2; by default those of the claim.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 1,
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Where the runs go; by default runs/RECIPE/reproduce.")
    ] = None,
    scale: Annotated[
        str | None, typer.Option(help="`paper` for the full-size form: says what it needs, and runs it where it fits.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Run the full-size form also where it does not fit.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the runs and the checks, and stop.")] = False,
    table: Annotated[bool, typer.Option("--table", help="Write docs/reproductions.md anew, and stop.")] = False,
    recipes_dir: RecipesDirs = None,
) -> None:
    """Run a recipe's claim: all arms and seeds, then the verdict. The same command goes on where it stopped."""
    if table:
        write_table()
        return
    if recipe is None:
        raise ConfigError("name a recipe: thinkrl reproduce RECIPE (thinkrl list recipes)")
    from thinkrl.cli.paper_scale import claim_at_paper_scale, say_needs
    from thinkrl.config.build import build
    from thinkrl.config.compose import compose
    from thinkrl.reproduction.arms import plan_runs, run_all
    from thinkrl.stages.experiment import Experiment

    name = _scaled(recipe, scale)
    composed = compose(name, overrides or (), recipes_dir or ())
    experiment = build(Experiment, composed.tree, composed)
    full_size = scale == "paper" or composed.recipe_path.stem == "paper"
    claim = claim_at_paper_scale(experiment, composed, recipes_dir or ()) if full_size else experiment.claim
    if claim is None or not claim.checks:
        raise ConfigError(
            f"{composed.recipe_id} states no claim that can be checked: its `claim` needs arms and checks"
        )
    chosen = _seeds(seeds) if seeds else claim.seeds
    folder = directory or Path("runs") / composed.recipe_id.replace("/", "_") / _folder(composed)
    runs = plan_runs(claim, chosen, composed.overrides, folder, jobs)
    for arm, changes in claim.arms.items():  # a mistake in an arm ends the command before any arm runs
        arm_composed = compose(name, [*composed.overrides, *changes], recipes_dir or ())
        build(Experiment, arm_composed.tree, arm_composed)
        typer.echo(f"{arm}: {' '.join(changes) or 'the recipe as it is'}")
    if full_size:
        typer.echo(f"{composed.recipe_id} needs:")
        lacking = say_needs(experiment, composed, claim, chosen)
        if lacking and not dry_run and not force:
            raise ConfigError(f"this machine cannot run {composed.recipe_id}: {lacking} (--force runs it all the same)")
    if dry_run:
        for run in runs:
            typer.echo(f"  {run} in {run.directory}")
        typer.echo("nothing was run (--dry-run)")
        return
    run_all(runs, name, recipes_dir or (), jobs, typer.echo)

    from thinkrl.reproduction.verdicts import decide_claim, read_runs

    finished = read_runs(claim, chosen, {(run.arm, run.seed): run.directory for run in runs})
    outcome = decide_claim(claim, chosen, finished)
    print_outcome(claim, outcome)
    _write(experiment, composed, claim, chosen, outcome, folder)
    _report(runs, folder)


def write_table() -> None:
    """Writes the page of all recipes' results."""
    from thinkrl.config.paths import recipes_dir
    from thinkrl.reproduction.table import table
    from thinkrl.tracking.atomic import write_text

    page = recipes_dir().parent / "docs" / "reproductions.md"
    if not page.parent.is_dir():
        raise ConfigError(f"{page.parent} is not there: the page is written in a checkout of thinkrl")
    write_text(page, table(recipes_dir()))
    typer.echo(f"wrote {page}")


def _scaled(recipe: str, scale: str | None) -> str:
    if scale is None:
        return recipe
    if scale != "paper":
        raise ConfigError(f"--scale must be paper, got '{scale}'; write scale={scale} for a configuration group")
    from thinkrl.cli.paper_scale import paper_form

    return paper_form(recipe)


def _seeds(text: str) -> tuple[int, ...]:
    try:
        seeds = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--seeds must be whole numbers with commas between them, got '{text}'") from None
    if len(set(seeds)) != len(seeds):
        raise ConfigError(f"--seeds must be different numbers, got '{text}'")
    return seeds


def _folder(composed: "Composed") -> str:
    """`reproduce`, with the overrides that apply to all arms."""
    from thinkrl.tracking.names import run_name

    others = tuple(override for override in composed.overrides if not override.startswith("seed="))
    return "reproduce" if not others else run_name("s", others).replace("seeds", "reproduce", 1)


def print_outcome(claim: "Claim", outcome: "Outcome") -> None:
    """Prints every check with its interval, what the arms spent, and the verdict."""
    from rich.console import Console

    console = Console(highlight=False)
    console.print(claim.statement, style="bold")
    for name, decided in outcome.checks.items():
        check, estimate = decided.check, decided.estimate
        sign, bound = ("at least", check.at_least) if check.at_least is not None else ("at most", check.at_most)
        method, baseline = (_side(check.arm, check.stage), _side(check.against, check.other_stage))
        console.print(f"\n{name}: {check.statement}: [bold]{decided.verdict}[/bold]")
        against = f"{check.against_metric} " if check.against_metric else ""
        console.print(
            f"  {check.metric} {decided.means[0]:.4g} ({method}) against {against}{decided.means[1]:.4g} ({baseline})"
        )
        console.print(
            f"  {check.compare} {estimate.value:.3g}, 95% interval {estimate.low:.3g} to {estimate.high:.3g},"
            f" claimed {sign} {bound:g}"
        )
        console.print("  by seed: " + ", ".join(f"{value:.3g}" for value in estimate.per_seed))
        if check.paper:
            console.print(f"  paper: {check.paper.value} ({check.paper.source})")
    console.print()
    for arm, spent in outcome.spent.items():
        console.print(f"{arm}: " + ", ".join(f"{amount:,.0f} {name}" for name, amount in spent.items()), soft_wrap=True)
    for line in outcome.unequal:
        console.print(f"[yellow]unequal budget[/yellow] {line}", soft_wrap=True)
    console.print(f"verdict: [bold]{outcome.verdict}[/bold]")


def _side(arm: str, stage: str | None) -> str:
    return f"{arm}, {stage}" if stage else arm


def _write(
    experiment: "Experiment",
    composed: "Composed",
    claim: "Claim",
    seeds: tuple[int, ...],
    outcome: "Outcome",
    folder: Path,
) -> None:
    """Writes results beside the runs, and beside the recipe when nothing was changed on the command line."""
    from thinkrl.reproduction.table import PAPER_RESULTS, RESULTS
    from thinkrl.reproduction.verdicts import results_record
    from thinkrl.tracking.atomic import write_text
    from thinkrl.tracking.json_values import dump_json

    paper = experiment.paper
    record = results_record(
        composed.recipe_id, paper.title if paper else "", paper.arxiv if paper else "",
        claim, seeds, composed.overrides, outcome,
    )  # fmt: skip
    places = [folder / RESULTS]
    if not composed.overrides and seeds == claim.seeds:
        full_size = composed.recipe_path.stem == "paper"
        places.append(composed.recipe_path.parent / (PAPER_RESULTS if full_size else RESULTS))
    record["analysis"] = record["analysis"] or _kept_analysis(places[-1])
    text = json.dumps(json.loads(dump_json(record)), indent=1, ensure_ascii=False) + "\n"
    for place in places:
        write_text(place, text)
        typer.echo(f"{'results' if place is places[0] else '':<14} {place}")


def _kept_analysis(path: Path) -> str:
    """What earlier results say was learned, where the claim itself says nothing."""
    try:
        record: Any = json.loads(path.read_text(encoding="utf-8"))
        return str(record.get("analysis") or "")
    except (OSError, ValueError, AttributeError):
        return ""


def _report(runs: "list[ArmRun]", folder: Path) -> None:
    """Writes the page of all arms beside the results."""
    from thinkrl.reports.writing import NAME, try_page

    if try_page([run.directory for run in runs], folder / NAME):
        typer.echo(f"{'report':<14} {folder / NAME}")
