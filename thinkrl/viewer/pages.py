"""What the page asks for, by name: the run, a page of responses, one response, a search tree. Nothing is written.

Server, export and terminal all show what is made here.
"""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from thinkrl import __version__
from thinkrl.viewer.facts import MARKS, ORDERS, Facts
from thinkrl.viewer.finding import PAGE, Finder, Query
from thinkrl.viewer.response import responses_json
from thinkrl.viewer.run import RolloutFile, ViewedRun
from thinkrl.viewer.table import list_lengths
from thinkrl.viewer.transcripts import Transcripts
from thinkrl.viewer.trees import read_trees, tree_names
from thinkrl.viewer.values import around, beginning, loaded, number

_SNIPPET = 180
_ASKED = 160


class Pages:
    """A run, open for reading; several threads may ask, and are answered one after the other."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError where there is no run."""
        self.run = ViewedRun.open(path)
        self.finder = Finder(self.run)
        self._transcripts = Transcripts()
        self._lock = threading.Lock()

    def overview(self) -> dict[str, Any]:
        """The run and its stages as they are now."""
        reading = self.run.reading()
        kinds = {stage.name: stage for stage in reading.stages}
        stages = []
        for key in self.run.stage_keys():
            name = key.partition("_")[2]
            known = kinds.get(name)
            stages.append(
                {
                    "key": key,
                    "name": name,
                    "kind": known.kind if known else "",
                    "status": known.status if known else "",
                    "steps": self.run.steps(key),
                    "trees": tree_names(self.run.stage_folder(key)),
                }
            )
        return {
            "version": __version__,
            "recipe": reading.recipe,
            "name": self.run.path.resolve().name,
            "seed": reading.seed,
            "outcome": reading.outcome,
            "finished": reading.finished,
            "stages": stages,
            "marks": MARKS,
            "orders": ORDERS,
            "page_size": PAGE,
            "default_stage": self.default_stage(),
        }

    def default_stage(self) -> str:
        """The last stage that trained, or is at work, and kept responses; else the last that kept any; else empty."""
        training = {s.name for s in self.run.reading().stages if "model" in s.artifacts or s.status == "running"}
        kept = [key for key in self.run.stage_keys() if self.run.steps(key) or tree_names(self.run.stage_folder(key))]
        trained = [key for key in kept if key.partition("_")[2] in training]
        return (trained or kept or [""])[-1]

    def listing(self, query: Query, size: int = PAGE) -> dict[str, Any]:
        """A page of responses. Raises LookupError for an unknown stage or step."""
        with self._lock:
            found = self.finder.find(query, size=size)
            rows = self.rows(found.rows, query.text)
            return {
                "rows": rows,
                "groups": self._groups(found.rows),
                "page": query.page,
                "pages": max(1, -(-found.total // size)),
                "total": found.total,
                "searched": found.searched,
                "of": found.of,
                "counts": self.finder.mark_counts(query),
                "problems": list(found.problems),
            }

    def response(self, stage: str, step: int, row: int) -> dict[str, Any]:
        """One response in full. Raises LookupError where there is none."""
        return self.responses(stage, step, [row])[0]

    def responses(self, stage: str, step: int, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Responses of one step in full, ascending. Raises LookupError where one is not there."""
        with self._lock:
            files = self.run.files(stage, step)
            if not files:
                raise LookupError(f"no rollouts of step {step} in stage {stage}")
            return responses_json(self.finder, self._transcripts, files[0], rows)

    def trees(self, stage: str, name: str) -> dict[str, Any]:
        """A file of search trees. Raises LookupError where there is none."""
        return read_trees(self.run.stage_folder(stage), name)

    def rows(self, places: Sequence[tuple[RolloutFile, int]], text: str = "") -> list[dict[str, Any]]:
        """What the list shows of each response, in the order given."""
        shown: dict[tuple[RolloutFile, int], dict[str, Any]] = {}
        for file in dict.fromkeys(file for file, _ in places):
            numbers = sorted(row for other, row in places if other == file)
            facts, table = self.finder.facts(file), self.finder.table(file)
            length = table.length_column()
            read = table.take(numbers, ["text", "messages", *([length] if length else [])])
            lengths = list_lengths(read[length]).tolist() if read is not None and length else [None] * len(numbers)
            texts = _column(read, "text", len(numbers))
            asked = _column(read, "messages", len(numbers))
            for place, row in enumerate(numbers):
                shown[file, row] = {
                    **_row(facts, file, row),
                    "tokens": lengths[place],
                    "begins": around(str(texts[place] or ""), text, _SNIPPET),
                    "asked": beginning(_last_message(asked[place]), _ASKED),
                }
        return [shown[place] for place in places]

    def _groups(self, places: Sequence[tuple[RolloutFile, int]]) -> dict[str, dict[str, Any]]:
        """The groups on a page, by step and id."""
        found = {}
        for file, row in places:
            name = self.finder.facts(file).group_ids[row]
            group = self.finder.facts(file).groups[name]
            found[f"{file.step} {name}"] = {"size": group.size, "correct": group.correct, "flat": group.flat}
        return found


def _row(facts: Facts, file: RolloutFile, row: int) -> dict[str, Any]:
    return {
        "stage": file.stage,
        "step": file.step,
        "row": row,
        "response_id": facts.response_ids[row],
        "group_id": facts.group_ids[row],
        "prompt_id": facts.prompt_ids[row],
        "verdict": facts.verdicts[row],
        "finish_reason": facts.finish_reasons[row],
        "reward": number(facts.rewards[row]),
        "advantage": number(facts.advantages[row]),
        "marks": facts.marks_of(row),
    }


def _column(read: Any, name: str, count: int) -> list[Any]:
    if read is None or name not in read.column_names:
        return [None] * count
    values: list[Any] = read[name].to_pylist()
    return values


def _last_message(messages: Any) -> str:
    turns = loaded(messages)
    last = turns[-1] if isinstance(turns, list) and turns else turns
    content = last.get("content") if isinstance(last, Mapping) else last
    return "" if content is None else str(content)
