"""What a finished tree is used for: its answer, and the solutions that are learned from."""

from collections.abc import Callable
from dataclasses import dataclass
from math import isnan
from typing import Literal

from thinkrl.grading.verdict import Verdict
from thinkrl.search.method import Plan, Propose
from thinkrl.search.steps import StepRule
from thinkrl.search.tree import Node, Tree

AnswerRule = Literal["best_value", "weighted_vote", "vote"]
"""Which end says a tree's answer: that of the highest value; one whose answer has the greatest sum of values over all
ends; or one whose answer was given most often."""


def finish(tree: Tree, rule: StepRule, extract: Callable[[str], str | None], tries: int) -> Plan:
    """Finds the answer of every end; where there is none yet, the policy writes the rest, `tries` times at most.

    It is the summary of arXiv 2406.03816, of ends whose value was high enough or that nothing followed. What the policy
    itself ended, or what ran into the limit of tokens, stays without an answer.
    """
    for end in tree.ends():
        end.answer = extract(end.beginning)
    for _ in range(tries):
        left = [end for end in tree.ends() if end.answer is None and end.end in ("value", "stuck")]
        left = [end for end in left if len(end.beginning_ids) < rule.solution_tokens]
        if not left:
            return
        for end, proposals in zip(left, (yield Propose(left, 1, whole=True)), strict=True):
            for proposal in proposals:
                end.rest = proposal.text
                end.answer = extract(end.solution)


def chosen_end(tree: Tree, by: AnswerRule) -> Node | None:
    """The end whose answer is the tree's; of equal ones the first in tree order. None where no end has an answer."""
    ends = [end for end in tree.ends() if end.answer is not None]
    if not ends:
        return None
    if by == "best_value":
        return max(ends, key=_value)
    votes: dict[str | None, float] = {}
    for end in ends:
        weight = float(end.times) * (_value(end) if by == "weighted_vote" else 1.0)
        votes[end.answer] = votes.get(end.answer, 0.0) + weight
    return max(ends, key=lambda end: votes[end.answer])


@dataclass(frozen=True)
class TraceSelection:
    """Which right solutions of a tree are learned from: the critic's filter of arXiv 2406.03816."""

    minimum_value: float | None = 0.2
    """A solution of a lower value is left out, though its answer is right; null asks for none."""
    minimum_characters: int = 1
    """Shorter solutions are left out."""
    per_tree: int = 1_000_000
    """At most this many of a tree, those of the highest value first."""

    def __post_init__(self) -> None:
        if self.minimum_value is not None and not 0 <= self.minimum_value <= 1:
            raise ValueError(f"minimum_value must be between 0 and 1, got {self.minimum_value}")
        for name in ("minimum_characters", "per_tree"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def choose(self, tree: Tree) -> list[Node]:
        """The ends whose solutions are kept, best first; equal texts count once."""
        right = [end for end in tree.ends() if end.verdict is Verdict.CORRECT]
        kept: dict[str, Node] = {}
        for end in sorted(right, key=_value, reverse=True):
            good = self.minimum_value is None or _value(end) >= self.minimum_value
            if good and len(end.solution.strip()) >= self.minimum_characters:
                kept.setdefault(end.solution.strip(), end)
        return list(kept.values())[: self.per_tree]


def _value(end: Node) -> float:
    """The end's value; 0 where it was never read."""
    return 0.0 if isnan(end.value) else end.value
