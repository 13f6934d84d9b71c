"""Many responses: what is read for a page does not grow with the run, and the first page comes in under a second."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from viewed_runs import write_record

from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.rollouts.ragged import Ragged
from thinkrl.rollouts.store import FinishReason, Group, Rollouts
from thinkrl.tracking.rollout_files import write_rollouts
from thinkrl.viewer.finding import Query
from thinkrl.viewer.pages import Pages

GROUP = 8


def many(step: int, count: int, tokens: int) -> tuple[Rollouts, dict[str, Any]]:
    """`count` responses of about `tokens` tokens each, in groups of 8."""
    generator = np.random.default_rng(step)
    lengths = generator.integers(tokens // 2, 2 * tokens, size=count)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    total = int(offsets[-1])
    word = "reason " * (2 * tokens)
    texts = [
        f"<think>{word[: 7 * max(1, int(n) - 9)]}{row}</think><answer>{row % 10}</answer>"
        for row, n in enumerate(lengths)
    ]
    ends = np.concatenate(
        [np.linspace(1, len(text), int(n)).astype(np.int32) for text, n in zip(texts, lengths, strict=True)]
    )
    groups = tuple(
        Group(
            f"{step}/{n}",
            Prompt(f"p{n}", (Message("user", f"What is {n} + {n}?"),), str(2 * n)),
            np.arange(9, dtype=np.int32),
        )
        for n in range(count // GROUP)
    )
    columns = (generator.integers(0, 9, total, dtype=np.int32), np.ones(total, np.uint8),
               -generator.random(total, dtype=np.float32), generator.random(total, dtype=np.float32),
               np.full(total, step, np.int32), ends)  # fmt: skip
    rollouts = Rollouts(
        groups, np.repeat(np.arange(count // GROUP), GROUP), tuple(f"{step}/{n}" for n in range(count)), tuple(texts),
        (FinishReason.STOP,) * count, *[Ragged(column, offsets) for column in columns],
    )  # fmt: skip
    rewards = (generator.random(count) < 0.3).astype(np.float64)
    verdicts = ["correct" if reward else "wrong" for reward in rewards]
    return rollouts, {"reward": rewards, "verdict": verdicts, "advantage": rewards - 0.3, "term/answer": rewards}


def large_run(folder: Path, steps: int, each: int, tokens: int) -> Path:
    run = write_record(folder)
    for step in range(1, steps + 1):
        path = run / "stages/0_rl/rollouts" / f"{step:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        rollouts, columns = many(step, each, tokens)
        write_rollouts(path, rollouts, columns, stage="rl", step=step)
    return run


def seconds(call: Any) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def test_a_page_and_a_response_decode_a_row_group_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, not timed: rows that pyarrow decodes for the first page, a late page, and one response."""
    run = large_run(tmp_path / "run", 1, 4000, 20)
    decoded: list[int] = []
    plain = pq.ParquetFile.iter_batches

    def counted(self: Any, *args: Any, **given: Any) -> Any:
        for batch in plain(self, *args, **given):
            decoded.append(batch.num_rows)
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    pages = Pages(run)
    for ask in (
        lambda: pages.listing(Query("0_rl", 1)),
        lambda: pages.listing(Query("0_rl", 1, page=70)),
        lambda: pages.response("0_rl", 1, 3999),
    ):
        decoded.clear()
        ask()
        assert 0 < sum(decoded) <= 2 * 256


def test_a_search_over_thousands_ends_and_finds_the_one(tmp_path: Path) -> None:
    pages = Pages(large_run(tmp_path / "run", 2, 2000, 20))
    query = Query("0_rl", text="REASON 1777</think>")
    while (listing := pages.listing(query))["searched"] < listing["of"]:
        pass
    assert [(row["step"], row["row"]) for row in listing["rows"]] == [(1, 1777), (2, 1777)]
    assert (listing["of"], listing["counts"]["all"]) == (4000, 4000)


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "each"), [(1, 100_000), (200, 504)])
def test_the_first_page_of_a_hundred_thousand_comes_in_under_a_second(tmp_path: Path, steps: int, each: int) -> None:
    run = large_run(tmp_path / "run", steps, each, 200)
    assert steps * each >= 100_000
    took: dict[str, float] = {}
    pages = Pages(run)
    took["first page"] = seconds(lambda: (pages.overview(), pages.listing(Query("0_rl", steps))))
    took["response"] = seconds(lambda: pages.response("0_rl", steps, each - 1))
    took["first page of all steps"] = seconds(lambda: Pages(run).listing(Query("0_rl")))
    took["last page of all steps"] = seconds(lambda: pages.listing(Query("0_rl", page=1999)))
    took["wrong"] = seconds(lambda: pages.listing(Query("0_rl", mark="wrong")))
    took["wrong again"] = seconds(lambda: pages.listing(Query("0_rl", mark="wrong", page=3)))
    took["a call of a search"] = seconds(lambda: pages.listing(Query("0_rl", text="absent")))
    calls = 1
    begun = time.perf_counter()
    while (listing := pages.listing(Query("0_rl", text="absent")))["searched"] < listing["of"]:
        calls += 1
    took["the whole search"] = time.perf_counter() - begun
    begun = time.perf_counter()
    while (listing := pages.listing(Query("0_rl", order="longest")))["searched"] < listing["of"]:
        calls += 1
    took["longest"] = time.perf_counter() - begun
    print({name: round(value, 3) for name, value in took.items()})
    for name in ("first page", "response", "first page of all steps", "last page of all steps", "wrong again"):
        assert took[name] < 1.0, took
