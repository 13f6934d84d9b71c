"""What `thinkrl reproduce --scale paper` says before it runs anything, and when it refuses."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from thinkrl.cli.plan import duration, gib
from thinkrl.config.component import ConfigError

if TYPE_CHECKING:
    from thinkrl.config.composed import Composed
    from thinkrl.planning.plan import Plan
    from thinkrl.reproduction.claim import Claim
    from thinkrl.stages.experiment import Experiment


def paper_form(recipe: str) -> str:
    """The full-size form of what names a recipe: an id, a folder or a file."""
    path = Path(recipe)
    if path.suffix in (".yaml", ".yml"):
        return str(path.with_name("paper.yaml")) if path.stem == "laptop" else recipe
    if path.name == "paper":
        return recipe
    return str(path / "paper.yaml") if path.is_dir() else f"{recipe}/paper"


def claim_at_paper_scale(
    experiment: "Experiment", composed: "Composed", recipes_dirs: Sequence[Path]
) -> "Claim | None":
    """The paper form's own claim, else what of the laptop form's can be checked there; says what cannot, and why."""
    if experiment.claim is not None and experiment.claim.checks:
        return experiment.claim
    laptop_path = composed.recipe_path.with_name("laptop.yaml")
    if composed.recipe_path.stem != "paper" or not laptop_path.is_file():
        return None
    from thinkrl.config.build import build
    from thinkrl.config.compose import compose
    from thinkrl.reproduction.paper_scale import fit_claim
    from thinkrl.stages.experiment import Experiment

    laptop = compose(laptop_path, (), recipes_dirs)
    stated = build(Experiment, laptop.tree, laptop).claim
    if stated is None:
        return None
    fitted, missing = fit_claim(stated, laptop.tree, composed.tree)
    typer.echo(f"{composed.recipe_id} states no claim of its own: that of {laptop.recipe_id} is checked")
    for line in missing:
        typer.echo(f"  left out: {line}")
    if not fitted.checks:
        raise ConfigError(
            f"no check of {laptop.recipe_id} can be made on {composed.recipe_id} (reasons above): give the paper form a"
            f" `claim`, or run it alone with thinkrl run {composed.recipe_id}"
        )
    return fitted


def say_needs(experiment: "Experiment", composed: "Composed", claim: "Claim", seeds: Sequence[int]) -> str:
    """Prints what the full-size runs need; returns why this machine cannot do them, or nothing when it can.

    Nothing is loaded but a tokenizer and prompts that are here already.
    """
    from thinkrl.data.hub import without_downloads
    from thinkrl.planning.downloads import needs
    from thinkrl.planning.hardware import find_hardware
    from thinkrl.planning.plan import make_plan

    read = needs(composed.tree)
    for need in read:
        typer.echo(f"  {need}")
    count = len(claim.arms) * len(seeds)
    typer.echo(f"  runs: {count} ({len(claim.arms)} arms x {len(seeds)} seeds)")
    absent = [f"{need.name} is missing" for need in read if need.kind == "file" and not need.here]
    try:
        hardware = find_hardware(None, dtype=getattr(experiment.model, "dtype", "bfloat16"))
        with without_downloads():
            made = make_plan(experiment, hardware)
    except ConfigError as error:
        typer.echo(f"  memory and time: {error}")
        return "; ".join([*absent, f"it cannot be told whether it fits: {error}"])
    return "; ".join([*absent, *_say_plan(made, count)])


def _say_plan(made: "Plan", count: int) -> list[str]:
    """Prints memory and time of the method's runs on this machine; returns why they do not fit."""
    largest = made.largest
    typer.echo(f"  hardware: {made.hardware.name}")
    fits = "fits" if made.fits else "does not fit"
    peak, there = gib(largest.memory.peak), gib(made.hardware.memory)
    typer.echo(f"  memory: {peak} at the peak of {largest.name}, of {there}: {fits}")
    typer.echo(
        f"  time: about {duration(made.seconds)} a run, {duration(count * made.seconds)} for all, by the method's"
        " sizes; responses as long as their limit, loading left out (thinkrl plan says more)"
    )
    reasons = []
    if not made.fits:
        stage = next(stage for stage in made.stages if not stage.fits)
        fix = f"; it would fit with {' '.join(stage.changes)}" if stage.changes else ""
        reasons.append(f"{stage.name} needs {gib(stage.memory.peak)} and there are {gib(made.hardware.memory)}{fix}")
    wanted = {note for stage in made.stages for note in stage.notes if note.startswith("needs ")}
    return [*reasons, *sorted(wanted)]
