"""What is found is what a plain loop over all responses finds, in one call or in many short ones."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from viewed_runs import FIRST, SECOND, Asked, Wrote, small_run, write_record, write_step

from thinkrl.config.component import ConfigError
from thinkrl.viewer.facts import MARKS, ORDERS
from thinkrl.viewer.finding import Finder, Found, Query
from thinkrl.viewer.pages import Pages
from thinkrl.viewer.run import ViewedRun

WORDS = ("Straße", "wait", "WAIT", "x^2", "50%", "a.*b", 'say "so"', "näher", "\\frac{1}{2}")


def random_run(folder: Path, seed: int) -> tuple[Path, list[dict[str, Any]]]:
    """A run of three steps, and all of its responses as plain records."""
    generator = np.random.default_rng(seed)
    run, records = write_record(folder), []
    for step in (1, 2, 5):
        asked = []
        for prompt in range(int(generator.integers(1, 60))):
            wrote = [
                Wrote(
                    " ".join(generator.choice(WORDS, size=int(generator.integers(0, 9)))),
                    str(generator.choice(["correct", "wrong", "ungradable"])),
                    float(generator.choice([0.0, 1.0, np.nan])),
                    float(generator.choice([-1.0, 0.0, 0.5, np.nan])),
                    str(generator.choice(["stop", "length"])),
                )
                for _ in range(int(generator.integers(1, 6)))
            ]
            asked.append(
                Asked(f"p{prompt % 7}-{step if prompt > 6 else 0}-{prompt // 7}", f"Which {WORDS[prompt % 9]}?", wrote)
            )
        write_step(run, "0_rl", step, asked)
        row = 0
        for group in asked:
            rewards = [one.reward for one in group.responses if one.reward == one.reward]
            for one in group.responses:
                tokens = len(one.text.split()) + (one.finish == "stop")
                records.append({"at": (step, row), "prompt": group.prompt_id, "question": group.question,
                                "one": one, "tokens": tokens, "size": len(group.responses),
                                "flat": len(set(rewards)) == 1 and len(group.responses) > 1})  # fmt: skip
                row += 1
    return run, records


PLAIN = {
    "all": lambda r: True,
    "correct": lambda r: r["one"].verdict == "correct",
    "wrong": lambda r: r["one"].verdict == "wrong",
    "wrong_rewarded": lambda r: r["one"].verdict == "wrong" and r["one"].reward > 0,
    "correct_unrewarded": lambda r: r["one"].verdict == "correct" and r["one"].reward <= 0,
    "wrong_reinforced": lambda r: r["one"].verdict == "wrong" and r["one"].advantage > 0,
    "ungradable": lambda r: r["one"].verdict == "ungradable",
    "excluded": lambda r: r["one"].reward != r["one"].reward,
    "truncated": lambda r: r["one"].finish == "length",
    "flat": lambda r: r["flat"],
    "mixed": lambda r: not r["flat"],
}


def last(value: float) -> float:
    return np.inf if value != value else value


KEYS = {
    "stored": lambda r: 0,
    "longest": lambda r: -r["tokens"],
    "shortest": lambda r: r["tokens"],
    "reward": lambda r: last(-r["one"].reward),
    "lowest_reward": lambda r: last(r["one"].reward),
    "advantage": lambda r: last(-r["one"].advantage),
    "lowest_advantage": lambda r: last(r["one"].advantage),
}


def places(found: Found) -> list[tuple[int, int]]:
    return [(file.step, row) for file, row in found.rows]


@pytest.mark.parametrize("seed", range(3))
def test_filters_orders_and_searches_against_a_plain_loop(tmp_path: Path, seed: int) -> None:
    run, records = random_run(tmp_path / "run", seed)
    finder = Finder(ViewedRun.open(run))
    assert PLAIN.keys() == MARKS.keys()
    assert KEYS.keys() == ORDERS.keys()
    generator = np.random.default_rng(seed + 100)
    for number in range(66):
        step = [None, 1, 5][int(generator.integers(3))]
        text = str(generator.choice(["", *WORDS]))
        query = Query("0_rl", step, mark=list(MARKS)[number % len(MARKS)],
                      order=str(generator.choice(list(ORDERS))), text=text)  # fmt: skip
        expected = [r for r in records if step in (None, r["at"][0]) and PLAIN[query.mark](r)]
        if text:
            expected = [r for r in expected if text.lower() in r["one"].text.lower() + "\0" + r["question"].lower()]
        expected = [r["at"] for r in sorted(expected, key=KEYS[query.order])]
        found = finder.find(query, seconds=60, size=10_000)
        assert places(found) == expected
        assert (found.total, found.searched) == (len(expected), found.of)
        counts = finder.mark_counts(query)
        assert counts is not None or (query.whole and step is None)
        scope = [r for r in records if step in (None, r["at"][0])]
        assert counts in (None, {name: sum(map(plain, scope)) for name, plain in PLAIN.items()})


@pytest.mark.parametrize("mark", ["all", "wrong"])
@pytest.mark.parametrize("order", ["stored", "longest"])
def test_pages_hold_every_response_once_and_in_order(tmp_path: Path, mark: str, order: str) -> None:
    run, records = random_run(tmp_path / "run", 7)
    finder = Finder(ViewedRun.open(run))
    whole = places(finder.find(Query("0_rl", mark=mark, order=order), seconds=60, size=10_000))
    assert len(whole) == sum(map(PLAIN[mark], records))
    paged = []
    for page in range(-(-len(whole) // 7) + 1):
        paged += places(finder.find(Query("0_rl", mark=mark, order=order, page=page), seconds=60, size=7))
    assert paged == whole


@pytest.mark.parametrize("query", [Query("0_rl"), Query("0_rl", mark="wrong"), Query("0_rl", prompt="p1-0-0"),
                                   Query("0_rl", text="wait"), Query("0_rl", order="longest"),
                                   Query("0_rl", mark="wrong", text="näher", order="shortest")])  # fmt: skip
def test_short_calls_come_to_the_same_end(tmp_path: Path, query: Query) -> None:
    run, _ = random_run(tmp_path / "run", 3)
    at_once = Finder(ViewedRun.open(run)).find(query, seconds=60)
    finder, calls, before = Finder(ViewedRun.open(run)), 0, -1
    while True:
        found = finder.find(query, seconds=0.0)
        calls += 1
        assert found.searched >= before or (query.text and query.order != "stored")
        before = found.searched
        if found.searched >= found.of:
            break
        assert calls < 50
    assert calls > 1
    assert (places(found), found.total) == (places(at_once), at_once.total)


def test_one_prompt_over_all_steps_and_one_group(tmp_path: Path) -> None:
    finder = Finder(ViewedRun.open(small_run(tmp_path / "run")))
    assert places(finder.find(Query("0_rl", prompt="sum2"))) == [(1, 4), (1, 5), (2, 4), (2, 5)]
    assert places(finder.find(Query("0_rl", group="2/sum1"))) == [(2, 0), (2, 1), (2, 2), (2, 3)]


def test_a_run_that_goes_on_is_seen_as_it_is(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run", end="", status="running")
    pages = Pages(run)
    assert pages.listing(Query("0_rl", mark="wrong"))["total"] == 6
    write_step(run, "0_rl", 3, [FIRST, SECOND])
    assert pages.listing(Query("0_rl", mark="wrong"))["total"] == 9
    assert pages.overview()["stages"][0]["steps"] == [1, 2, 3]
    write_step(run, "0_rl", 3, [SECOND])
    assert pages.listing(Query("0_rl", 3))["total"] == 2, "a step that a resumed run wrote anew"
    (run / "stages/0_rl/rollouts/000004.parquet.partial").write_bytes(b"PAR1")
    assert pages.listing(Query("0_rl"))["problems"] == []
    assert "still running" in pages.overview()["outcome"]


def test_a_torn_file_is_named_and_the_others_are_shown(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run")
    torn = run / "stages/0_rl/rollouts/000003.parquet"
    torn.write_bytes(b"PAR1 and no more")
    for query in (Query("0_rl"), Query("0_rl", mark="wrong"), Query("0_rl", text="one", order="longest")):
        listing = Pages(run).listing(query)
        assert listing["total"] > 0
        assert listing["searched"] == listing["of"] == 12
        assert len(listing["problems"]) == 1
        assert "000003.parquet is not a rollout file" in listing["problems"][0]


def test_files_without_texts_or_lengths_come_to_an_end(tmp_path: Path) -> None:
    run = write_record(tmp_path / "run")
    folder = run / "stages/0_rl/rollouts"
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"reward": [1.0, 2.0], "text": pa.array([1, 2])}), folder / "000001.parquet")
    pages = Pages(run)
    for query in (Query("0_rl", text="a"), Query("0_rl", order="longest")):
        listing = pages.listing(query)
        assert listing["searched"] == listing["of"] == 2
    row = pages.listing(Query("0_rl", order="reward"))["rows"][0]
    assert (row["reward"], row["begins"], row["tokens"], row["verdict"]) == (2.0, "2", None, "")
    assert pages.response("0_rl", 1, 1)["text"] == "2"


@pytest.mark.parametrize(
    "wrong", [{"mark": "nice"}, {"order": "up"}, {"page": -1}, {"text": "x" * 201}]
)  # fmt: skip
def test_what_cannot_be_asked_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Query("0_rl", **wrong)


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    pages = Pages(small_run(tmp_path / "run"))
    for call in (
        lambda: pages.listing(Query("7_rl")),
        lambda: pages.listing(Query("../..", 1)),
        lambda: pages.listing(Query("0_rl", 9)),
        lambda: pages.listing(Query("0_rl", -1)),
        lambda: pages.response("0_rl", 9, 0),
        lambda: pages.response("0_rl", 1, 99),
        lambda: pages.response("0_rl", 1, -1),
    ):
        with pytest.raises(LookupError):
            call()


def test_a_folder_that_is_no_run_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    with pytest.raises(ConfigError, match="notes holds no run"):
        Pages(tmp_path / "notes")
    (tmp_path / "notes" / "run.json").write_text("{")
    with pytest.raises(ConfigError, match="holds no run that can be read"):
        Pages(tmp_path / "notes")


def test_a_folder_of_one_run_is_that_run_and_of_two_asks_which(tmp_path: Path) -> None:
    small_run(tmp_path / "runs" / "seed0")
    assert Pages(tmp_path / "runs").run.path == tmp_path / "runs" / "seed0"
    small_run(tmp_path / "runs" / "seed1")
    with pytest.raises(ConfigError, match=r"holds 2 runs; name one of them:\n.*seed0\n.*seed1"):
        Pages(tmp_path / "runs")


def test_runs_that_crashed_or_kept_nothing_open_all_the_same(tmp_path: Path) -> None:
    crashed = small_run(tmp_path / "a", end="RunError: the disk is full", status="running")
    assert Pages(crashed).overview()["outcome"] == "stopped in stage rl: RunError: the disk is full"
    empty = write_record(tmp_path / "b", end="", status="running")
    (empty / "config.yaml").write_text("a: [")
    overview = Pages(empty).overview()
    assert (overview["stages"], overview["default_stage"]) == ([], "")
