"""The scale of a run: caps on sizes, and the groups it swaps for small ones."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import get_args

from thinkrl.config import component
from thinkrl.config.component import Sized

SIZED_KINDS: frozenset[str] = frozenset(
    metadata.kind
    for alias in vars(component).values()
    for metadata in get_args(alias)[1:]
    if isinstance(metadata, Sized)
)
"""Every kind of size that a scale can cap."""


@dataclass(frozen=True)
class Scale:
    """Shrinks a recipe: every size of a capped kind becomes min(value, cap), whatever component holds it.

    A value given on the command line is never capped: the command line has the last word.
    """

    limits: Mapping[str, int] = field(default_factory=dict)
    """The cap of each kind of size (see `config/component.py`); a kind that is absent is not capped."""
    choose: Mapping[str, str] = field(default_factory=dict)
    """Group choices that this scale makes for the recipe, such as `model: tiny`."""
    plumbing: bool = False
    """Only the pipeline is tried, not what it learns: a stage that would find nothing to go on with takes what
    there is, and says so."""

    def __post_init__(self) -> None:
        for kind, cap in self.limits.items():
            if kind not in SIZED_KINDS:
                raise ValueError(f"limits must name kinds among {', '.join(sorted(SIZED_KINDS))}, got {kind}")
            if cap < 1:
                raise ValueError(f"limits must be at least 1, got {kind}: {cap}")
