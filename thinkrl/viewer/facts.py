"""What every response of a file is known by without its text: verdict, reward, advantage, ending, group.

Filters and orders are made of it; it is small enough to keep for every file of a run.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from thinkrl.viewer.table import RolloutTable

MARKS = {
    "all": "all responses",
    "correct": "correct",
    "wrong": "wrong",
    "wrong_rewarded": "wrong but rewarded",
    "correct_unrewarded": "correct but not rewarded",
    "wrong_reinforced": "wrong, with an advantage above 0",
    "ungradable": "ungradable or timed out",
    "excluded": "without a reward",
    "truncated": "truncated by the token limit",
    "flat": "in flat groups",
    "mixed": "in groups that are not flat",
}
"""Filters by name, with what each shows."""
ORDERS = {
    "stored": "as sampled",
    "longest": "longest first",
    "shortest": "shortest first",
    "reward": "highest reward first",
    "lowest_reward": "lowest reward first",
    "advantage": "highest advantage first",
    "lowest_advantage": "lowest advantage first",
}
"""Orders by name, with what each does."""
_LIGHT = ("response_id", "group_id", "prompt_id", "verdict", "reward", "advantage", "finish_reason")

Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class GroupFacts:
    """A group: how many responses it has, how many are correct (None where nobody judged), and whether all of its
    known rewards, or verdicts where there are no rewards, are the same."""

    size: int
    correct: int | None
    flat: bool


@dataclass(frozen=True, eq=False)
class Facts:
    """Of n responses, in the order of the file. Numbers are NaN and texts empty where there are none.

    marks: whether each is shown by a filter, [n] by name; see `MARKS`.
    """

    response_ids: list[str]
    group_ids: list[str]
    prompt_ids: list[str]
    verdicts: list[str]
    finish_reasons: list[str]
    rewards: NDArray[np.float64]
    advantages: NDArray[np.float64]
    groups: dict[str, GroupFacts]
    marks: dict[str, Flags]

    def __len__(self) -> int:
        return len(self.response_ids)

    def marks_of(self, row: int) -> list[str]:
        """Names of the filters that show a row, without `all`."""
        return [name for name, flags in self.marks.items() if name != "all" and flags[row]]

    @cached_property
    def group_rows(self) -> dict[str, list[int]]:
        """The rows of each group, ascending."""
        found: dict[str, list[int]] = {}
        for row, name in enumerate(self.group_ids):
            found.setdefault(name, []).append(row)
        return found


def read_facts(table: RolloutTable) -> Facts:
    """Reads the light columns of a file. One that is missing has no values."""
    columns, count = table.columns(_LIGHT), table.row_count
    texts = {name: _texts(columns.get(name), count) for name in _LIGHT if name not in ("reward", "advantage")}
    rewards, advantages = (_numbers(columns.get(name), count) for name in ("reward", "advantage"))
    if "group_id" not in columns:
        texts["group_id"] = [str(row) for row in range(count)]
    names, codes = _codes(texts["group_id"])
    verdicts = np.asarray(texts["verdict"], dtype=object)
    compared = rewards
    if np.all(np.isnan(rewards)):
        compared = np.where(verdicts == "", np.nan, _codes(texts["verdict"])[1].astype(np.float64))
    flat = _flat(codes, len(names), compared)
    return Facts(
        response_ids=texts["response_id"],
        group_ids=texts["group_id"],
        prompt_ids=texts["prompt_id"],
        verdicts=texts["verdict"],
        finish_reasons=texts["finish_reason"],
        rewards=rewards,
        advantages=advantages,
        groups=_groups(names, codes, verdicts, flat),
        marks=_marks(verdicts, np.asarray(texts["finish_reason"], dtype=object), rewards, advantages, flat[codes]),
    )


def _marks(
    verdicts: NDArray[Any],
    finish_reasons: NDArray[Any],
    rewards: NDArray[np.float64],
    advantages: NDArray[np.float64],
    flat: Flags,
) -> dict[str, Flags]:
    correct, wrong = verdicts == "correct", verdicts == "wrong"
    return {
        "all": np.ones(len(verdicts), dtype=np.bool_),
        "correct": correct,
        "wrong": wrong,
        "wrong_rewarded": wrong & (rewards > 0),
        "correct_unrewarded": correct & (rewards <= 0),
        "wrong_reinforced": wrong & (advantages > 0),
        "ungradable": (verdicts == "ungradable") | (verdicts == "timeout"),
        "excluded": np.isnan(rewards) & np.any(~np.isnan(rewards)),
        "truncated": finish_reasons == "length",
        "flat": flat,
        "mixed": ~flat,
    }


def _groups(names: list[str], codes: NDArray[np.int64], verdicts: NDArray[Any], flat: Flags) -> dict[str, GroupFacts]:
    count = len(names)
    sizes = np.bincount(codes, minlength=count)
    correct = np.bincount(codes[verdicts == "correct"], minlength=count)
    judged = np.bincount(codes[verdicts != ""], minlength=count)
    return {
        name: GroupFacts(int(sizes[i]), int(correct[i]) if judged[i] else None, bool(flat[i]))
        for i, name in enumerate(names)
    }


def _flat(codes: NDArray[np.int64], count: int, values: NDArray[np.float64]) -> Flags:
    """Which groups, of two responses or more, have one value alone; [count]. What is unknown says nothing."""
    low, high = np.full(count, np.inf), np.full(count, -np.inf)
    known = ~np.isnan(values)
    np.minimum.at(low, codes[known], values[known])
    np.maximum.at(high, codes[known], values[known])
    flat: Flags = (low == high) & (np.bincount(codes, minlength=count) > 1)
    return flat


def _codes(texts: list[str]) -> tuple[list[str], NDArray[np.int64]]:
    """Different texts in the order of their first place, and which of them each is."""
    places: dict[str, int] = {}
    codes = [places.setdefault(text, len(places)) for text in texts]
    return list(places), np.asarray(codes, dtype=np.int64)


def _texts(column: Any, count: int) -> list[str]:
    if column is None:
        return [""] * count
    return ["" if value is None else str(value) for value in column.to_pylist()]


def _numbers(column: Any, count: int) -> NDArray[np.float64]:
    if column is None:
        return np.full(count, np.nan)
    try:
        values = column.cast(pa.float64()).to_numpy()
    except pa.ArrowException:
        return np.full(count, np.nan)
    return np.asarray(values, dtype=np.float64)
