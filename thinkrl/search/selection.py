"""Selection: down the tree by upper confidence bounds."""

from dataclasses import dataclass
from math import log, sqrt

import numpy as np

from thinkrl.search.tree import Node


@dataclass(frozen=True)
class UpperConfidence:
    """UCT(i) = V_i + c sqrt(2 ln N_parent / N_i) where N_i > 0, else V_i + u; the greatest is taken, one of several at
    random.

    The selection of MCTS* (arXiv 2406.03816, Algorithm 2). A child that was never visited does not come first at any
    price: u is about what a bound adds to a child that was visited little.
    """

    exploration: float = 0.5
    """c: how much little-visited steps are preferred."""
    unvisited: float = 0.9
    """u: what is added to the value of a step that was never visited."""

    def __post_init__(self) -> None:
        for name in ("exploration", "unvisited"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")

    def bound(self, value: float, visits: int, parent_visits: int) -> float:
        """UCT of a child with `value` and `visits`."""
        if visits == 0:
            return value + self.unvisited
        return value + self.exploration * sqrt(2 * log(parent_visits) / visits)

    def best_child(self, node: Node, stream: np.random.Generator) -> Node:
        """The child with the greatest bound; equal ones by a draw from `stream`."""
        bounds = [self.bound(child.value, child.visits, node.visits) for child in node.children]
        best = [child for child, bound in zip(node.children, bounds, strict=True) if bound == max(bounds)]
        return best[0] if len(best) == 1 else best[int(stream.integers(len(best)))]

    def select(self, root: Node, stream: np.random.Generator) -> Node:
        """The node without children that is reached from `root` by best children."""
        node = root
        while node.children:
            node = self.best_child(node, stream)
        return node
