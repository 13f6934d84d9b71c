"""Which responses a reader asked for, page by page, over all files of a stage.

One file is told at once from its row count or its light columns. Many files, lengths and texts take longer: a call
reads as far as its time allows, says how far that is, and the next call goes on from there.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from thinkrl.tracking.errors import RunError
from thinkrl.viewer.facts import MARKS, ORDERS, Facts, read_facts
from thinkrl.viewer.run import RolloutFile, ViewedRun
from thinkrl.viewer.scanning import Budget, Scan, length_scan, text_scan
from thinkrl.viewer.table import RolloutTable

PAGE = 50
"""Responses on a page."""
_SECONDS = 0.4
_OPEN_TABLES = 48
_KEPT_SEARCHES = 4
_LONGEST_SEARCH = 200
_DESCENDING = ("longest", "reward", "advantage")

_Kept = TypeVar("_Kept")


@dataclass(frozen=True)
class Query:
    """What a reader asks for. step: None for all. prompt, group: an id, empty for all. text: to be found in response
    or prompt, in any case. page: from 0."""

    stage: str
    step: int | None = None
    prompt: str = ""
    group: str = ""
    mark: str = "all"
    order: str = "stored"
    text: str = ""
    page: int = 0

    def __post_init__(self) -> None:
        for name, known in (("mark", MARKS), ("order", ORDERS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        if self.page < 0 or len(self.text) > _LONGEST_SEARCH:
            raise ValueError(f"page must be 0 or more and text at most {_LONGEST_SEARCH} characters")

    @property
    def whole(self) -> bool:
        """Whether it asks for all responses as they are stored."""
        return not (self.prompt or self.group or self.text) and (self.mark, self.order) == ("all", "stored")


@dataclass(frozen=True)
class Found:
    """rows: the page's responses, as file and row. total: how many there are on all pages, so far.

    searched, of: how many responses were read for it, of about how many; equal once nothing is left to read.
    problems: files that cannot be read, in words.
    """

    rows: tuple[tuple[RolloutFile, int], ...]
    total: int
    searched: int
    of: int
    problems: tuple[str, ...] = ()


Rows = dict[RolloutFile, NDArray[np.int64]]
"""Chosen rows of each file, ascending."""


class Finder:
    """Answers queries about one run. Not for several threads at once."""

    def __init__(self, run: ViewedRun) -> None:
        self.run = run
        self._tables: OrderedDict[RolloutFile, RolloutTable] = OrderedDict()
        self._counts: dict[RolloutFile, int] = {}
        self._facts: dict[RolloutFile, Facts] = {}
        self._torn: dict[RolloutFile, str] = {}
        """Why files cannot be read."""
        self._lengths: dict[RolloutFile, Scan] = {}
        self._searches: OrderedDict[str, dict[RolloutFile, Scan]] = OrderedDict()

    def table(self, file: RolloutFile) -> RolloutTable:
        """The open file. Raises RunError when it cannot be read."""
        table = self._tables.pop(file, None) or RolloutTable(file.path)
        self._tables[file] = table
        while len(self._tables) > _OPEN_TABLES:
            self._tables.popitem(last=False)
        return table

    def facts(self, file: RolloutFile) -> Facts:
        """The light columns of a file. Raises RunError when they cannot be read."""
        if file not in self._facts:
            self._facts[file] = read_facts(self.table(file))
        return self._facts[file]

    def find(self, query: Query, seconds: float = _SECONDS, size: int = PAGE) -> Found:
        """The page of `query`, and how many responses there are in all, as far as `seconds` allow to know.

        Raises LookupError for an unknown stage or step.
        """
        files = self.run.files(query.stage, query.step)
        if query.step is not None and not files:
            raise LookupError(f"no rollouts of step {query.step} in stage {query.stage}")
        first, budget = query.page * size, Budget(seconds)
        if query.whole:
            counts = self._read(files, self._counts, lambda file: self.table(file).row_count, budget)
            total = sum(counts.values())
            of = total + self._unread(files, self._counts, total)
            return Found(tuple(_slice(counts, first, size)), total, total, of, self._problems(files))
        known = self._read(files, self._facts, lambda file: read_facts(self.table(file)), budget)
        everything = sum(map(len, known.values()))
        of = everything + self._unread(files, self._facts, everything)
        rows = {file: _filtered(facts, query) for file, facts in known.items()}
        read = self._search(rows, query.text, budget) if query.text else everything
        keys, measured = self._keys(rows, query.order, budget)
        places = [(file, int(row)) for file, own in rows.items() for row in own]
        chosen = _ordered(keys, descending=query.order in _DESCENDING)[first : first + size]
        return Found(
            tuple(places[place] for place in chosen),
            len(places),
            read if read < everything else measured,
            of,
            self._problems(files),
        )

    def mark_counts(self, query: Query) -> dict[str, int] | None:
        """How many responses of the query's stage and step each filter shows; None while not all files are read."""
        files = self.run.files(query.stage, query.step)
        if len(files) == 1:
            self._read(files, self._facts, lambda file: read_facts(self.table(file)), Budget(0.0))
        if self._unread(files, self._facts, 0):
            return None
        read = [self._facts[file] for file in files if file in self._facts]
        return {name: sum(int(np.count_nonzero(facts.marks[name])) for facts in read) for name in MARKS}

    def _read(
        self,
        files: Sequence[RolloutFile],
        kept: dict[RolloutFile, _Kept],
        read: Callable[[RolloutFile], _Kept],
        budget: Budget,
    ) -> dict[RolloutFile, _Kept]:
        """What is kept of each file, in order, after reading on while there is time; torn files are left out."""
        for file in files:
            if file not in kept and file not in self._torn and budget.left:
                budget.used = True
                try:
                    kept[file] = read(file)
                except RunError as error:
                    self._torn[file] = str(error)
        return {file: kept[file] for file in files if file in kept}

    def _unread(self, files: Sequence[RolloutFile], kept: Mapping[RolloutFile, object], responses: int) -> int:
        """About how many responses the files hold that are still to be read, from those that were; 0 for none."""
        unread = sum(file not in kept and file not in self._torn for file in files)
        return unread * max(1, responses // max(1, sum(file in kept for file in files)))

    def _problems(self, files: Sequence[RolloutFile]) -> tuple[str, ...]:
        return tuple(self._torn[file] for file in files if file in self._torn)

    def _search(self, rows: Rows, text: str, budget: Budget) -> int:
        """Keeps the rows in which `text` was found; returns how many responses were looked at, or need not be."""
        scans = self._searches.pop(text, {})
        self._searches[text] = scans
        while len(self._searches) > _KEPT_SEARCHES:
            self._searches.popitem(last=False)
        looked = 0
        for file, own in list(rows.items()):
            found, done = self._advance(scans, file, lambda table: text_scan(table, text), own, budget)
            known = own[own < len(found)]
            rows[file] = known[found[known]]
            looked += len(self.facts(file)) if done else len(found)
        return looked

    def _keys(self, rows: Rows, order: str, budget: Budget) -> tuple[list[NDArray[np.float64]], int]:
        """What the rows are put in order by, NaN where it is not known yet; and of how many responses it is known."""
        keys, measured = [], 0
        for file, own in rows.items():
            facts = self.facts(file)
            measured += len(facts)
            if order == "stored":
                keys.append(np.zeros(len(own)))
            elif order not in ("longest", "shortest"):
                keys.append((facts.rewards if order.endswith("reward") else facts.advantages)[own])
            else:
                lengths, done = self._advance(self._lengths, file, length_scan, own, budget)
                known = own < len(lengths)
                keys.append(np.full(len(own), np.nan))
                keys[-1][known] = lengths[own[known]]
                measured -= 0 if done else len(facts) - len(lengths)
        return keys, measured

    def _advance(
        self,
        scans: dict[RolloutFile, Scan],
        file: RolloutFile,
        make: Callable[[RolloutTable], Scan],
        rows: NDArray[np.int64],
        budget: Budget,
    ) -> tuple[NDArray[Any], bool]:
        """What is known of a file's first rows when the time is over, and whether that is all that `rows` need."""
        if file not in scans:
            if len(rows) == 0 or not budget.left:
                return np.zeros(0, dtype=np.bool_), len(rows) == 0
            scans[file] = make(self.table(file))
        values = scans[file].advance(budget)
        return values, scans[file].done


def _filtered(facts: Facts, query: Query) -> NDArray[np.int64]:
    """The rows that a query's filter, prompt and group leave."""
    kept = facts.marks[query.mark]
    for wanted, ids in ((query.prompt, facts.prompt_ids), (query.group, facts.group_ids)):
        if wanted:
            kept = kept & np.fromiter((one == wanted for one in ids), dtype=np.bool_, count=len(ids))
    return np.flatnonzero(kept)


def _slice(counts: dict[RolloutFile, int], first: int, size: int) -> Iterator[tuple[RolloutFile, int]]:
    """Rows first .. first + size of all files in order."""
    for file, count in counts.items():
        yield from ((file, row) for row in range(max(first, 0), min(first + size, count)))
        first -= count


def _ordered(keys: Sequence[NDArray[np.float64]], *, descending: bool) -> NDArray[np.int64]:
    """Places by their keys; what has no key comes last, and equal keys stay in order."""
    joined = np.concatenate(keys) if keys else np.zeros(0)
    return np.argsort(-joined if descending else joined, kind="stable")
