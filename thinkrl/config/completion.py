"""Writes what the component classes know into a configuration: default values, and sizes capped by the scale.

After this every value that a run uses is in the tree, with its origin: no second defaults hide in code.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from thinkrl.config.component import ConfigError
from thinkrl.config.layers import leaves
from thinkrl.config.schema import TARGET, child_annotation, class_of, fields_of, sized_kind, to_node

if TYPE_CHECKING:
    from thinkrl.config.composed import Composed


def complete(composed: "Composed") -> "Composed":
    """The configuration with defaults filled in and sizes capped.

    A value from the command line is not capped. Components that cannot be loaded are left as they
    are: `build` reports them with everything else.
    """
    scale = composed.tree.get("scale")
    limits = scale.get("limits") if isinstance(scale, Mapping) else None
    work = _Completion(composed, limits if isinstance(limits, Mapping) else {}, dict(composed.origins))
    tree = {key: work.visit(node, Any, str(key)) for key, node in composed.tree.items()}
    return dataclasses.replace(composed, tree=tree, origins=work.origins, capped=work.capped)


@dataclass
class _Completion:
    composed: "Composed"
    limits: Mapping[str, int]
    origins: dict[str, str]
    capped: dict[str, tuple[int, str]] = field(default_factory=dict)

    def visit(self, node: Any, annotation: Any, path: str) -> Any:
        """The node at `path`, completed."""
        try:
            cls = class_of(node, annotation)
            if cls is not None:
                return self._component(node, cls, path)
        except ConfigError:
            return node
        if isinstance(node, Mapping):
            return {k: self.visit(v, child_annotation(annotation, k), f"{path}.{k}") for k, v in node.items()}
        if isinstance(node, list):
            return [self.visit(v, child_annotation(annotation, i), f"{path}.{i}") for i, v in enumerate(node)]
        return self._capped(node, annotation, path)

    def _component(self, node: Mapping[Any, Any], cls: type, path: str) -> dict[Any, Any]:
        known = fields_of(cls)
        result: dict[Any, Any] = {TARGET: node[TARGET]} if TARGET in node else {}
        for name, info in known.items():
            here = f"{path}.{name}"
            if name in node:
                result[name] = self.visit(node[name], info.annotation, here)
            elif not info.required:
                try:
                    value = to_node(info.default)
                except TypeError:
                    continue
                for leaf, _ in leaves(value):
                    self.origins[".".join((here, *leaf))] = f"default of {cls.__name__}"
                result[name] = self.visit(value, info.annotation, here)
        result.update({key: value for key, value in node.items() if key not in result})
        if len(result) > 0:
            self.origins.pop(path, None)
        return result

    def _capped(self, value: Any, annotation: Any, path: str) -> Any:
        kind = sized_kind(annotation)
        cap = self.limits.get(kind) if kind else None
        origin = self.origins.get(path, "")
        if not isinstance(cap, int) or isinstance(value, bool) or not isinstance(value, int) or value <= cap:
            return value
        if origin.startswith("override "):
            return value
        self.capped[path] = (value, origin)
        self.origins[path] = f"{self.composed.origin(f'scale.limits.{kind}')} caps {kind}"
        return cap
