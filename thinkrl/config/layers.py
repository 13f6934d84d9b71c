"""The layers of a configuration, merged in order, remembering which layer set each value.

Layers merge as Hydra's do: a mapping merges into a mapping, anything else replaces. One thing is
kept apart that Hydra merges at once: a mapping over a shared part (`reward: ${reward}`). It changes
some keys of a copy, and the copy is taken when all layers are in, so that a later change of the
shared part still arrives. A mapping with its own `_target_` takes the place of the reference.
"""

import copy
import enum
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from thinkrl.config.component import ConfigError
from thinkrl.config.nearest import suggestion

Path = tuple[str, ...]
"""Keys from the root to a node; positions in a list are keys in digits."""

_REFERENCE = re.compile(r"^\$\{(?P<up>\.*)(?P<key>[A-Za-z_][\w\-/]*(\.[\w\-/]+)*)\}$")
_BASE = "_base_"
"""Key under which a mapping of changes keeps the reference that it changes."""


class _Mark(enum.Enum):
    DELETED = "deleted"
    """Value of a key that is to be taken out of the copy of a shared part (an enum: copies stay the same object)."""
    DELETED_CHANGE = "deleted change"
    """The same for a key that this place had changed or added, so the shared part may lack it."""


def dotted(path: Path) -> str:
    """`("stages", "grpo", "steps")` as `stages.grpo.steps`."""
    return ".".join(path)


def leaves(node: Any) -> Iterator[tuple[Path, Any]]:
    """Path below `node` and value of each scalar, empty mapping and empty list (`()` for node itself)."""
    children = list(_items(node))
    if not children:
        yield (), node
    for key, child in children:
        for rest, value in leaves(child):
            yield (str(key), *rest), value


def _replaced(node: Any) -> Iterator[tuple[Path, Any]]:
    """Path below `node` and value of all that replaces what it lands on: anything but a mapping with keys."""
    if not isinstance(node, dict) or not node:
        yield (), node
        return
    for key, child in node.items():
        for rest, value in _replaced(child):
            yield (str(key), *rest), value


def _items(node: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(node, Mapping):
        yield from node.items()
    elif isinstance(node, list):
        yield from enumerate(node)


@dataclass
class Layers:
    """The merged tree so far, and for each leaf the layer that set it."""

    tree: dict[str, Any] = field(default_factory=dict)
    origins: dict[Path, str] = field(default_factory=dict)

    def add(self, values: Mapping[Any, Any], origin: str) -> None:
        """Merges one layer over those before it."""
        self._merge(self.tree, values, origin, ())

    def _merge(self, node: dict[Any, Any], values: Mapping[Any, Any], origin: str, path: Path) -> None:
        for key, value in values.items():
            here = (*path, str(key))
            old = node.get(key)
            if not isinstance(value, Mapping):
                self._replace(node, key, value, origin, here)
            elif isinstance(old, list) and value and all(_is_position(name, old) for name in value):
                for name, item in value.items():
                    self._replace(old, int(name), item, origin, (*here, str(name)))
            elif _reference(old) and "_target_" not in value:
                node[key] = {_BASE: old}
                self._merge(node[key], value, origin, here)
            elif isinstance(old, dict) and not (_BASE in old and "_target_" in value) and not _swaps(old, value):
                if value or not old:
                    self.origins.pop(here, None)
                if not value and not old:
                    self.origins[here] = origin
                self._merge(old, value, origin, here)
            else:
                self._replace(node, key, value, origin, here)

    def _replace(self, node: Any, key: Any, value: Any, origin: str, here: Path) -> None:
        for path in [path for path in self.origins if path[: len(here)] == here]:
            del self.origins[path]
        node[key] = copy.deepcopy(value)
        for leaf, _ in leaves(value):
            self.origins[(*here, *leaf)] = origin

    def delete(self, path: Path, origin: str) -> None:
        """Takes out the node at `path`; in a shared part, out of this place's copy only."""
        node: Any = self.tree
        shared = False
        for depth, key in enumerate(path):
            last = depth == len(path) - 1
            shared = shared or (isinstance(node, dict) and _BASE in node)
            if not shared and (not isinstance(node, dict) or key not in node):
                raise ConfigError(f"{origin}: there is no {dotted(path[: depth + 1])}; {_near(key, node)}")
            if last and shared:
                mark = _Mark.DELETED_CHANGE if key in node else _Mark.DELETED
                self._replace(node, key, mark, origin, path)
            elif last:
                self._replace(node, key, None, origin, path)
                del node[key], self.origins[path]
            else:
                child = node.get(key)
                if not isinstance(child, dict):
                    node[key] = {_BASE: child} if _reference(child) else {}
                node = node[key]

    def resolved(self) -> tuple[dict[str, Any], dict[Path, str]]:
        """The tree with every whole reference replaced by what it names, and the origin of each leaf.

        Interpolations inside longer text are left as they are. Raises `ConfigError` for a reference
        to nothing or to itself.
        """
        return self._resolve(self.tree, (), frozenset())

    def _resolve(self, node: Any, here: Path, pending: frozenset[Path]) -> tuple[Any, dict[Path, str]]:
        """Value of a raw node, and origins by path below it."""
        reference = _reference(node)
        if reference:
            return self._follow(reference, here, pending)
        if isinstance(node, dict) and _BASE in node:
            value, origins = self._follow(node[_BASE], here, pending) if node[_BASE] else ({}, {})
            if not isinstance(value, dict):
                raise ConfigError(
                    f"{dotted(here)}: {self._origin(here)} changes keys of {node[_BASE]}, but that is {value!r} here"
                )
            return self._change(Layers(value, origins), node, here, pending)
        if not isinstance(node, dict | list) or not node:
            return node, {(): self.origins.get(here, "")}
        result: Any = {} if isinstance(node, dict) else [None] * len(node)
        origins = {}
        for key, child in _items(node):
            result[key], below = self._resolve(child, (*here, str(key)), pending)
            origins.update({(str(key), *path): origin for path, origin in below.items()})
        return result, origins

    def _change(
        self, shared: "Layers", changes: dict[Any, Any], here: Path, pending: frozenset[Path], inside: Path = ()
    ) -> tuple[dict[Any, Any], dict[Path, str]]:
        """Applies `changes`, which sit at `here` in this tree, at `inside` in the copy of a shared part."""
        for key, change in changes.items():
            below, target = (*here, str(key)), (*inside, str(key))
            if change is _Mark.DELETED or (change is _Mark.DELETED_CHANGE and _has(shared.tree, target)):
                shared.delete(target, self.origins[below])
            elif isinstance(change, dict) and change and _BASE not in change:
                self._change(shared, change, below, pending, target)
            elif key != _BASE and change is not _Mark.DELETED_CHANGE:
                new, origins = self._resolve(change, below, pending)
                for leaf, value in _replaced(new):
                    below_leaf = {path: origin for path, origin in origins.items() if path[: len(leaf)] == leaf}
                    shared.add(_nested((*target, *leaf), value), next(iter(below_leaf.values())))
                    if isinstance(value, list):  # its items may be of several layers
                        shared.origins.update({(*target, *path): origin for path, origin in below_leaf.items()})
        if shared.tree:
            shared.origins.pop((), None)  # it stood for a shared part without keys
        return shared.tree, shared.origins

    def _follow(self, reference: str, here: Path, pending: frozenset[Path]) -> tuple[Any, dict[Path, str]]:
        target = _absolute(reference, here)
        if here in pending or target == here[: len(target)]:
            raise ConfigError(f"{dotted(here)}: {reference} in {self._origin(here)} refers to itself")
        value, origins = self._at(target, pending | {here}, reference, here)
        return copy.deepcopy(value), dict(origins)

    def _at(self, target: Path, pending: frozenset[Path], reference: str, here: Path) -> tuple[Any, dict[Path, str]]:
        node: Any = self.tree
        for depth, key in enumerate(target):
            if _reference(node) or (isinstance(node, dict) and _BASE in node):
                value, origins = self._resolve(node, target[:depth], pending)
                return _below(value, origins, target[depth:])
            children = {str(name): child for name, child in _items(node)}
            if key not in children:
                raise ConfigError(
                    f"{dotted(here)}: {reference} in {self._origin(here)} names {dotted(target)}, "
                    f"which nothing sets; {suggestion(key, children)}"
                )
            node = children[key]
        return self._resolve(node, target, pending)

    def _origin(self, here: Path) -> str:
        below = [origin for path, origin in self.origins.items() if path[: len(here)] == here]
        return below[-1] if below else "the configuration"


def _has(node: Any, path: Path) -> bool:
    for key in path:
        if not isinstance(node, dict) or key not in node:
            return False
        node = node[key]
    return True


def _near(key: str, node: Any) -> str:
    return suggestion(key, [str(name) for name, _ in _items(node)])


def _nested(path: tuple[Any, ...], value: Any) -> dict[Any, Any]:
    for key in reversed(path[1:]):
        value = {key: value}
    return {path[0]: value}


def _below(value: Any, origins: dict[Path, str], path: Path) -> tuple[Any, dict[Path, str]]:
    for key in path:
        children = {str(name): child for name, child in _items(value)}
        if key not in children:
            raise ConfigError(f"a reference names {dotted(path)}, which nothing sets; {suggestion(key, children)}")
        value = children[key]
    return value, {leaf[len(path) :]: origin for leaf, origin in origins.items() if leaf[: len(path)] == path}


def _swaps(old: Mapping[Any, Any], new: Mapping[Any, Any]) -> bool:
    """Whether `new` puts another class in the place of `old`, whose keys then mean nothing."""
    return "_target_" in old and "_target_" in new and old["_target_"] != new["_target_"]


def _reference(value: Any) -> str | None:
    """The text of a value that is one whole reference such as `${reward}` or `${..seed}`, else None."""
    return value if isinstance(value, str) and _REFERENCE.match(value) else None


def _absolute(reference: str, here: Path) -> Path:
    """The path that a whole reference at `here` names; each leading dot goes up one level."""
    match = _REFERENCE.match(reference)
    assert match is not None
    keys = tuple(match["key"].split("."))
    up = len(match["up"])
    return keys if up == 0 else (*here[: max(len(here) - up, 0)], *keys)


def _is_position(key: Any, items: list[Any]) -> bool:
    return str(key).isdigit() and int(key) < len(items)
