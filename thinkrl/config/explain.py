"""What one key of a configuration is: value, type, meaning, and who set it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from thinkrl.config.component import ConfigError
from thinkrl.config.composed import Composed
from thinkrl.config.nearest import nearest, suggestion
from thinkrl.config.schema import TARGET, child_annotation, class_of, fields_of, meanings, sized_kind, type_name


@dataclass(frozen=True)
class Explanation:
    """A key of the configuration. `children` are the keys below it, with the first line of what each is."""

    key: str
    value: Any
    type: str
    meaning: str
    origin: str
    note: str = ""
    children: tuple[tuple[str, str], ...] = ()


def explain(composed: Composed, key: str, root_type: type) -> Explanation:
    """Explains a dotted key (empty for the root). Raises `ConfigError` with the nearest key when there is none."""
    node: Any = composed.tree
    annotation: Any = root_type
    meaning = ""
    passed: list[str] = []
    for name in filter(None, key.split(".")):
        cls = _class_of(node, annotation)
        children = dict(_children(node, cls))
        if name not in children:
            raise ConfigError(_no_such_key(composed, key, ".".join([*passed, name]), name, list(children)))
        if cls is not None and name in fields_of(cls):
            meaning, annotation = meanings(cls).get(name, ""), fields_of(cls)[name].annotation
        else:
            meaning, annotation = "", child_annotation(annotation, int(name) if name.isdigit() else name)
        node, passed = children[name], [*passed, name]
    cls = _class_of(node, annotation)
    if cls is not None:
        meaning = " ".join(filter(None, [meaning, first_line(cls)]))
    below = meanings(cls) if cls is not None else {}
    children_lines = tuple((name, below.get(name, "")) for name, _ in _children(node, cls) if name != TARGET)
    shown_type = cls.__name__ if cls is not None else type_name(annotation)
    return Explanation(
        key, node, shown_type, meaning, composed.origin(key), _size_note(composed, key, annotation), children_lines
    )


def first_line(cls: type) -> str:
    """The first line of a class's docstring, empty when it has none of its own."""
    lines = (vars(cls).get("__doc__") or "").strip().splitlines()
    return "" if not lines or lines[0].startswith(f"{cls.__name__}(") else lines[0]


def _class_of(node: Any, annotation: Any) -> type | None:
    try:
        return class_of(node, annotation)
    except ConfigError:
        return None


def _children(node: Any, cls: type | None) -> Iterator[tuple[str, Any]]:
    """Keys below a node with their values; fields that the tree leaves out have their default."""
    if isinstance(node, Mapping):
        yield from ((str(key), value) for key, value in node.items())
    elif isinstance(node, list):
        yield from ((str(position), value) for position, value in enumerate(node))
    if cls is not None:
        for name, field in fields_of(cls).items():
            if name not in node and not field.required:
                yield name, field.default


def _no_such_key(composed: Composed, key: str, at: str, name: str, siblings: list[str]) -> str:
    match = nearest(key, composed.origins)
    if nearest(name, siblings) is None and match is not None:
        return f"there is no key {key}: did you mean {match}?"
    place = at.rpartition(".")[0] or "the configuration"
    return f"there is no key {key}: {place} has no {name}; {suggestion(name, siblings)}"


def _size_note(composed: Composed, key: str, annotation: Any) -> str:
    if key in composed.capped:
        value, origin = composed.capped[key]
        return f"the scale capped it; {origin} says {value}"
    kind = sized_kind(annotation)
    return f"a size ({kind}) that a scale may cap" if kind else ""
