"""The search that every other is measured against: whole solutions, one beside the other."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from thinkrl.config.component import GroupSize, Steps
from thinkrl.search.method import Judge, Plan, Proposal, Propose, SearchMethod
from thinkrl.search.steps import StepRule
from thinkrl.search.tree import Node, Tree


@dataclass(frozen=True, kw_only=True)
class SampledSolutions(SearchMethod):
    """`samples` whole solutions a round, kept as a tree in which equal beginnings are one.

    With a vote over the answers it is self-consistency (arXiv 2203.11171), with the value of whole solutions best of n,
    and its right ones are what ReST-EM (arXiv 2312.06585) learns from. Needs no value model; where there is one it
    reads whole solutions alone.
    """

    guided: ClassVar[bool] = False

    samples: GroupSize = 16
    """Solutions sampled in a round."""
    rounds: Steps = 1
    """Most rounds."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, got {self.samples}")

    def proposals(self) -> int:
        """Solutions."""
        return self.samples

    def round(self, tree: Tree, rule: StepRule, stream: np.random.Generator) -> Plan:
        """Samples, and puts the solutions into the tree."""
        (proposals,) = yield Propose([tree.root], self.samples, whole=True)
        ends = [grafted(tree.root, proposal, rule) for proposal in proposals]
        new = [end for end in dict.fromkeys(ends) if end.times == ends.count(end)]
        if new:
            yield Judge(new)


def grafted(root: Node, proposal: Proposal, rule: StepRule) -> Node:
    """The end of a whole solution, after its steps were put below `root`; known ones are counted once more."""
    node = root
    node.visits += 1
    for text in rule.split(proposal.text):
        known = next((child for child in node.children if child.text == text), None)
        if known is None:
            known = Node(text, parent=node, times=0)
            node.children.append(known)
        node = known
        node.visits, node.times = node.visits + 1, node.times + 1
    if node.parent is not None:
        node.end = "long" if proposal.cut and not rule.ended(node.beginning) else "finished"
    return node
