import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinkrl.grading.verdict import Verdict
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.rollouts.ragged import Ragged
from thinkrl.rollouts.store import FinishReason, Group, Response, Rollouts
from thinkrl.tracking.errors import RunError
from thinkrl.tracking.rollout_files import read_rollouts, write_rollouts

_TOKENS = ("token_ids", "origins", "logprobs", "entropies", "versions", "char_ends")


def _rollouts(lengths: list[int], seed: int = 0, empty_group: bool = False) -> Rollouts:
    """Responses over two groups, with arbitrary bits (many NaNs among them) as log-probabilities."""
    rng = np.random.default_rng(seed)
    messages = (Message("system", "be\u2028brief"), Message("user", 'say "NaN" 日本 😀'))
    groups = [
        Group(f"step3/p{i}", Prompt(f"p{i}", messages[i:], reference, "unit", {"n": i, "x": [1.5, None]}), prompt_ids)
        for i, (reference, prompt_ids) in enumerate(
            [("NaN", np.arange(5, dtype=np.int32)), ({"low": 0.1, "choices": ["a", "b"]}, np.zeros(0, dtype=np.int32))]
        )
    ]
    if empty_group:
        groups.insert(1, Group("step3/none", Prompt("none", ()), np.ones(2, dtype=np.int32)))
    responses = []
    for row, length in enumerate(lengths):
        bits = rng.integers(0, 2**32, length, dtype=np.uint32)
        responses.append(
            Response(
                response_id=f"r{row}",
                group_id=f"step3/p{row % 2}",
                text="x\x00\n" * row,
                finish_reason=FinishReason.STOP if row % 3 else FinishReason.LENGTH,
                token_ids=rng.integers(0, 2**31 - 1, length, dtype=np.int32),
                origins=rng.integers(0, 2, length, dtype=np.uint8),
                logprobs=bits.view(np.float32),
                entropies=np.where(bits % 2, np.float32("nan"), np.float32(1e-45)).astype(np.float32),
                versions=rng.integers(-1, 99, length, dtype=np.int32),
                char_ends=rng.integers(0, 99, length, dtype=np.int32),
            )
        )
    return Rollouts.from_responses(groups, responses)


def _assert_same(one: Rollouts, two: Rollouts) -> None:
    assert len(one) == len(two)
    assert (one.response_ids, one.texts, one.finish_reasons) == (two.response_ids, two.texts, two.finish_reasons)
    assert one.group_index.tolist() == two.group_index.tolist()
    assert [(g.group_id, g.prompt) for g in one.groups] == [(g.group_id, g.prompt) for g in two.groups]
    for first, second in zip(one.groups, two.groups, strict=True):
        assert first.prompt_ids.dtype == second.prompt_ids.dtype
        assert first.prompt_ids.tolist() == second.prompt_ids.tolist()
    for name in _TOKENS:
        first, second = getattr(one, name), getattr(two, name)
        assert first.values.dtype == second.values.dtype
        assert first.values.tobytes() == second.values.tobytes(), name
        assert first.offsets.tolist() == second.offsets.tolist()


@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.integers(0, 9), max_size=7), seed=st.integers(0, 999), empty=st.booleans())
def test_rollouts_come_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], seed: int, empty: bool
) -> None:
    rollouts = _rollouts(lengths, seed, empty)
    path = tmp_path_factory.mktemp("rollouts") / "step.parquet"
    write_rollouts(path, rollouts, {}, stage="grpo", step=3)
    stored = read_rollouts(path)
    assert (stored.stage, stored.step, stored.columns) == ("grpo", 3, {})
    _assert_same(stored.rollouts, rollouts)


def test_columns_come_back_and_nan_is_not_nothing(tmp_path: Path) -> None:
    rollouts = _rollouts([2, 0, 3])
    tokens = rollouts.token_ids.with_values(np.linspace(0, 1, 5))
    columns: dict[str, Any] = {
        "total": np.asarray([0.1, math.nan, -0.0]),
        "reward/format": [1.0, None, math.nan],
        "verdict": [Verdict.CORRECT, None, Verdict.TIMEOUT],
        "notes": ["", "late", "x"],
        "kept": [True, False, True],
        "advantage": tokens,
    }
    path = tmp_path / "step.parquet"
    write_rollouts(path, rollouts, columns, stage="grpo", step=1)
    back = read_rollouts(path).columns
    assert list(back) == list(columns)
    assert repr(back["total"]) == "[0.1, nan, -0.0]"
    assert repr(back["reward/format"]) == "[1.0, None, nan]"
    assert back["verdict"] == ["correct", None, "timeout"]
    assert back["notes"] == ["", "late", "x"]
    assert back["kept"] == [True, False, True]
    assert back["advantage"] == [row.tolist() for row in tokens]


def test_a_table_tool_sees_one_row_a_response(tmp_path: Path) -> None:
    rollouts = _rollouts([2, 1, 3])
    path = tmp_path / "step.parquet"
    write_rollouts(path, rollouts, {"total": [1.0, 0.0, 0.5]}, stage="grpo", step=4)
    rows = pq.read_table(path).to_pylist()
    assert [row["response_id"] for row in rows] == ["r0", "r1", "r2"]
    assert rows[2]["stage"] == "grpo"
    assert rows[2]["step"] == 4
    assert rows[2]["prompt_id"] == "p0"
    assert rows[2]["prompt_ids"] == [0, 1, 2, 3, 4]
    assert rows[2]["token_ids"] == rollouts.token_ids[2].tolist()
    assert rows[2]["finish_reason"] == "stop"
    assert "日本" in rows[2]["messages"]
    assert rows[1]["reference"] == '{"low": 0.1, "choices": ["a", "b"]}'


def test_the_same_step_gives_the_same_bytes(tmp_path: Path) -> None:
    columns = {"total": [0.5, math.nan]}
    path, again = tmp_path / "step.parquet", tmp_path / "again.parquet"
    write_rollouts(path, _rollouts([4, 7]), columns, stage="grpo", step=1)
    write_rollouts(again, _rollouts([4, 7]), columns, stage="grpo", step=1)
    first = path.read_bytes()
    assert first == again.read_bytes()
    write_rollouts(path, _rollouts([4, 7]), columns, stage="grpo", step=1)
    assert path.read_bytes() == first
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["again.parquet", "step.parquet"]


def test_columns_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    rollouts = _rollouts([1, 2])
    with pytest.raises(ValueError, match="column 'total' has 1 values for 2 responses"):
        write_rollouts(tmp_path / "a", rollouts, {"total": [1.0]}, stage="s", step=0)
    with pytest.raises(ValueError, match=r"must not use the names \['text'\]"):
        write_rollouts(tmp_path / "a", rollouts, {"text": ["a", "b"]}, stage="s", step=0)
    with pytest.raises(ValueError, match="'advantage' has 3 values for 2"):
        write_rollouts(tmp_path / "a", rollouts, {"advantage": Ragged.from_rows([[1]] * 3, float)}, stage="s", step=0)
    assert list(tmp_path.iterdir()) == []


def test_a_cut_off_or_foreign_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "step.parquet"
    write_rollouts(path, _rollouts([3]), {}, stage="s", step=0)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(RunError, match=r"step\.parquet is not a rollout file"):
        read_rollouts(path)
    pq.write_table(pq.read_table(_foreign(tmp_path)), path)
    with pytest.raises(RunError, match="is not a rollout file"):
        read_rollouts(path)


def _foreign(folder: Path) -> Path:
    import pyarrow as pa

    path = folder / "foreign.parquet"
    pq.write_table(pa.table({"a": [1]}), path)
    return path
