"""`thinkrl show`: what a recipe is, without loading anything."""

from collections.abc import Mapping
from typing import Any

from thinkrl.cli.arguments import Overrides, Recipe, RecipesDirs

EXAMPLES = """Examples:

thinkrl show quickstart

thinkrl show quickstart/paper"""

_SIZES = ("steps", "epochs", "prompts", "batch_prompts", "group_size", "samples")


def show(recipe: Recipe, overrides: Overrides = None, recipes_dir: RecipesDirs = None) -> None:
    """Show a recipe's paper, claim, deviations and stages."""
    from rich.console import Console, Group
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    from thinkrl.config.compose import compose

    composed = compose(recipe, overrides or (), recipes_dir or (), completed=False)
    tree = composed.tree
    parts: list[Any] = []
    paper = tree.get("paper")
    if isinstance(paper, Mapping):
        parts.append(Text(str(paper.get("title", "")), style="bold"))
        if paper.get("arxiv"):
            parts.append(Text(f"https://arxiv.org/abs/{paper['arxiv']}", style="blue"))
        if paper.get("summary"):
            parts.append(Text(str(paper["summary"]).strip()))
    if isinstance(tree.get("claim"), Mapping):
        parts += [Text(line) for line in _claim_lines(tree["claim"])]
    deviations = tree.get("deviations") or []
    if deviations:
        parts.append(Text("\nDeviations from the paper:"))
        parts += [Text(f"  - {describe_value(deviation)}") for deviation in deviations]
    console = Console()
    console.print(Panel(Group(*parts) if parts else "no description", title=composed.recipe_id, title_align="left"))
    table = Table("", "stage", "kind", "sizes", "what it is")
    for number, (name, stage) in enumerate(_stages(tree), start=1):
        table.add_row(str(number), name, *_stage_columns(stage))
    console.print(table)
    console.print(f"[dim]{composed.recipe_path}[/dim]", highlight=False, soft_wrap=True)


def describe_value(value: Any) -> str:
    """A descriptive value in one piece of text."""
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {describe_value(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(describe_value, value))
    return str(value).strip()


def _claim_lines(claim: Mapping[str, Any]) -> list[str]:
    """The claim, its arms, and what each check compares."""
    lines = [f"\nClaim: {describe_value(claim.get('statement', ''))}"]
    arms = claim.get("arms")
    for name, changes in arms.items() if isinstance(arms, Mapping) else ():
        lines.append(f"  arm {name}: {' '.join(map(str, changes or [])) or 'the recipe as it is'}")
    checks = claim.get("checks")
    for name, check in checks.items() if isinstance(checks, Mapping) else ():
        lines.append(f"  check {name}: {describe_value(check.get('statement', ''))}")
    return lines


def _stages(tree: Mapping[str, Any]) -> list[tuple[str, Any]]:
    stages = tree.get("stages")
    return [(str(name), stage) for name, stage in stages.items()] if isinstance(stages, Mapping) else []


def _stage_columns(stage: Any) -> tuple[str, str, str]:
    from thinkrl.cli.listing import docstring_line

    if not isinstance(stage, Mapping):
        return "", "", ""
    target = str(stage.get("_target_", ""))
    sizes = ", ".join(f"{key} {stage[key]}" for key in _SIZES if isinstance(stage.get(key), int))
    return target.rpartition(".")[2], sizes, docstring_line(target)
