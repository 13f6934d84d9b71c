"""`thinkrl plan`: whether a recipe fits given hardware, and about how long it takes, before anything is loaded."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from thinkrl.cli.arguments import Overrides, Recipe, RecipesDirs
from thinkrl.config.component import ConfigError
from thinkrl.config.nearest import suggestion

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from thinkrl.planning.plan import Plan, StagePlan

EXAMPLES = """Examples:

thinkrl plan quickstart

thinkrl plan quickstart model=qwen2_5_7b --hardware 8xh100-80gb

thinkrl plan my/recipe.yaml learner.micro_batch_tokens=8192 --hardware 1xl40s --stage grpo --json"""


def plan(
    recipe: Recipe,
    overrides: Overrides = None,
    hardware: Annotated[
        str | None,
        typer.Option(
            "--hardware",
            metavar="[COUNTx]NAME[-MEMORYgb]",
            help="8xh100-80gb, 2xh200, a100-40gb, cpu ...; by default this machine's GPUs, else its processor.",
        ),
    ] = None,
    stage: Annotated[
        str | None, typer.Option("--stage", metavar="NAME", help="The stage to show in parts; else the largest.")
    ] = None,
    response_tokens: Annotated[
        float | None,
        typer.Option("--response-tokens", min=1, help="Mean length of responses, for the time; else their limit."),
    ] = None,
    measure: Annotated[
        bool,
        typer.Option("--measure/--no-measure", help="Time this machine's processor for a second, or assume rates."),
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: every stage, in bytes and seconds.")] = False,
    recipes_dir: RecipesDirs = None,
) -> None:
    """Plan a recipe: memory by part, whether it fits, tokens a step, and a time estimate with its assumed rates."""
    from thinkrl.config.build import build
    from thinkrl.config.compose import compose

    composed = compose(recipe, overrides or (), recipes_dir or ())
    from thinkrl.stages.experiment import Experiment

    experiment = build(Experiment, composed.tree, composed)
    if stage is not None and stage not in experiment.stages:
        raise ConfigError(f"--stage: there is no stage {stage!r}: {suggestion(stage, experiment.stages)}")
    from thinkrl.planning.hardware import find_hardware
    from thinkrl.planning.plan import make_plan

    dtype = getattr(experiment.model, "dtype", "bfloat16")
    made = make_plan(experiment, find_hardware(hardware, dtype=dtype, measure=measure), response_tokens)
    if as_json:
        typer.echo(json.dumps(made.as_json(), indent=2))
        return
    from rich.console import Console

    shown = next((planned for planned in made.stages if planned.name == stage), None)
    if stage is not None and shown is None:
        raise ConfigError(f"--stage: {stage} is of a kind that cannot be sized: {', '.join(made.skipped)}")
    print_plan(made, shown or made.largest, Console())


def print_plan(made: "Plan", shown: "StagePlan", console: "Console") -> None:
    """Prints the stages in a table, then one of them by part, then what was assumed."""
    billions = made.shape.parameters / 1e9
    console.print(f"[bold]{made.recipe}[/bold] with {made.model} ({billions:.3g} B, {made.dtype})", highlight=False)
    console.print(f"on {made.hardware.name}", highlight=False)
    console.print(_stages(made, narrow=console.width < _NARROW))
    console.print(_memory(shown))
    console.print(_time(shown))
    if not shown.fits:
        free = f"{gib((1 - made.margin) * made.hardware.memory)} ({made.margin:.0%} kept free)"
        console.print(f"[red]{shown.name} does not fit[/red] {free}.", highlight=False)
        fix = " ".join(shown.changes) if shown.changes else "none of the known changes: more or larger devices"
        console.print(f"would fit with: {fix}", highlight=False)
    for note in shown.notes:
        console.print(f"note: {note}", highlight=False)
    if made.skipped:
        console.print(f"not sized: {', '.join(made.skipped)}", highlight=False)
    console.print(_assumed(made, shown), style="dim", highlight=False)


def _stages(made: "Plan", narrow: bool) -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, title_justify="left")
    headings = ["stage", "peak", "fits", "tokens/step", "step", "steps", "time"]
    for heading in headings:
        if not (narrow and heading in _LEFT_OUT):
            table.add_column(heading, justify="left" if heading in ("stage", "fits") else "right", no_wrap=True)
    rows = [(planned.name, planned.memory.peak, planned.fits, planned.time) for planned in made.stages]
    for name, peak, fits, time in rows:
        tokens = time.sampled_tokens or time.learned_tokens
        cells = [name, gib(peak), _yes(fits), count(tokens), duration(time.step), str(time.steps), duration(time.stage)]
        table.add_row(*_shown(headings, cells, narrow))
    last = ["all", gib(made.largest.memory.peak), _yes(made.fits), "", "", "", duration(made.seconds)]
    table.add_row(*_shown(headings, last, narrow), style="bold")
    return table


_NARROW = 72
_LEFT_OUT = ("step", "steps")
"""Columns of the stages that a narrow terminal has no room for."""


def _shown(headings: list[str], cells: list[str], narrow: bool) -> list[str]:
    return [cell for heading, cell in zip(headings, cells, strict=True) if not (narrow and heading in _LEFT_OUT)]


def _yes(fits: bool) -> str:
    return "yes" if fits else "[red]no[/red]"


def _memory(shown: "StagePlan") -> "Table":
    from rich.table import Table

    memory = shown.memory
    table = Table(box=None, pad_edge=False, title=f"\nmemory of {shown.name} at its peak ({PHASES[memory.phase]})",
                  title_justify="left")  # fmt: skip
    table.add_column("part", no_wrap=True)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("", style="dim")
    for part in memory.at_peak:
        table.add_row(part.name, gib(part.bytes), part.note)
    table.add_row("peak", gib(memory.peak), "", style="bold")
    others = [part for part in memory.parts if part not in memory.at_peak]
    for part in others:
        when = "main memory" if part.host else f"not at the peak: {PHASES[part.phase]}"
        table.add_row(part.name, gib(part.bytes), when if not part.note else f"{when}; {part.note}", style="dim")
    return table


def _time(shown: "StagePlan") -> "Table":
    from rich.table import Table

    time = shown.time
    table = Table(box=None, pad_edge=False, title=f"\ntime of a step of {shown.name}", title_justify="left")
    table.add_column("part", no_wrap=True)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("", style="dim")
    tokens = {
        "reading prompts": f"{count(time.prompt_tokens)} tokens",
        "sampling": f"{count(time.sampled_tokens)} tokens",
        "forward": f"{count(time.learned_tokens)} tokens",
    }
    for name, seconds in time.seconds.items():
        if seconds > 0:
            table.add_row(name, duration(seconds), tokens.get(name, ""))
    table.add_row("step", duration(time.step), "", style="bold")
    return table


def _assumed(made: "Plan", shown: "StagePlan") -> str:
    hardware, shares = made.hardware, shown.time.assumptions
    lengths = f"prompts of {shown.work.prompt.mean:.0f} tokens ({shown.work.prompt.source})"
    return (
        f"Assumed: {hardware.flops / 1e12:.3g} TFLOP/s of {made.dtype} products and {hardware.bandwidth / 1e9:.0f} GB/s"
        f" a device ({hardware.source}), of which learning reaches {shares['learning']:.0%}, reading prompts"
        f" {shares['prefill']:.0%}, sampling {shares['decode_products']:.0%} of the products or"
        f" {shares['decode_bandwidth']:.0%} of the bandwidth; {shares['disk'] / 1e9:.1f} GB/s to disk; {lengths};"
        f" responses of {shown.work.response.mean:.0f} tokens ({shown.work.response.source}). Loading, rewards and"
        " communication between devices are not counted."
    )


PHASES = {
    "always": "always",
    "running": "from the first step on",
    "update": "in an update",
    "sample": "while sampling",
    "checkpoint": "while a checkpoint is written",
    "export": "while the model is saved",
    "load": "while loading",
}


def gib(size: float) -> str:
    """Bytes for people: `512 MiB`, `4.7 GiB`."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def count(number: float) -> str:
    """A count for people: `704`, `28.2k`, `1.3M`."""
    for unit, name in ((1e6, "M"), (1e4, "k")):
        if number >= unit:
            return f"{number / (1e6 if name == 'M' else 1e3):.1f}{name}"
    return f"{number:.0f}"


def duration(seconds: float) -> str:
    """Seconds for people: `0.21 s`, `14 s`, `3:05 min`, `1.4 h`, `2.1 days`."""
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)}:{int(seconds % 60):02d} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
