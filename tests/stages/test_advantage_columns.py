"""What a rollout file keeps of advantages, token by token, and that the viewer colours tokens by it."""

from pathlib import Path

import numpy as np

from thinkrl.algorithms.types import Advantages
from thinkrl.rewards.result import RewardResult
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.rollouts.ragged import Ragged
from thinkrl.rollouts.store import FinishReason, Group, Response, Rollouts
from thinkrl.stages.records import advantage_columns
from thinkrl.tracking.rollout_files import read_rollouts, write_rollouts

ORIGINS = ([1, 1, 0, 1], [1, 1])


def rollouts() -> Rollouts:
    group = Group("g", Prompt("p", (Message("user", "?"),)), np.asarray([1], np.int32))
    responses = [
        Response(
            f"r{row}", "g", "a" * len(origins), FinishReason.STOP, np.arange(len(origins), dtype=np.int32),
            np.asarray(origins, np.uint8), np.zeros(len(origins), np.float32), np.zeros(len(origins), np.float32),
            np.zeros(len(origins), np.int32), np.arange(1, len(origins) + 1, dtype=np.int32),
        )
        for row, origins in enumerate(ORIGINS)
    ]  # fmt: skip
    return Rollouts.from_responses([group], responses)


def advantages(rows: list[list[float]], weights: list[list[float]] | None = None) -> Advantages:
    given = None if weights is None else Ragged.from_rows(weights, np.float64)
    return Advantages(Ragged.from_rows(rows, np.float64), np.ones(2, dtype=bool), given)


REWARDS = RewardResult(np.asarray([1.0, 0.0]))


def test_one_advantage_for_all_tokens_is_kept_once() -> None:
    held = advantages([[0.5, 0.5, 9.0, 0.5], [-0.5, -0.5]])
    columns = advantage_columns(held, REWARDS, rollouts())
    assert set(columns) == {"advantage"}
    assert np.array_equal(np.asarray(columns["advantage"]), held.per_response())


def test_advantages_by_token_weights_and_rewards_are_kept_where_tokens_were_sampled(tmp_path: Path) -> None:
    paid = RewardResult(np.asarray([1.0, 0.0]), tokens=Ragged.from_rows([[0, 0, 7, 1.0], [0, -0.25]], np.float64))
    held = advantages([[0.5, 0.25, 9.0, 0.5], [-0.5, -0.5]], [[1.0, 2.0, 9.0, 0.0], [1.0, 1.0]])
    columns = advantage_columns(held, paid, rollouts())
    path = tmp_path / "000001.parquet"
    write_rollouts(path, rollouts(), columns, stage="grpo", step=1)
    stored = read_rollouts(path).columns
    expected = {
        "token_advantages": [[0.5, 0.25, np.nan, 0.5], [-0.5, -0.5]],
        "token_weights": [[1.0, 2.0, np.nan, 0.0], [1.0, 1.0]],
        "token_rewards": [[0.0, 0.0, np.nan, 1.0], [0.0, -0.25]],
    }
    assert set(stored) == {"advantage", *expected}
    for name, rows in expected.items():
        for row, values in zip(stored[name], rows, strict=True):
            np.testing.assert_array_equal(row, values)


def test_responses_may_differ_from_each_other_in_one_column() -> None:
    columns = advantage_columns(advantages([[1.0, 1.0, 0.0, 1.0], [2.0, 2.0]]), REWARDS, rollouts())
    assert "token_advantages" not in columns
