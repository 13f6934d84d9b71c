"""The schema of the configuration: component classes, their fields, types and meanings."""

import ast
import dataclasses
import enum
import importlib
import inspect
import pkgutil
import textwrap
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from thinkrl.config.component import ConfigError, Sized
from thinkrl.config.nearest import suggestion

TARGET = "_target_"


@dataclass(frozen=True, eq=False)
class Field:
    """A field of a component. `default` is `dataclasses.MISSING` when the configuration must give it."""

    name: str
    annotation: Any
    default: Any

    @property
    def required(self) -> bool:
        """Whether there is no default."""
        return self.default is dataclasses.MISSING


@cache
def fields_of(cls: type) -> dict[str, Field]:
    """The fields that a configuration may set, in order. Raises `ConfigError` when a type cannot be resolved."""
    try:
        hints = get_type_hints(cls, include_extras=True)
    except Exception as error:
        raise ConfigError(f"the field types of {qualified_name(cls)} cannot be resolved: {error}") from error
    found = {}
    for field in dataclasses.fields(cls):
        if field.init:
            default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
            found[field.name] = Field(field.name, hints[field.name], default)
    return found


@cache
def load_target(name: str) -> type:
    """The frozen dataclass that `_target_: name` means; `ConfigError` with the nearest name when there is none."""
    module_name, _, class_name = name.rpartition(".")
    if not module_name:
        raise ConfigError(f"_target_ must be module.Class, got {name!r}")
    module = _import(module_name)
    found = getattr(module, class_name, None)
    if found is None:
        raise ConfigError(f"{module_name} has no {class_name}; {suggestion(class_name, components_in(module))}")
    if not _is_component(found):
        raise ConfigError(f"{name} is not a frozen dataclass; {suggestion(class_name, components_in(module))}")
    assert isinstance(found, type)
    return found


def _import(name: str) -> types.ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise ConfigError(f"importing {name} failed: {error}") from error
        parent, _, last = error.name.rpartition(".")
        siblings = [module.name for module in pkgutil.iter_modules(_import(parent).__path__)] if parent else []
        hint = suggestion(last, siblings) if siblings else "modules beside the recipe and in this folder can be named"
        raise ConfigError(f"there is no module {error.name}; {hint}") from error
    except Exception as error:
        raise ConfigError(f"importing {name} failed: {type(error).__name__}: {error}") from error


def components_in(module: types.ModuleType) -> list[str]:
    """Names of the components that a module holds."""
    return [name for name, value in vars(module).items() if _is_component(value)]


def _is_component(value: Any) -> bool:
    return isinstance(value, type) and dataclasses.is_dataclass(value) and value.__dataclass_params__.frozen  # type: ignore[attr-defined]


def qualified_name(cls: type) -> str:
    """What `_target_` says for this class."""
    return f"{cls.__module__}.{cls.__qualname__}"


def bare(annotation: Any) -> Any:
    """The annotation without `Annotated`, and a type alias replaced by its value."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif hasattr(annotation, "__value__"):
            annotation = annotation.__value__
        elif hasattr(annotation, "__supertype__"):
            annotation = annotation.__supertype__
        else:
            return annotation


def sized_kind(annotation: Any) -> str | None:
    """The kind of size that a field counts, also inside `X | None`."""
    if get_origin(annotation) is Annotated:
        for metadata in annotation.__metadata__:
            if isinstance(metadata, Sized):
                return metadata.kind
    for arm in arms(annotation):
        if arm is not bare(annotation) and (kind := sized_kind(arm)):
            return kind
    return None


def arms(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of a union; the annotation itself when it is none."""
    annotation = bare(annotation)
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def child_annotation(annotation: Any, key: Any) -> Any:
    """The annotation of an element of a list, tuple or mapping; `Any` when nothing is said."""
    for arm in map(bare, arms(annotation)):
        origin, args = get_origin(arm), get_args(arm)
        if isinstance(origin, type) and issubclass(origin, Mapping) and len(args) == 2:
            return args[1]
        if origin is tuple and args and args[-1] is not Ellipsis and isinstance(key, int):
            return args[key] if key < len(args) else Any
        if isinstance(origin, type) and issubclass(origin, Sequence) and args:
            return args[0]
    return Any


def class_of(node: Any, annotation: Any) -> type | None:
    """The component class of a mapping: its `_target_`, else the one dataclass that the annotation names.

    None when the node is no component. Raises `ConfigError` for a target that cannot be loaded.
    """
    if not isinstance(node, Mapping):
        return None
    if TARGET in node:
        target = node[TARGET]
        if not isinstance(target, str):
            raise ConfigError(f"_target_ must be module.Class, got {target!r}")
        return load_target(target)
    named = [arm for arm in map(bare, arms(annotation)) if _is_component(arm)]
    return named[0] if len(named) == 1 else None


def type_name(annotation: Any) -> str:
    """An annotation as a reader writes it: `int`, `float | None`, `tuple[str, ...]`."""
    annotation = bare(annotation)
    if annotation is Any:
        return "anything"
    if annotation is type(None) or annotation is None:
        return "null"
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return " | ".join(type_name(arm) for arm in args)
    if origin is Literal:
        return " | ".join(repr(value) for value in args)
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return " | ".join(repr(enum_text(member)) for member in annotation)
    if origin is not None:
        inside = ", ".join("..." if arg is Ellipsis else type_name(arg) for arg in args)
        return f"{getattr(origin, '__name__', str(origin))}[{inside}]"
    return getattr(annotation, "__name__", str(annotation))


def enum_text(member: enum.Enum) -> str:
    """How a configuration writes an enum member: its value when that is text, else its name."""
    return member.value if isinstance(member.value, str) else member.name


@cache
def meanings(cls: type) -> dict[str, str]:
    """The string literal under each field, inherited fields too; fields without one are absent."""
    found: dict[str, str] = {}
    for owner in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(owner):
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(owner)))
        except (OSError, TypeError, SyntaxError):
            continue
        body = tree.body[0].body if tree.body and isinstance(tree.body[0], ast.ClassDef) else []
        for statement, below in pairwise(body):
            if (
                isinstance(statement, ast.AnnAssign)
                and isinstance(statement.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
                and isinstance(below.value.value, str)
            ):
                found[statement.target.id] = " ".join(below.value.value.split())
    return found


def to_node(value: Any) -> Any:
    """A default as configuration: plain values and component mappings. Raises `TypeError` when it has no such form."""
    if isinstance(value, enum.Enum):
        return enum_text(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | list):
        return [to_node(item) for item in value]
    if isinstance(value, frozenset | set):
        return sorted(to_node(item) for item in value)
    if isinstance(value, Mapping):
        return {str(key): to_node(item) for key, item in value.items()}
    if _is_component(type(value)):
        cls: type = type(value)
        return {TARGET: qualified_name(cls), **{name: to_node(getattr(value, name)) for name in fields_of(cls)}}
    raise TypeError(f"{value!r} has no form as configuration")
