"""A composed configuration: one resolved tree in which every value knows who set it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, eq=False)
class Composed:
    """A resolved configuration.

    tree: plain dicts, lists and scalars. origins: who set each leaf, by dotted key. overrides: as
    given. capped: for each size that the scale shrank, the value before and who had set it.
    """

    tree: dict[str, Any]
    origins: dict[str, str]
    recipe_id: str
    recipe_path: Path
    overrides: tuple[str, ...] = ()
    capped: dict[str, tuple[int, str]] = field(default_factory=dict)

    def origin(self, key: str) -> str:
        """Who set the value at a dotted key: for a node its `_target_`, else its first leaf; never empty."""
        for exact in (key, f"{key}._target_" if key else "_target_"):
            if exact in self.origins:
                return self.origins[exact]
        prefix = f"{key}." if key else ""
        for leaf, origin in self.origins.items():
            if leaf.startswith(prefix):
                return origin
        return self.origin(key.rpartition(".")[0]) if key else str(self.recipe_path)
