"""The contract of a search: rounds that ask for steps and values, and are given them for many trees at once."""

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from thinkrl.config.component import Steps
from thinkrl.search.steps import StepRule
from thinkrl.search.tree import Node, Tree


@dataclass(frozen=True, eq=False)
class Propose:
    """Asks for `count` next steps behind each of `nodes`; for all that follows at once where `whole`."""

    nodes: Sequence[Node]
    count: int
    whole: bool = False


@dataclass(frozen=True, eq=False)
class Judge:
    """Asks for the values of `nodes`, which are set; they stay NaN where no value model reads them."""

    nodes: Sequence[Node]


@dataclass(frozen=True, eq=False)
class Proposal:
    """A step that was sampled. finished: the policy ended the solution. cut: it ran into the limit of tokens."""

    text: str
    token_ids: tuple[int, ...]
    finished: bool
    cut: bool


Plan = Generator[Propose | Judge, list[list[Proposal]], None]
"""One round on one tree: yields what it needs next, and is sent the usable proposals for each node of a `Propose` (an
empty list for a `Judge`)."""


@dataclass(frozen=True, kw_only=True)
class SearchMethod(ABC):
    """Grows a tree in rounds, until as many are done or as many tokens are sampled as may be."""

    guided: ClassVar[bool] = True
    """Whether it cannot do without values."""

    rounds: Steps = 50
    """Most rounds."""
    max_tokens: int | None = None
    """No round begins once so many tokens were sampled for a tree; null sets no limit."""

    def __post_init__(self) -> None:
        for name in ("rounds", "max_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")

    @abstractmethod
    def round(self, tree: Tree, rule: StepRule, stream: np.random.Generator) -> Plan:
        """One round; what is drawn, is drawn from `stream`."""

    @abstractmethod
    def proposals(self) -> int:
        """About how many steps a round samples, or whole solutions: for the time left only."""

    def over(self, tree: Tree) -> bool:
        """Whether no further round begins."""
        spent = self.max_tokens is not None and tree.tokens >= self.max_tokens
        return tree.found or spent or tree.rounds >= self.rounds

    def is_enough(self, node: Node) -> bool:
        """Whether the node's value says that its solution is finished."""
        return False

    def close(self, tree: Tree) -> None:
        """Marks the ends that only the end of the search makes known: what nothing follows yet and is worth enough."""
        for node in tree.root.walk():
            if not node.children and not node.end and self.is_enough(node):
                node.end = "value"
