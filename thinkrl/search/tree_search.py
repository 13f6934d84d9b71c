"""Tree search that a value model guides: selection, expansion, a look ahead, backup."""

from collections.abc import Generator
from dataclasses import dataclass, field

import numpy as np

from thinkrl.config.component import GroupSize
from thinkrl.search.backup import back_up, mixed
from thinkrl.search.method import Judge, Plan, Proposal, Propose, SearchMethod
from thinkrl.search.selection import UpperConfidence
from thinkrl.search.steps import StepRule
from thinkrl.search.tree import Node, Tree

_Steps = Generator[Propose | Judge, list[list[Proposal]], list[Node]]
_Value = Generator[Propose | Judge, list[list[Proposal]], float]


@dataclass(frozen=True, kw_only=True)
class ValueGuidedSearch(SearchMethod):
    """MCTS* (arXiv 2406.03816, Algorithm 2), one expansion a round.

    Selection goes down by `selection`. A node whose value reaches `end_value` ends there. Expansion samples `branches`
    steps, which the value model reads. Simulation goes on greedily from the best of them, `forward` steps, each the
    best of `look_branches`, and mixes the greatest value seen into the step's own; what was said on the way is
    forgotten. Backup follows.
    """

    branches: GroupSize = 3
    """b: steps sampled at an expansion; equal ones count once."""
    selection: UpperConfidence = field(default_factory=UpperConfidence)
    """Which node is expanded."""
    forward: int = 1
    """Steps of the look ahead."""
    look_branches: int = 1
    """Steps sampled at each step of the look ahead."""
    mixing: float = 0.5
    """alpha: weight of what the look ahead saw."""
    end_value: float = 0.8
    """A solution whose value reaches this is taken to be finished."""
    stop_at_end: bool = False
    """Whether the search stops at the first node whose value reaches `end_value`; else it goes on elsewhere."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("branches", "look_branches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.forward < 0:
            raise ValueError(f"forward must be 0 or more, got {self.forward}")
        for name in ("mixing", "end_value"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")

    def proposals(self) -> int:
        """An expansion, and the look ahead."""
        return self.branches + self.forward * self.look_branches

    def round(self, tree: Tree, rule: StepRule, stream: np.random.Generator) -> Plan:
        """Selection, expansion, simulation, backup."""
        node = self.selection.select(tree.root, stream)
        if not node.end and self.is_enough(node):
            node.end = "value"
            tree.found = self.stop_at_end
            if tree.found:
                return
        if not node.end:
            node.children = yield from self._next_steps(node, self.branches, rule)
            node.end = "" if node.children else "stuck"
        if node.children:
            best = self.selection.best_child(node, stream)
            seen = yield from self._look_ahead(best, rule)
            best.value = mixed(best.value, seen, self.mixing)
            best.visits += 1
        back_up(node)

    def is_enough(self, node: Node) -> bool:
        """Whether its value reaches `end_value`."""
        return node.value >= self.end_value

    def _next_steps(self, node: Node, count: int, rule: StepRule) -> _Steps:
        """Different next steps with their values; none where nothing can follow."""
        if not rule.has_room(node):
            return []
        (proposals,) = yield Propose([node], count)
        found: dict[str, Node] = {}
        for proposal in proposals:
            if proposal.text in found:
                found[proposal.text].times += 1
                continue
            step = Node(proposal.text, proposal.token_ids, parent=node)
            step.end = "finished" if proposal.finished or rule.ended(step.beginning) else ""
            found[proposal.text] = step
        if found:
            yield Judge(list(found.values()))
        return list(found.values())

    def _look_ahead(self, node: Node, rule: StepRule) -> _Value:
        """The greatest value of the steps behind `node`, 0 where there are none; its own where it is an end."""
        if node.end or not self.forward:
            return node.value
        seen, here = 0.0, node
        for _ in range(self.forward):
            steps = yield from self._next_steps(here, self.look_branches, rule)
            if not steps:
                break
            here = max(steps, key=lambda step: step.value)
            seen = max(seen, here.value)
            if here.end:
                break
        return seen
