"""The arguments that several commands share, with their completion."""

from pathlib import Path
from typing import Annotated

import typer

from thinkrl.config.paths import conf_dir, list_recipes, names_of


def complete_recipe(incomplete: str) -> list[str]:
    """Recipe names that begin with what was typed."""
    names = sorted({name for recipe in list_recipes() for name in names_of(recipe)})
    return [name for name in names if name.startswith(incomplete)]


def complete_override(incomplete: str) -> list[str]:
    """Group choices (`model=`, then `model=tiny`) and the most used keys that begin with what was typed."""
    groups = {folder.name: folder for folder in conf_dir().iterdir() if folder.is_dir()}
    group, chosen, option = incomplete.partition("=")
    if not chosen:
        return [f"{name}=" for name in sorted([*groups, "seed"]) if name.startswith(incomplete)]
    if group not in groups:
        return []
    return [f"{group}={path.stem}" for path in sorted(groups[group].glob("*.yaml")) if path.stem.startswith(option)]


Recipe = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE|PATH",
        help="A recipe's name (thinkrl list recipes), NAME/paper for its full-size form, or a YAML file.",
        autocompletion=complete_recipe,
        show_default=False,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Overrides in Hydra's grammar: seed=1, model=tiny, stages.grpo.steps=50, reward.terms.x={...}, ~key.",
        autocompletion=complete_override,
        show_default=False,
    ),
]
RecipesDirs = Annotated[
    list[Path] | None,
    typer.Option("--recipes-dir", help="A folder with your own recipes; may be repeated.", file_okay=False),
]
