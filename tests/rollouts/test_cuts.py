from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from thinkrl.rollouts.cuts import Cut, thinking_owners
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.rollouts.store import FinishReason, Group, Response, Rollouts, concatenate
from thinkrl.tracking.rollout_files import read_rollouts, write_rollouts

GROUP = Group("g", Prompt("g", (Message("user", "?"),)), np.asarray([1], np.int32))


def response(name: str, cut: Cut | None, count: int = 3) -> Response:
    zeros = np.zeros(count, np.float32)
    return Response(
        name, "g", "x" * count, FinishReason.STOP, np.arange(count, dtype=np.int32), np.ones(count, np.uint8), zeros,
        zeros, np.zeros(count, np.int32), np.arange(1, count + 1, dtype=np.int32), cut,
    )  # fmt: skip


def test_the_first_that_keeps_most_owns_the_thinking() -> None:
    cuts = [Cut("a", 2, 2), Cut("b", 2, 1), Cut("a", 4, 3), Cut("a", 6, 3), None, Cut("b", 4, 1)]
    assert thinking_owners(cuts) == [False, True, True, False, True, False]
    assert thinking_owners([]) == []
    assert thinking_owners([Cut("a", 0, 0), Cut("a", 0, 0)]) == [True, False]


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {"thinking": "a", "budget": 1},
        {"thinking": "a", "budget": 1.0, "kept": 1},
        {"thinking": "a", "budget": True, "kept": 1},
        {"thinking": None, "budget": 1, "kept": 1},
        {"thinking": "a", "budget": 1, "kept": 1, "other": 2},
    ],
)
def test_other_json_is_no_cut(value: Any) -> None:
    with pytest.raises(ValueError, match="must be an object with thinking"):
        Cut.from_json(value)


def test_json_gives_the_cut_back_and_negative_numbers_are_refused() -> None:
    assert Cut.from_json(Cut("a", 3, 2).as_json()) == Cut("a", 3, 2)
    assert Cut.from_json({"thinking": 7, "budget": 3, "kept": 2}) == Cut("7", 3, 2)
    with pytest.raises(ValueError, match="kept must be at least 0, got -1"):
        Cut("a", 1, -1)


def test_the_store_keeps_cuts_through_selection_joining_and_files(tmp_path: Path) -> None:
    cuts = [Cut("a", 2, 2), None, Cut("a", 4, 3)]
    rollouts = Rollouts.from_responses([GROUP], [response(f"r{i}", cut) for i, cut in enumerate(cuts)])
    assert [one.cut for one in rollouts] == cuts
    assert rollouts.select([2, 0]).cuts == (cuts[2], cuts[0])
    other = replace(GROUP, group_id="h")
    plain = Rollouts.from_responses([other], [replace(response("p", None), group_id="h")])
    assert plain.cuts == ()
    assert plain.response(0).cut is None
    assert concatenate([rollouts, plain]).cuts == (*cuts, None)
    write_rollouts(tmp_path / "r.parquet", rollouts, {}, stage="s", step=1)
    stored = read_rollouts(tmp_path / "r.parquet")
    assert stored.rollouts.cuts == rollouts.cuts
    assert stored.columns == {}
    write_rollouts(tmp_path / "p.parquet", plain, {}, stage="s", step=1)
    assert read_rollouts(tmp_path / "p.parquet").rollouts.cuts == ()


def test_a_short_column_of_cuts_is_refused() -> None:
    rollouts = Rollouts.from_responses([GROUP], [response("a", None), response("b", None)])
    with pytest.raises(ValueError, match="cuts has 1 rows, expected 2"):
        replace(rollouts, cuts=(Cut("a", 1, 1),))
