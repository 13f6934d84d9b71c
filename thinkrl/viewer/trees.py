"""Search trees: `search/*.json` in a stage's folder.

A file holds a node, or an object whose `root` is one (beside `prompt_id` and other facts), or a list of such objects.
A node has `text`, `value`, `visits` and `children`, all of them optional; other keys are shown as they are.
"""

import json
from collections import deque
from pathlib import Path
from typing import Any

from thinkrl.tracking.errors import RunError
from thinkrl.viewer.values import number, plain

MOST_NODES = 5_000
"""Nodes of a file that are shown, nearest to the roots first."""
LONGEST = 20_000
"""Characters of a node's text that are shown."""
_FOLDER = "search"
_OWN = ("text", "value", "visits", "children")


def tree_names(folder: Path) -> list[str]:
    """Names of the trees in a stage's folder."""
    return sorted(path.stem for path in (folder / _FOLDER).glob("*.json"))


def read_trees(folder: Path, name: str) -> dict[str, Any]:
    """The trees of one file: `facts` of each, and the `nodes` of all, parents before children.

    A node names its `parent` by its place in the list, a root its `tree`. `left`: how many nodes are left out.
    Raises LookupError for a name that is not there, RunError for a file that holds no tree.
    """
    if name not in tree_names(folder):
        raise LookupError(f"no search tree {name!r}")
    path = folder / _FOLDER / f"{name}.json"
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        given = held if isinstance(held, list) else [held]
        if not given or not all(isinstance(one, dict) for one in given):
            raise ValueError("expected an object, or a list of them")
        facts, roots = [], []
        for one in given:
            apart = isinstance(one.get("root"), dict)
            facts.append({str(key): plain(value) for key, value in one.items() if key != "root"} if apart else {})
            roots.append(one["root"] if apart else one)
        return {"name": name, "facts": facts, **_flatten(roots)}
    except (OSError, ValueError, RecursionError) as error:
        said = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise RunError(f"{path} holds no search tree that can be read: {said}") from error


def _flatten(roots: list[dict[str, Any]]) -> dict[str, Any]:
    """The nodes below `roots`, generation after generation, up to the limit."""
    nodes: list[dict[str, Any]] = []
    waiting = deque((root, {"tree": place}) for place, root in enumerate(roots))
    left = 0
    while waiting:
        source, origin = waiting.popleft()
        if len(nodes) >= MOST_NODES:
            left += 1
        else:
            nodes.append({**_node(source), **origin})
        place = len(nodes) - 1
        children = source.get("children")
        for child in children if isinstance(children, list) else ():
            if isinstance(child, dict):
                waiting.append((child, {"parent": place}))
    return {"nodes": nodes, "left": left}


def _node(node: dict[str, Any]) -> dict[str, Any]:
    text = node.get("text")
    return {
        "text": ("" if text is None else str(text))[:LONGEST],
        "value": number(node.get("value")),
        "visits": number(node.get("visits")),
        "other": {str(key): plain(value) for key, value in node.items() if key not in _OWN},
    }
