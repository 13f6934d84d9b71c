"""Builds the components that a configuration names: closed, typed, and all errors in one message."""

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, get_args, get_origin

from thinkrl.config.component import ConfigError
from thinkrl.config.nearest import nearest, suggestion
from thinkrl.config.schema import TARGET, arms, bare, class_of, enum_text, fields_of, type_name

if TYPE_CHECKING:
    from thinkrl.config.composed import Composed

T = TypeVar("T")
_FAILED = object()
_MISSING = "???"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: at which key, what, who set it, what to do."""

    path: str
    what: str
    origin: str = ""
    advice: str = ""

    def __str__(self) -> str:
        where = f" (set by {self.origin})" if self.origin else ""
        advice = f"\n    {self.advice}" if self.advice else ""
        return f"{self.path or 'the configuration'}: {self.what}{where}{advice}"


def build(cls: type[T], node: Any, composed: "Composed | None" = None, path: str = "") -> T:
    """Builds `cls` from a tree, checking every key and value below it.

    `composed` tells who set a value. `path` is where `node` sits in it. Raises one `ConfigError`
    with every problem found.
    """
    builder = _Builder(composed)
    built = builder.value(cls, node, path)
    if builder.problems:
        title = f"{composed.recipe_id}: " if composed else ""
        count = len(builder.problems)
        lines = [f"{title}{count} problem{'s' if count > 1 else ''} in the configuration", *map(str, builder.problems)]
        raise ConfigError("\n  ".join(lines))
    return cast(T, built)


@dataclass
class _Builder:
    composed: "Composed | None"
    problems: list[Problem] = field(default_factory=list)

    def fail(self, path: str, what: str, advice: str = "") -> Any:
        """Notes a problem and goes on with the rest."""
        origin = self.composed.origin(path) if self.composed else ""
        self.problems.append(Problem(path, what, origin, advice))
        return _FAILED

    def value(self, annotation: Any, node: Any, path: str) -> Any:
        """The value for an annotation, or `_FAILED` with at least one problem noted."""
        if isinstance(node, str) and node == _MISSING:
            return self.fail(path, f"must be set: {_a(annotation)}")
        options = arms(annotation)
        if len(options) > 1:
            return self._union(annotation, options, node, path)
        plain = bare(annotation)
        if plain is Any or plain is object:
            return self._anything(node, path)
        if plain is None or plain is type(None):
            return None if node is None else self._wrong(annotation, node, path)
        if node is None:
            return self._wrong(annotation, node, path)
        origin = get_origin(plain)
        if origin is Literal:
            return self._choice({value: value for value in get_args(plain)}, node, path)
        if origin is not None:
            return self._collection(plain, origin, get_args(plain), node, path)
        if plain in (int, float, str, bool, Path):
            return self._scalar(plain, node, path)
        if isinstance(plain, type) and issubclass(plain, enum.Enum):
            members = {enum_text(member): member for member in plain}
            return self._choice(members, node, path)
        if plain in (list, tuple, dict, frozenset, Mapping, Sequence):
            return self._collection(plain, plain, (), node, path)
        if isinstance(plain, type):
            return self._component(plain, node, path)
        raise TypeError(f"{path}: fields of type {annotation!r} cannot be configured")

    def _wrong(self, annotation: Any, node: Any, path: str, advice: str = "") -> Any:
        return self.fail(path, f"expected {_a(annotation)}, got {_shown(node)}", advice)

    def _union(self, annotation: Any, options: Sequence[Any], node: Any, path: str) -> Any:
        if isinstance(node, Mapping) and TARGET in node:
            return self._union_component(annotation, options, node, path)
        for option in options:
            if type(node) is bare(option) or (node is None and bare(option) is type(None)):
                return self.value(option, node, path)
        inside: list[list[Problem]] = []
        for option in options:
            attempt = _Builder(self.composed)
            built = attempt.value(option, node, path)
            if not attempt.problems:
                return built
            if attempt.problems[0].path != path:
                inside.append(attempt.problems)
        if not inside:
            return self._wrong(annotation, node, path)
        fewest = min(inside, key=len)
        self.problems += fewest
        return _FAILED

    def _union_component(self, annotation: Any, options: Sequence[Any], node: Any, path: str) -> Any:
        """The alternative that takes the class of the component, so that problems inside are those of this class."""
        target = _join(path, TARGET)
        try:
            cls = class_of(node, Any)
        except ConfigError as error:
            return self.fail(target, str(error))
        for plain in map(bare, options):
            if plain is Any or (isinstance(plain, type) and cls is not None and not _not_a(cls, plain)):
                return self.value(plain, node, path)
        name = str(node[TARGET]).rpartition(".")[2]
        return self.fail(target, f"expected {_a(annotation)}, but {name} is none of these")

    def _anything(self, node: Any, path: str) -> Any:
        if isinstance(node, Mapping):
            if TARGET in node:
                return self._component(object, node, path)
            return self._mapping(str, Any, node, path)
        if isinstance(node, list):
            return self._items(list, [Any] * len(node), node, path)
        return node

    def _scalar(self, plain: Any, node: Any, path: str) -> Any:
        if plain is float and type(node) in (int, float):
            return float(node)
        if plain is Path and isinstance(node, str):
            return Path(node)
        if type(node) is plain:
            return node
        return self._wrong(plain, node, path, _scalar_advice(plain, node))

    def _choice(self, members: Mapping[Any, Any], node: Any, path: str) -> Any:
        for text, member in members.items():
            if type(node) is type(text) and node == text:
                return member
        names = [str(text) for text in members]
        return self.fail(
            path, f"expected one of {', '.join(map(repr, members))}, got {_shown(node)}", suggestion(str(node), names)
        )

    def _collection(self, plain: Any, origin: Any, args: tuple[Any, ...], node: Any, path: str) -> Any:
        if issubclass(origin, Mapping):
            if not isinstance(node, Mapping) or TARGET in node:
                return self._wrong(plain, node, path)
            key_type, value_type = args or (Any, Any)
            return self._mapping(key_type, value_type, node, path)
        if not isinstance(node, list | tuple):
            return self._wrong(plain, node, path, "write a list: [a, b]")
        fixed = origin is tuple and args and args[-1] is not Ellipsis
        if fixed and len(args) != len(node):
            return self.fail(path, f"expected {len(args)} values, got {len(node)}")
        annotations = list(args) if fixed else [args[0] if args else Any] * len(node)
        return self._items(origin if origin in (list, frozenset) else tuple, annotations, node, path)

    def _items(self, make: Any, annotations: list[Any], node: Sequence[Any], path: str) -> Any:
        pairs = enumerate(zip(annotations, node, strict=True))
        items = [self.value(annotation, item, _join(path, index)) for index, (annotation, item) in pairs]
        return _FAILED if any(item is _FAILED for item in items) else make(items)

    def _mapping(self, key_type: Any, value_type: Any, node: Mapping[Any, Any], path: str) -> Any:
        result = {}
        for key, value in node.items():
            here = _join(path, key)
            result[self.value(key_type, key, here)] = self.value(value_type, value, here)
        return _FAILED if any(item is _FAILED for pair in result.items() for item in pair) else result

    def _component(self, wanted: type, node: Any, path: str) -> Any:
        if not isinstance(node, Mapping):
            return self.fail(
                path, f"expected a component ({wanted.__name__}), got {_shown(node)}", "write a mapping with _target_"
            )
        try:
            cls = class_of(node, wanted)
            if cls is None:
                return self.fail(path, f"expected a component ({wanted.__name__}), but there is no _target_")
            known = fields_of(cls)
        except ConfigError as error:
            return self.fail(_join(path, TARGET) if TARGET in node else path, str(error))
        lack = _not_a(cls, wanted)
        if lack:
            return self.fail(_join(path, TARGET), f"expected a {wanted.__name__}, but {cls.__name__} {lack}")
        failed_before = len(self.problems)
        for key in node:
            if key not in known and key != TARGET:
                self._unknown(key, cls, node, path)
        values = {}
        for name, info in known.items():
            if name in node:
                values[name] = self.value(info.annotation, node[name], _join(path, name))
            elif info.required:
                self.fail(_join(path, name), f"must be set: {cls.__name__} needs it", f"it is {_a(info.annotation)}")
        if len(self.problems) > failed_before:
            return _FAILED
        return self._construct(cls, values, path)

    def _unknown(self, key: Any, cls: type, node: Mapping[Any, Any], path: str) -> None:
        here, known = _join(path, key), fields_of(cls)
        advice = f"{suggestion(str(key), known)} ({cls.__name__} has: {', '.join(known) or 'no keys'})"
        if self.composed and TARGET in node and nearest(str(key), known) is None:
            chosen_by = self.composed.origin(_join(path, TARGET))
            if self.composed.origin(here) not in (chosen_by, f"override {here}"):
                advice += f"\n    {cls.__name__} was chosen by {chosen_by}; mappings at the same place merge"
        self.fail(here, f"unknown key {key!r}", advice)

    def _construct(self, cls: type, values: dict[str, Any], path: str) -> Any:
        try:
            return cls(**values)
        except (ValueError, TypeError) as error:
            message = str(error)
            first, _, rest = message.partition(" ")
            if first.partition(".")[0] in values:
                return self.fail(_join(path, first), rest)
            return self.fail(path, message)


def _not_a(cls: type, wanted: type) -> str:
    """Why `cls` does not do where `wanted` is asked for; empty when it does."""
    if not getattr(wanted, "_is_protocol", False):
        return "" if issubclass(cls, wanted) else "is not one"
    needed = {
        name
        for base in wanted.__mro__
        if getattr(base, "_is_protocol", False)
        for name in (*vars(base), *vars(base).get("__annotations__", {}))
        if name == "__call__" or not name.startswith("_")
    }
    present = {field.name for field in dataclasses.fields(cls)} | {name for base in cls.__mro__ for name in vars(base)}
    lacking = sorted(needed - present)
    return f"has no {', '.join(lacking)}" if lacking else ""


def _scalar_advice(plain: Any, node: Any) -> str:
    if plain in (int, float) and isinstance(node, str):
        try:
            plain(node)
        except ValueError:
            return ""
        return f"write {node} without quotes"
    if plain is str and isinstance(node, bool | int | float):
        return "write the text in quotes"
    if plain is bool:
        return "write true or false"
    return ""


def _a(annotation: Any) -> str:
    plain = bare(annotation)
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false", Path: "a path"}
    return words.get(plain) or type_name(plain)


def _shown(node: Any) -> str:
    if node is None:
        return "null"
    if isinstance(node, Mapping):
        return "a mapping"
    if isinstance(node, list | tuple):
        return f"the list {list(node)!r}"
    if isinstance(node, bool):
        return "true" if node else "false"
    return f"the text {node!r}" if isinstance(node, str) else repr(node)


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)
