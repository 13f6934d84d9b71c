"""`thinkrl list`: the recipes and the choices of each configuration group, a line each."""

import ast
import importlib.util
import re
from pathlib import Path
from typing import Annotated

import typer

from thinkrl.cli.arguments import RecipesDirs
from thinkrl.config.component import ConfigError
from thinkrl.config.nearest import suggestion
from thinkrl.config.paths import conf_dir, list_recipes

EXAMPLES = """Examples:

thinkrl list

thinkrl list recipes

thinkrl list rewards"""

_TARGET = re.compile(r"^_target_:\s*['\"]?([\w.]+)", re.MULTILINE)
_PLURALS = {"data": "data"}


def complete_kind(incomplete: str) -> list[str]:
    """Kinds that begin with what was typed."""
    return [kind for kind in kinds() if kind.startswith(incomplete)]


def kinds() -> dict[str, str]:
    """What can be listed, in the plural, with the group that it is (`recipes` is no group)."""
    groups = sorted(folder.name for folder in conf_dir().iterdir() if folder.is_dir())
    return {"recipes": ""} | {_PLURALS.get(group, f"{group}s"): group for group in groups}


def list_kinds(
    kind: Annotated[
        str | None,
        typer.Argument(help="recipes, models, rewards, ...; all when left out.", autocompletion=complete_kind),
    ] = None,
    recipes_dir: RecipesDirs = None,
) -> None:
    """List recipes and the choices of each configuration group."""
    from rich.console import Console
    from rich.table import Table

    known = kinds()
    wanted = list(known) if kind is None else [_kind(kind, known)]
    console = Console()
    for name in wanted:
        group = known[name]
        rows = group_rows(group) if group else recipe_rows(recipes_dir or [])
        heading = f"[bold]{name}[/bold]" + (f"  [dim]{group}=NAME[/dim]" if group else "  [dim]thinkrl run NAME[/dim]")
        console.print(heading)
        table = Table.grid(padding=(0, 2))
        for row in rows:
            table.add_row("", *row)
        console.print(table if rows else "  none")


def _kind(kind: str, known: dict[str, str]) -> str:
    for name, group in known.items():
        if kind in (name, group or "recipe"):
            return name
    raise ConfigError(f"there is no kind {kind!r}: {suggestion(kind, known)}")


def recipe_rows(recipes_dirs: list[Path]) -> list[tuple[str, str]]:
    """Name and description of each recipe."""
    return [(recipe.id, describe(recipe.path)) for recipe in list_recipes(recipes_dirs)]


def group_rows(group: str) -> list[tuple[str, str]]:
    """Name and description of each choice of a group."""
    root = conf_dir() / group
    paths = sorted(root.rglob("*.yaml"))
    return [(path.relative_to(root).with_suffix("").as_posix(), describe(path)) for path in paths]


def describe(path: Path) -> str:
    """The first comment line of a YAML file, else the first docstring line of the class it names."""
    text = path.read_text(encoding="utf-8")
    for line in text.splitlines():
        comment = line.lstrip("# ").strip()
        if line.startswith("#") and comment and not comment.startswith("@"):
            return comment
        if line.strip() and not line.startswith("#"):
            break
    target = _TARGET.search(text)
    return docstring_line(target[1]) if target else ""


def docstring_line(target: str) -> str:
    """First docstring line of `module.Class`, read from the source without importing the module."""
    module, _, name = target.rpartition(".")
    try:
        spec = importlib.util.find_spec(module)
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8")) if spec and spec.origin else ast.Module([], [])
    except (ImportError, ValueError, OSError, SyntaxError):
        return ""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return (ast.get_docstring(node) or "").partition("\n")[0]
    return ""
