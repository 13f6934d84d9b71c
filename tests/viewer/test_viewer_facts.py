"""Filters show what they say, also of files that lack columns."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from viewed_runs import FIRST, SECOND, Asked, Wrote, write_step

from thinkrl.tracking.errors import RunError
from thinkrl.viewer.facts import MARKS, read_facts
from thinkrl.viewer.table import RolloutTable, list_lengths


def facts_of(path: Path) -> dict[str, list[int]]:
    facts = read_facts(RolloutTable(path))
    assert set(facts.marks) == set(MARKS)
    return {name: np.flatnonzero(flags).tolist() for name, flags in facts.marks.items()}


def test_each_filter_by_hand(tmp_path: Path) -> None:
    shown = facts_of(write_step(tmp_path, "0_rl", 1, [FIRST, SECOND]))
    assert shown == {
        "all": [0, 1, 2, 3, 4, 5],
        "correct": [0, 3],
        "wrong": [1, 4, 5],
        "wrong_rewarded": [1],
        "correct_unrewarded": [3],
        "wrong_reinforced": [1],
        "ungradable": [2],
        "excluded": [],
        "truncated": [2],
        "flat": [4, 5],
        "mixed": [0, 1, 2, 3],
    }


def test_what_has_no_reward_is_excluded_and_says_nothing_about_its_group(tmp_path: Path) -> None:
    nan = float("nan")
    group = Asked("p", "?", [Wrote("a", "timeout", nan, nan), Wrote("b", "wrong", 1.0), Wrote("c", "wrong", 1.0)])
    alone = Asked("q", "?", [Wrote("d", "wrong", 0.0)])
    shown = facts_of(write_step(tmp_path, "0_rl", 1, [group, alone]))
    assert (shown["excluded"], shown["ungradable"], shown["flat"]) == ([0], [0], [0, 1, 2])
    assert shown["wrong_rewarded"] == [1, 2]


def test_without_rewards_a_group_is_flat_by_its_verdicts(tmp_path: Path) -> None:
    table = pa.table({"group_id": ["a", "a", "b", "b"], "verdict": ["wrong", "wrong", "wrong", "correct"]})
    pq.write_table(table, tmp_path / "000001.parquet")
    shown = facts_of(tmp_path / "000001.parquet")
    assert (shown["flat"], shown["excluded"], shown["wrong_rewarded"]) == ([0, 1], [], [])


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"text": ["a", None, "c"]}),
        pa.table({"reward": pa.array([None, None, None]), "verdict": pa.array([None] * 3), "text": ["a", "b", "c"]}),
        pa.table({"reward": ["1", "x", None], "group_id": [1, 1, 2]}),
        pa.table({"other": [[1], [2], [3]]}),
    ],
)
def test_missing_and_strange_columns_are_no_values(tmp_path: Path, table: pa.Table) -> None:
    pq.write_table(table, tmp_path / "000001.parquet")
    facts = read_facts(RolloutTable(tmp_path / "000001.parquet"))
    assert len(facts) == 3
    assert np.isnan(facts.rewards).all()
    assert facts.marks["all"].all()
    assert not facts.marks["wrong"].any()


def test_an_empty_file_has_no_responses(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "000001.parquet")
    assert len(read_facts(RolloutTable(tmp_path / "000001.parquet"))) == 0


@pytest.mark.parametrize("row_group", [1, 7, 1000])
def test_rows_are_the_same_whatever_they_are_read_with(tmp_path: Path, row_group: int) -> None:
    """Against pyarrow's own reading of the whole table."""
    generator = np.random.default_rng(0)
    lists = [generator.normal(size=int(n)).tolist() for n in generator.integers(0, 5, size=300)]
    whole = pa.table({"text": [f"t{n}" for n in range(300)], "a.b": lists, "n": list(range(300))})
    pq.write_table(whole, tmp_path / "000001.parquet", row_group_size=row_group)
    table = RolloutTable(tmp_path / "000001.parquet")
    wanted = [0, 5, 6, 7, 130, 131, 299]
    assert table.take([299, *wanted[:-1], 5], ["n", "text", "absent"]).to_pylist() == [
        {"n": n, "text": f"t{n}"} for n in wanted
    ]
    rows = table.rows(wanted, table.names)
    assert {n: row["a.b"].tolist() for n, row in rows.items()} == {n: lists[n] for n in wanted}
    lengths = np.concatenate([list_lengths(batch.column(0)) for batch in table.batches(["a.b"])])
    assert lengths.tolist() == [len(one) for one in lists]
    with pytest.raises(IndexError):
        table.take([300], ["n"])


def test_rollout_files_are_written_in_parts_that_can_be_read_alone(tmp_path: Path) -> None:
    many = Asked("p", "?", [Wrote(f"word{n}") for n in range(600)])
    path = write_step(tmp_path, "0_rl", 1, [many])
    assert pq.read_metadata(path).num_row_groups == 3
    assert RolloutTable(path).rows([599], ["text"])[599]["text"] == "word599"


def test_a_torn_file_is_refused_in_words(tmp_path: Path) -> None:
    path = write_step(tmp_path, "0_rl", 1, [FIRST])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(RunError, match=r"000001\.parquet is not a rollout file"):
        RolloutTable(path)
