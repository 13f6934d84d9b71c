"""Trees for tests, written as nested tuples, and a stand-in for policy and value model."""

from collections.abc import Callable, Sequence
from typing import Any

from thinkrl.grading.verdict import Verdict
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.search.method import Plan, Proposal, Propose
from thinkrl.search.tree import Node, Tree

MARKS = {"right": Verdict.CORRECT, "wrong": Verdict.WRONG, "unread": Verdict.UNGRADABLE, "late": Verdict.TIMEOUT}


def node(text: str, *children: Node, end: str = "", value: float = 0.5, visits: int = 0, **known: Any) -> Node:
    """A node above `children`; `end` is right, wrong, unread, late, silent (no answer), or empty for no end."""
    made = Node(text, value=value, visits=visits, children=list(children), **known)
    for child in children:
        child.parent = made
    if end:
        made.end, made.verdict = "finished", MARKS.get(end)
        made.answer = None if end == "silent" else made.answer or text
    return made


def tree(*children: Node, reference: Any = "7") -> Tree:
    """A tree whose root has `children`."""
    return Tree(Prompt("q/1", (Message("user", "3+4"),), reference), node("", *children, value=0.0))


def by_text(root: Node) -> dict[str, Node]:
    """The nodes by their texts, which differ."""
    found = {one.text: one for one in root.walk()}
    assert len(found) == sum(1 for _ in root.walk())
    return found


def carry_out(
    plan: Plan, propose: Callable[[Node, int], Sequence[str]], value: Callable[[str], float]
) -> list[tuple[str, list[str]]]:
    """Answers a plan's requests one by one, and says what they were."""
    asked = []
    request = next(plan, None)
    while request is not None:
        reply: list[list[Proposal]] = []
        if isinstance(request, Propose):
            asked.append(("propose", [one.beginning for one in request.nodes]))
            for one in request.nodes:
                texts = propose(one, request.count)
                reply.append([Proposal(text, (len(text),), text.endswith("."), text.endswith("~")) for text in texts])
        else:
            asked.append(("judge", [one.beginning for one in request.nodes]))
            for one in request.nodes:
                one.value = value(one.beginning)
        try:
            request = plan.send(reply)
        except StopIteration:
            request = None
    return asked
