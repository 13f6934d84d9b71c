"""What a finished tree says each of its steps was worth: targets for a value model, without labels of steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from thinkrl.grading.verdict import Verdict
from thinkrl.search.tree import Node, Tree


@dataclass(frozen=True)
class ValueTargets:
    """Targets by reasoning distance (arXiv 2406.03816): with m_k the fewest further steps to a right answer,

        v_0 = 0, v_k = max(v_{k-1} + w_k, 0)                                  (eq. 1)
        w_k = (1 - v_{k-1}) / (m_k + 1) * (1 - 2 r_k)                         (eq. 2)

    r_k is 0 for a step that a right end lies behind, else 1. The step at a right end has m = 0; every other on a right
    path has one more than the nearest of its children. A wrong end, and what lies between it and the nearest step of
    known distance, takes that step's m. Steps that no end lies behind have no target, and a tree without a right end
    has none at all: nothing is known of its distances.

    `reach`: 1 for a step that a right end lies behind, 0 for others on the way to an end (hard estimates, as of
    Math-Shepherd, arXiv 2312.08935). `route`: i / K along the best right path of K steps, and for steps that leave it
    below its step j, max(j - 1, 0) / K.
    """

    kind: Literal["distance", "reach", "route"] = "distance"
    """Which."""

    def infer(self, tree: Tree) -> list[Node]:
        """Sets `distance` (m + 1), `right` and `target` of the steps that have one, and returns those in tree order.

        Ends must have been judged; one without an answer is not right, and one that could not be judged says nothing.
        """
        for node in tree.root.walk():
            node.distance, node.right, node.target = None, False, None
        judged = [end for end in tree.ends() if end.verdict not in (Verdict.UNGRADABLE, Verdict.TIMEOUT)]
        right = [end for end in judged if end.verdict is Verdict.CORRECT]
        if not right:
            return []
        if self.kind == "route":
            _set_route(max(right, key=_worth))
        else:
            _measure(right, [end for end in judged if end.verdict is not Verdict.CORRECT])
            _set_values(tree.root, 0.0, reach=self.kind == "reach")
        return [node for node in tree.root.walk() if node.target is not None]


def _measure(right: Sequence[Node], wrong: Sequence[Node]) -> None:
    """Distances m + 1 and marks of right paths, from the ends upwards."""
    for end in right:
        end.distance = 1
    for end in right:
        end.right = True
        above = end.parent
        while above is not None:
            above.distance = min(child.distance for child in above.children if child.distance is not None) + 1
            above.right = True
            above = above.parent
    for end in wrong:
        unknown = [node for node in end.path() if node.distance is None]
        known = [node.distance for node in end.path() if node.distance is not None]
        for node in unknown:
            node.distance = known[-1]


def _set_values(node: Node, value: float, *, reach: bool) -> None:
    """Targets below `node`, whose own value is `value`."""
    for child in node.children:
        if child.distance is not None:
            step = (1.0 - value) / child.distance
            quality = max(0.0, value + (step if child.right else -step))
            child.target = float(child.right) if reach else quality
            _set_values(child, quality, reach=reach)


def _set_route(end: Node) -> None:
    """Targets along the path to `end`, and of the steps that leave it."""
    path = end.path()
    length = len(path) - 1
    for depth, node in enumerate(path):
        for child in node.children:
            child.target = max(depth - 1, 0) / length
    for depth, node in enumerate(path[1:], start=1):
        node.right, node.target = True, depth / length


def _worth(end: Node) -> float:
    """The end's value; below all others where it was never read."""
    return end.value if end.value == end.value else -1.0
