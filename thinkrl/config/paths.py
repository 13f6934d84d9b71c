"""Where configuration lives: the groups in `conf/`, the recipes, and the recipes of the user."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from thinkrl.config.component import ConfigError
from thinkrl.config.nearest import suggestion

_PACKAGE = Path(__file__).resolve().parent.parent
VARIANTS = ("laptop", "paper")
"""The forms a recipe comes in; the first is the one meant when none is named."""


@dataclass(frozen=True)
class RecipeFile:
    """A recipe on disk. `id` names it on the command line: `quickstart`, or `quickstart/paper` for that form."""

    id: str
    family: str
    path: Path
    root: Path


def conf_dir() -> Path:
    """The folder of configuration groups: inside an installed package, else beside it in a checkout."""
    return _shipped("_conf", "conf")


def recipes_dir() -> Path:
    """The folder of the recipes that come with thinkrl."""
    return _shipped("_recipes", "recipes")


def _shipped(installed: str, checkout: str) -> Path:
    inside = _PACKAGE / installed
    return inside if inside.is_dir() else _PACKAGE.parent / checkout


def list_recipes(recipes_dirs: Sequence[Path] = ()) -> list[RecipeFile]:
    """Every recipe of the user's folders and of thinkrl, sorted by family and id.

    A recipe is `<family>/<id>.yaml` or `<family>/<id>/{laptop,paper}.yaml`; in the user's folders
    also `<id>.yaml` at the top. Where an id occurs twice, the user's folder comes first.
    """
    found: dict[str, RecipeFile] = {}
    for root in recipes_dirs:
        if not root.is_dir():
            raise ConfigError(f"--recipes-dir {root} is not a folder")
    for root in [path.resolve() for path in (*recipes_dirs, recipes_dir())]:
        for path in sorted([*root.glob("*.yaml"), *root.glob("*/*.yaml"), *root.glob("*/*/*.yaml")]):
            recipe = describe(path, root)
            if recipe is not None:
                found.setdefault(recipe.id, recipe)
    return sorted(found.values(), key=lambda recipe: (recipe.family, recipe.id))


def describe(path: Path, root: Path) -> RecipeFile | None:
    """The recipe that `path` under `root` is, or None when a file in that place is not a recipe."""
    parts = path.relative_to(root).with_suffix("").parts
    if len(parts) == 3 and parts[2] not in VARIANTS:
        return None
    family = parts[0] if len(parts) > 1 else ""
    return RecipeFile(id=recipe_id(path), family=family, path=path, root=root)


def recipe_id(path: Path) -> str:
    """The id of a recipe file: its name, or for `laptop.yaml` and `paper.yaml` that of the folder."""
    name = path.stem
    if name == VARIANTS[0]:
        return path.resolve().parent.name
    return f"{path.resolve().parent.name}/{name}" if name in VARIANTS else name


def find_recipe(recipe: str | Path, recipes_dirs: Sequence[Path] = ()) -> RecipeFile:
    """The recipe of that id (`quickstart`, `quickstart/paper`, `family/quickstart`) or at that path.

    Raises `ConfigError` with the nearest id when there is none.
    """
    path = Path(recipe).expanduser()
    if path.suffix in (".yaml", ".yml") or isinstance(recipe, Path):
        return _recipe_at(path, recipes_dirs)
    known = list_recipes(recipes_dirs)
    for wanted in (str(recipe), f"{recipe}/paper"):
        for candidate in known:
            if wanted in names_of(candidate):
                return candidate
    if path.is_dir():
        return _recipe_at(path, recipes_dirs)
    names = [name for candidate in known for name in names_of(candidate)]
    raise ConfigError(f"there is no recipe {recipe!r}: {suggestion(str(recipe), names)}\n  thinkrl list recipes")


def names_of(recipe: RecipeFile) -> tuple[str, ...]:
    """What `find_recipe` takes for this recipe."""
    names = [recipe.id, f"{recipe.family}/{recipe.id}" if recipe.family else recipe.id]
    if recipe.path.stem == VARIANTS[0]:
        names = [form for name in names for form in (name, f"{name}/{VARIANTS[0]}")]
    return tuple(dict.fromkeys(names))


def _recipe_at(path: Path, recipes_dirs: Sequence[Path]) -> RecipeFile:
    path = path.resolve()
    if path.is_dir():
        forms = [path / f"{variant}.yaml" for variant in VARIANTS if (path / f"{variant}.yaml").is_file()]
        if not forms:
            raise ConfigError(f"the folder {path} holds neither {' nor '.join(f'{v}.yaml' for v in VARIANTS)}")
        path = forms[0]
    if not path.is_file():
        siblings = [sibling.name for sibling in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        raise ConfigError(f"there is no recipe file {path}: {suggestion(path.name, siblings)}")
    if path.suffix != ".yaml":
        raise ConfigError(f"a recipe file must end in .yaml, got {path}")
    for root in [*recipes_dirs, recipes_dir()]:
        if path.is_relative_to(root.resolve()):
            recipe = describe(path, root.resolve())
            if recipe is not None:
                return recipe
    return RecipeFile(id=recipe_id(path), family="", path=path, root=path.parent)


def label(path: Path) -> str:
    """How messages name a configuration file: `conf/reward/x.yaml`, `recipes/...`, else relative to here."""
    path = path.resolve()
    for root, name in ((conf_dir(), "conf"), (recipes_dir(), "recipes")):
        if path.is_relative_to(root.resolve()):
            return f"{name}/{path.relative_to(root.resolve()).as_posix()}"
    here = Path.cwd().resolve()
    return path.relative_to(here).as_posix() if path.is_relative_to(here) else path.as_posix()
