"""From a recipe and overrides to one resolved tree in which every value knows who set it.

Hydra decides which files take part, in what order and at which place (defaults lists, `# @package`,
group choices, override grammar); `layers.py` merges them; `completion.py` writes in the defaults of
the components and caps sizes to the scale. Nothing here depends on the time, the machine or the
environment, so one command gives one tree.
"""

import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thinkrl.config.completion import complete
from thinkrl.config.component import ConfigError
from thinkrl.config.composed import Composed
from thinkrl.config.layers import Layers, dotted, leaves
from thinkrl.config.nearest import suggestion
from thinkrl.config.paths import RecipeFile, conf_dir, find_recipe, label, recipes_dir

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader
    from hydra.core.default_element import ResultDefault
    from hydra.core.override_parser.types import Override


def compose(
    recipe: str | Path, overrides: Sequence[str] = (), recipes_dirs: Sequence[Path] = (), *, completed: bool = True
) -> Composed:
    """Composes a recipe (id or path) with overrides in Hydra's grammar.

    `completed=False` leaves out what needs the component classes (their defaults, the scale's caps),
    so that no component is imported. Raises `ConfigError` with the nearest valid name for what is unknown.
    """
    file = find_recipe(recipe, recipes_dirs)
    for folder in (file.path.parent, Path.cwd()):
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
    with _translated(file.path, overrides), _hydra(file, recipes_dirs) as search:
        plan = search.plan(overrides)
        chosen = search.choices_of_scale(plan)
        if chosen:
            plan = search.plan([*overrides, *chosen.values()])
        layers = search.merge(plan, chosen)
    for override in sorted(plan.values, key=lambda override: not override.key_or_group.endswith("_target_")):
        _apply(layers, override)
    tree, path_origins = layers.resolved()
    tree = _resolve_text(tree)
    origins = {dotted(path): origin for path, origin in path_origins.items()}
    composed = Composed(tree, origins, file.id, file.path, tuple(overrides))
    if not completed:
        return composed
    return complete(composed)


@dataclass(frozen=True, eq=False)
class _Plan:
    """The files of a configuration in merge order, the overrides that set values, and the groups these name."""

    files: "list[ResultDefault]"
    values: "list[Override]"
    groups: set[str]


@dataclass(frozen=True, eq=False)
class _Search:
    """Hydra, opened on the folders of one recipe."""

    file: RecipeFile
    folders: tuple[Path, ...]
    loader: "ConfigLoader"

    def plan(self, overrides: Sequence[str]) -> _Plan:
        """Asks Hydra for the defaults list under these overrides."""
        from hydra.core.override_parser.overrides_parser import OverridesParser
        from hydra.types import RunMode

        parsed = OverridesParser.create().parse_overrides(list(overrides))
        lines, values = [self._search_path], []
        for override in parsed:
            self._refuse_special(override)
            key, given = override.get_key_element().lstrip("+~"), str(override.input_line)
            if not self._is_group(override) or isinstance(override.value(), dict):
                values.append(override)
            elif "@" in key or given[0] == "+" or key in self._chosen_groups:
                lines.append(given)
            elif given[0] == "~":
                values.append(override)
            else:
                lines.append(f"+{given}")
        found = self.loader.compute_defaults_list(self.file.path.stem, lines, RunMode.RUN)
        groups = {override.get_key_element().lstrip("+~") for override in parsed if self._is_group(override)}
        files = [default for default in found.defaults if not (default.config_path or "").startswith("hydra/")]
        return _Plan([default for default in files if default.config_path], values, groups)

    @cached_property
    def _chosen_groups(self) -> Mapping[str, Any]:
        """The groups that the recipe itself chooses from: a choice of another group is an addition."""
        from hydra.types import RunMode

        found = self.loader.compute_defaults_list(self.file.path.stem, [self._search_path], RunMode.RUN)
        return dict(found.overrides.known_choices)

    @property
    def _search_path(self) -> str:
        folders = ", ".join(_quoted(f"file://{folder}") for folder in self.folders[1:])
        return f"hydra.searchpath=[{folders}]"

    def _is_group(self, override: "Override") -> bool:
        return any((folder / override.key_or_group).is_dir() for folder in self.folders)

    def _refuse_special(self, override: "Override") -> None:
        line, key = override.input_line, override.key_or_group
        if override.is_sweep_override():
            raise ConfigError(f"override {line}: one run takes one value; write {key}=[a,b] for a list")
        if override.is_hydra_override():
            raise ConfigError(f"override {line}: hydra's own settings have no effect here")
        if (
            self._is_group(override)
            and not override.is_delete()
            and not isinstance(override.value(), str | list | dict)
        ):
            raise ConfigError(f"override {line}: choose a file of this group, {key}=NAME, or leave it out with ~{key}")

    def content(self, default: "ResultDefault") -> tuple[dict[str, Any], str]:
        """The values in one file, placed at its package, and how to name the file."""
        from omegaconf import OmegaConf

        paths = [folder / f"{default.config_path}.yaml" for folder in self.folders]
        existing = list(dict.fromkeys(path.resolve() for path in paths if path.is_file()))
        if len(existing) > 1:
            raise ConfigError(f"{' and '.join(map(label, existing))} have the same name: rename one of them")
        values = OmegaConf.to_container(OmegaConf.load(existing[0]), resolve=False)
        if not isinstance(values, dict):
            raise ConfigError(f"{label(existing[0])} must hold a mapping, got a {type(values).__name__}")
        placed: dict[str, Any] = {str(key): value for key, value in values.items() if key != "defaults"}
        for key in reversed((default.package or "").split(".")):
            placed = {key: placed} if key else placed
        return placed, label(existing[0])

    def choices_of_scale(self, plan: _Plan) -> dict[str, str]:
        """Overrides that the scale adds, by the package they fill; what the command line chose stays."""
        choices: dict[str, str] = {}
        for default in plan.files:
            if (default.config_path or "").startswith("scale/") and default.package == "scale":
                choices.update(self.content(default)[0].get("scale", {}).get("choose") or {})
        overrides = {}
        for group, option in choices.items():
            used = {default.override_key: default for default in plan.files if _group(default) == group}
            for key, default in used.items():
                if key and key not in plan.groups:
                    overrides[default.package or ""] = f"{key}={option}"
            written_out = group not in {default.package for default in used.values()} and any(
                self.content(file)[0].get(group) for file in plan.files
            )
            if written_out and group not in plan.groups:
                overrides[group] = f"+{group}={option}"
        return overrides

    def merge(self, plan: _Plan, chosen: Mapping[str, str]) -> Layers:
        """Merges the files. What a recipe says about a component that the scale swapped no longer applies."""
        layers = Layers()
        for default in plan.files:
            values, origin = self.content(default)
            for package in chosen:
                if default.package != package:
                    _remove(values, package.split("."))
            layers.add(values, origin)
        return layers


def _group(default: "ResultDefault") -> str:
    return (default.config_path or "").rpartition("/")[0]


def _remove(values: dict[str, Any], path: list[str]) -> None:
    for key in path[:-1]:
        values = values.get(key, {})
        if not isinstance(values, dict):
            return
    values.pop(path[-1], None)


@contextmanager
def _hydra(file: RecipeFile, recipes_dirs: Sequence[Path]) -> Iterator[_Search]:
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    roots = (file.path.parent, conf_dir(), *(path.resolve() for path in recipes_dirs), recipes_dir())
    folders = tuple(dict.fromkeys(path.resolve() for path in roots if path.is_dir()))
    if folders[0] != conf_dir() and (conf_dir() / file.path.name).is_file():
        raise ConfigError(f"{label(file.path)} has the name of conf/{file.path.name}: rename the recipe")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        with initialize_config_dir(config_dir=str(folders[0]), version_base="1.3"):
            hydra = GlobalHydra.instance().hydra
            assert hydra is not None
            yield _Search(file, folders, hydra.config_loader)


@contextmanager
def _translated(recipe: Path, overrides: Sequence[str]) -> Iterator[None]:
    """Turns the errors of Hydra and YAML into `ConfigError`s that name what is near."""
    from hydra.errors import HydraException, MissingConfigException, OverrideParseException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        yield
    except MissingConfigException as error:
        raise ConfigError(_missing(error.missing_cfg_file or "", error.options or (), str(error), overrides)) from error
    except OverrideParseException as error:
        raise ConfigError(
            f"the override {error.override!r} cannot be read: {str(error).partition(chr(10))[0]}\n"
            "  write key=value, key=[a,b], group=option, +group=option or ~key"
        ) from error
    except (HydraException, YAMLError, OmegaConfBaseException, ValueError) as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise ConfigError("\n  ".join([f"{label(recipe)} cannot be composed: {lines[0]}", *lines[1:]])) from error


def _missing(name: str, options: Sequence[str], message: str, overrides: Sequence[str]) -> str:
    """Says which file is not there, who asked for it, and what is."""
    group, _, option = name.rpartition("/")
    asked = [line for line in overrides if line.partition("=")[2] == option and option]
    inside = message.partition("'")[2].partition("'")[0] if message.startswith("In ") else ""
    where = f"override {asked[0]}" if asked else f"the defaults list of {inside}" if inside else "the defaults list"
    if options:
        return f"{where}: there is no {group} {option!r}; {suggestion(option, options)}"
    groups = [path.name for path in conf_dir().iterdir() if path.is_dir()]
    return f"{where}: there is no {name}; groups: {suggestion(group or name, groups)}"


def _apply(layers: Layers, override: "Override") -> None:
    """Merges one value override. Whether the key exists is for the schema to say, so `+` is not needed."""
    key, origin = override.key_or_group, f"override {override.input_line}"
    if override.package is not None or "@" in key or "/" in key:
        groups = [path.name for path in conf_dir().iterdir() if path.is_dir()]
        raise ConfigError(f"{origin}: there is no group {key}; {suggestion(key, groups)}")
    path = tuple(key.split("."))
    if override.is_delete():
        layers.delete(path, origin)
        return
    nested: Any = _plain(override.value())
    for name in reversed(path):
        nested = {name: nested}
    layers.add(nested, origin)


def _plain(value: Any) -> Any:
    """An override's value without Hydra's quoting objects."""
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.text if hasattr(value, "text") and hasattr(value, "quote") else value


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _resolve_text(tree: dict[str, Any]) -> dict[str, Any]:
    """Resolves interpolations inside longer text, with OmegaConf."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if not any(isinstance(value, str) and "${" in value for _, value in leaves(tree)):
        return tree
    try:
        resolved = OmegaConf.to_container(OmegaConf.create(tree), resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {str(error).partition(chr(10))[0]}") from error
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}
