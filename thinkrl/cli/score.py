"""`thinkrl score`: a recipe's reward and advantage on responses from a file, without its model."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thinkrl.cli.arguments import Overrides, Recipe, RecipesDirs
from thinkrl.config.component import ConfigError, UserError

if TYPE_CHECKING:
    from thinkrl.config.composed import Composed
    from thinkrl.data.responses import GivenResponse
    from thinkrl.stages.scored_stage import ScoredStage

EXAMPLES = """Examples:

thinkrl score quickstart responses.jsonl

thinkrl score quickstart responses.jsonl reward.terms.format.weight=0.5 --step 30 --total-steps 60 --json

thinkrl score --signals quickstart

A line of the file: {"prompt_id": "a", "response": "<think>1+1=2</think><answer>2</answer>", "reference": 2}"""


def score(
    recipe: Recipe,
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE",
            help="JSON lines, one response each: prompt_id and response; optional: response_id, prompt (text or"
            " messages), reference, finish_reason (stop or length), token_count, signals, metadata. - reads"
            " standard input.",
            show_default=False,
        ),
    ] = None,
    overrides: Overrides = None,
    stage: Annotated[
        str | None, typer.Option("--stage", help="The stage whose reward is taken; by default the last with one.")
    ] = None,
    step: Annotated[int, typer.Option("--step", min=1, help="Step of the stage, from 1, that schedules stand at.")] = 1,
    total_steps: Annotated[
        int | None,
        typer.Option("--total-steps", min=1, help="Steps of the stage, by default its own; the last is --step N."),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option("--state", help="JSON file of what terms remember: read where it is there, then written."),
    ] = None,
    signals: Annotated[
        bool, typer.Option("--signals", help="List the signals that the recipe reads of models, and stop.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines, in the order of the file.")] = False,
    recipes_dir: RecipesDirs = None,
) -> None:
    """Score responses from a file with a recipe's reward and advantage, without loading its model."""
    # Only FILE may be left out, so an override can stand in its place.
    if file is not None and "=" in file and not Path(file).exists():
        overrides, file = [file, *(overrides or ())], None
    if file is None and not signals:
        raise ConfigError(
            "name a file of responses: thinkrl score RECIPE FILE (thinkrl score --help says what it holds)"
        )
    if file is not None and signals:
        raise ConfigError(f"--signals lists what a recipe reads and takes no file, got {file}")
    composed, chosen = _open(recipe, overrides or (), recipes_dir or (), stage)
    if file is None:
        _print_signals(composed, chosen, as_json)
        return
    from thinkrl.data.responses import read_responses
    from thinkrl.stages.scored_stage import load_tokenizer, stage_steps
    from thinkrl.stages.scoring import score_responses

    known = total_steps or stage_steps(composed, chosen.name)
    if known is None and step > 1:
        raise ConfigError(f"--step {step} needs --total-steps: how many stage {chosen.name} has depends on its data")
    total = known or 1
    if step > total:
        advice = "" if total_steps else f"; stage {chosen.name} has {total}, so give --total-steps"
        raise ConfigError(f"--step must be at most --total-steps, got {step} of {total}{advice}")
    given = read_responses(Path(file))
    _warn(given, chosen)
    memory = _read_state(state, chosen) if state is not None else {}
    scored = score_responses(
        chosen, given, step=step, total_steps=total, state=memory, tokenizer=lambda: load_tokenizer(composed)
    )
    if state is not None:
        _write_state(state, memory)
    if as_json:
        for response in scored.responses:
            typer.echo(json.dumps(asdict(response), allow_nan=False))
        return
    from rich.console import Console

    from thinkrl.cli.score_table import print_scores

    title = f"{composed.recipe_id}, stage {chosen.name}, step {step} of {total}"
    print_scores(Console(highlight=False), scored, title, with_advantage=chosen.estimator is not None)


def _open(
    recipe: str, overrides: Sequence[str], recipes_dirs: Sequence[Path], stage: str | None
) -> "tuple[Composed, ScoredStage]":
    """The composed recipe and the stage to score with.

    The whole recipe is built only where that can change or refuse something: a scale with limits, or an
    override beyond reward and advantage. It imports torch, which takes longer than everything else here.
    """
    from thinkrl.config.build import build
    from thinkrl.config.compose import compose
    from thinkrl.stages.scored_stage import build_stage, choose_stage, overrides_are_read

    composed = compose(recipe, overrides, recipes_dirs, completed=False)
    name = choose_stage(composed, stage)
    if (composed.tree.get("scale") or {}).get("limits") or not overrides_are_read(composed, name):
        composed = compose(recipe, overrides, recipes_dirs)
        from thinkrl.stages.experiment import Experiment

        build(Experiment, composed.tree, composed)
    return composed, build_stage(composed, name)


def _warn(given: "Sequence[GivenResponse]", stage: "ScoredStage") -> None:
    """Says on standard error what the file holds in vain, and what a reader may miss."""
    from thinkrl.config.nearest import suggestion
    from thinkrl.rollouts.signals import ROLLOUT_SIGNALS

    known = stage.signals()
    for name in sorted({name for one in given for name in one.signals} - known.keys() - ROLLOUT_SIGNALS.keys()):
        hint = suggestion(name, known) if known else "it reads none"
        typer.echo(f"warning: no part of stage {stage.name} declares the signal {name!r}; {hint}", err=True)
    without = {one.prompt.prompt_id for one in given if not one.prompt.messages}
    if without:
        count = f"{len(without)} prompt{'s' * (len(without) > 1)} of {len({one.prompt.prompt_id for one in given})}"
        typer.echo(f"warning: {count} without text: terms that read the question see none", err=True)


def _read_state(path: Path, stage: "ScoredStage") -> dict[str, Any]:
    """What the terms remember, by term; nothing where the file is not there yet."""
    from thinkrl.config.nearest import suggestion
    from thinkrl.tracking.json_values import load_json

    if not path.exists():
        return {}
    try:
        state = load_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"--state: {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"--state: {path} is not JSON: {error}; delete it to begin anew") from error
    if not isinstance(state, dict) or not all(isinstance(memory, dict) for memory in state.values()):
        raise UserError(f"--state: {path} must hold an object with an object for each term; delete it to begin anew")
    for name in state:
        if name not in stage.reward.terms:
            raise UserError(
                f"--state: {path} remembers the term {name!r}, which stage {stage.name} has not:"
                f" {suggestion(name, stage.reward.terms)}"
            )
    return state


def _write_state(path: Path, memory: dict[str, Any]) -> None:
    from thinkrl.tracking.atomic import write_text
    from thinkrl.tracking.json_values import dump_json

    write_text(path, dump_json(memory) + "\n")


def _print_signals(composed: "Composed", stage: "ScoredStage", as_json: bool) -> None:
    from thinkrl.rewards.signals import FORMS

    rows = [
        {
            "name": name,
            "meaning": reading.signal.meaning,
            "form": FORMS[reading.signal.shape],
            "read_by": list(reading.readers),
        }
        for name, reading in stage.signals().items()
    ]
    if as_json:
        for row in rows:
            typer.echo(json.dumps(row))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not rows:
        typer.echo(f"{composed.recipe_id}, stage {stage.name}, reads no signals: texts and references are enough")
        return
    table = Table("signal", "what it is", "for each response", "read by", title_justify="left")
    table.title = f"{composed.recipe_id}, stage {stage.name}"
    for row in rows:
        table.add_row(*(Text(text if isinstance(text, str) else ", ".join(text)) for text in row.values()))
    Console(highlight=False).print(table)
    typer.echo(f'in the file: "signals": {{"{rows[0]["name"]}": ...}}, null where there is none')
