"""The search tree of one question: what a search grows, a stage saves and goes on with, and people look at."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from math import isnan, nan
from typing import Any, Literal

from thinkrl.data.source import json_value
from thinkrl.data.traces import stored_prompt
from thinkrl.grading.verdict import Verdict
from thinkrl.rollouts.prompt import Prompt

End = Literal["", "finished", "value", "stuck", "long"]
"""Why nothing follows a node: not yet known; the solution is finished; its value is high enough; no step could be
found behind it; it ran into the limit of tokens."""


@dataclass(eq=False)
class Node:
    """A beginning of a solution, by its last step; the root is the empty beginning, or what the template opens.

    text, token_ids: the step alone. value, visits: V and N of the search; V is from 0 to 1, and NaN where it was never
    read. times: how often the step was proposed here. rest: what was written behind an end that had no answer yet.
    answer, verdict: of an end. distance, right, target: what the finished tree says (see `value_targets`).
    """

    text: str = ""
    token_ids: tuple[int, ...] = ()
    value: float = nan
    visits: int = 0
    times: int = 1
    end: End = ""
    rest: str = ""
    answer: str | None = None
    verdict: Verdict | None = None
    distance: int | None = None
    right: bool = False
    target: float | None = None
    parent: "Node | None" = field(default=None, repr=False)
    children: list["Node"] = field(default_factory=list, repr=False)

    def path(self) -> list["Node"]:
        """The nodes from the root to this one."""
        found: list[Node] = []
        node: Node | None = self
        while node is not None:
            found.append(node)
            node = node.parent
        return found[::-1]

    @property
    def depth(self) -> int:
        """Steps so far; 0 for the root."""
        return len(self.path()) - 1

    @property
    def beginning(self) -> str:
        """The text of all steps so far."""
        return "".join(node.text for node in self.path())

    @property
    def solution(self) -> str:
        """The text of all steps so far, with what was written behind an end that had no answer."""
        return self.beginning + self.rest

    @property
    def beginning_ids(self) -> tuple[int, ...]:
        """The tokens of all steps so far, as they were sampled."""
        return tuple(token for node in self.path() for token in node.token_ids)

    def walk(self) -> Iterator["Node"]:
        """This node and all below it, each before its children."""
        yield self
        for child in self.children:
            yield from child.walk()

    def written(self, *, ids: bool) -> dict[str, Any]:
        """JSON values: what is known of the node, and its children, nested."""
        known = {
            "times": self.times if self.times > 1 else None,
            "end": self.end or None,
            "rest": self.rest or None,
            "answer": self.answer,
            "verdict": self.verdict.value if self.verdict else None,
            "distance": self.distance,
            "right": self.right or None,
            "target": self.target,
            "token_ids": list(self.token_ids) if ids else None,
        }
        return {
            "text": self.text,
            "value": None if isnan(self.value) else self.value,
            "visits": self.visits,
            **{name: value for name, value in known.items() if value is not None},
            "children": [child.written(ids=ids) for child in self.children],
        }


@dataclass(eq=False)
class Tree:
    """A question with its search tree, and what the search has spent on it.

    rounds: rounds of the search. asked: how often steps were asked for; it keys random streams. proposals: steps, or
    whole solutions, that were sampled, of which `dropped` could not be used and `cut` ran into the limit of tokens.
    tokens: sampled in all. found: whether a search that stops at its first solution has one.
    """

    prompt: Prompt
    root: Node
    rounds: int = 0
    asked: int = 0
    proposals: int = 0
    dropped: int = 0
    cut: int = 0
    tokens: int = 0
    found: bool = False

    def ends(self) -> list[Node]:
        """The ends in tree order: nodes that nothing follows, the root aside."""
        return [node for node in self.root.walk() if node.end and not node.children and node.parent is not None]

    def written(self, *, ids: bool = False) -> dict[str, Any]:
        """JSON values, the root last; with `ids`, all that `read_tree` needs to go on exactly."""
        counts = ("rounds", "asked", "proposals", "dropped", "cut", "tokens", "found")
        return {
            "prompt": json_value(asdict(self.prompt)),
            **{name: getattr(self, name) for name in counts},
            "root": self.root.written(ids=ids),
        }


def read_tree(written: Mapping[str, Any]) -> Tree:
    """The tree that `Tree.written` wrote."""
    counts = {name: value for name, value in written.items() if name not in ("prompt", "root")}
    return Tree(stored_prompt(written["prompt"]), _read_node(written["root"], None), **counts)


def _read_node(written: Mapping[str, Any], parent: Node | None) -> Node:
    plain = ("visits", "times", "end", "rest", "answer", "distance", "right", "target")
    node = Node(
        text=written["text"],
        token_ids=tuple(written.get("token_ids", ())),
        value=nan if written["value"] is None else float(written["value"]),
        verdict=Verdict(written["verdict"]) if "verdict" in written else None,
        parent=parent,
        **{name: written[name] for name in plain if name in written},
    )
    node.children = [_read_node(child, node) for child in written["children"]]
    return node


def outline(root: Node) -> str:
    """The tree as indented lines to read: V, N, the step, and what came of it."""
    lines = []
    for node in root.walk():
        if node.parent is not None:
            came = f" -> {node.answer} ({node.verdict.value})" if node.answer is not None and node.verdict else ""
            target = "" if node.target is None else f" target {node.target:.2f}"
            value = "" if isnan(node.value) else f"V {node.value:.2f} "
            step = " ".join(node.text.split())
            lines.append(f"{'  ' * (node.depth - 1)}{value}N {node.visits}{target}  {step}{came}")
    return "\n".join(lines)
