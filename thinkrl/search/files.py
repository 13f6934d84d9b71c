"""Trees as files: one a question, to look at and to learn from."""

import json
import re
from pathlib import Path

from thinkrl.search.answers import AnswerRule, chosen_end
from thinkrl.search.tree import Tree, read_tree

FOLDER = "search"
"""The folder of a stage's trees, within the stage's own."""
_FACTS = ("prompt_id", "question", "reference", "answer", "verdict", "solution")


def tree_file(tree: Tree, place: int, by: AnswerRule) -> tuple[str, str]:
    """Name and text of the file of a finished tree, the question at `place` among those visited.

    JSON: the question, the answer that is chosen `by` that rule (null where there is none), what the search spent, and
    at last `root`, nodes nested in nodes.
    """
    end = chosen_end(tree, by)
    facts = {
        "prompt_id": tree.prompt.prompt_id,
        "question": tree.prompt.messages[-1].content,
        "reference": tree.prompt.reference,
        "answer": end.answer if end else None,
        "verdict": end.verdict.value if end and end.verdict else None,
        "solution": end.solution if end else None,
    }
    name = re.sub(r"[^A-Za-z0-9.-]+", "_", tree.prompt.prompt_id)[:80]
    return f"{place:06d}_{name}.json", json.dumps(facts | tree.written(), ensure_ascii=False, indent=1) + "\n"


def read_tree_files(folder: Path) -> list[Tree]:
    """The trees of a stage's folder, in the order in which the questions were visited."""
    found = []
    for path in sorted((folder / FOLDER).glob("*.json")):
        written = json.loads(path.read_text(encoding="utf-8"))
        found.append(read_tree({name: value for name, value in written.items() if name not in _FACTS}))
    return found
