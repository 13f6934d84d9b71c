"""Work that another run is at is waited for, a dead run blocks nobody, and the cache can be emptied beside runs."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from thinkrl.cli.app import app
from thinkrl.stages import reuse
from thinkrl.stages.cache_entries import cache_entries, prune
from thinkrl.stages.reuse import StageCache
from thinkrl.stages.runner import Run
from thinkrl.tracking.lock import lock_owner, take_lock

Start = Callable[..., Run]
FORK = multiprocessing.get_context("fork")
NAME = "0" * 32


def hold(path: Path, taken: Any, release: Any) -> None:
    """Another process with the lock."""
    lock = take_lock(path)
    assert lock is not None
    taken.set()
    release.wait(30)
    os.close(lock)


@pytest.fixture
def holder() -> Any:
    """Starts processes that hold a lock until they are released; ends them all."""
    started: list[Any] = []

    def start(path: Path) -> tuple[Any, Any]:
        taken, release = FORK.Event(), FORK.Event()
        process = FORK.Process(target=hold, args=(path, taken, release))
        process.start()
        started.append(process)
        assert taken.wait(10)
        return process, release

    yield start
    for process in started:
        process.kill()
        process.join()


def stored(cache: StageCache, folder: Path, name: str = NAME, age: float = 0.0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text("x" * 100)
    cache.store(name, folder, {"result": folder / "result.json"}, [{"stage": "warm", "step": 1}])
    entry = cache.root / name
    os.utime(entry / "reuse.json", (time.time() - age, time.time() - age))
    return entry


def test_a_lock_is_taken_once_and_names_its_owner(tmp_path: Path, holder: Any) -> None:
    process, release = holder(tmp_path / "locks" / "a")
    assert take_lock(tmp_path / "locks" / "a") is None
    assert lock_owner(tmp_path / "locks" / "a") == str(process.pid)
    release.set()
    process.join(10)
    lock = take_lock(tmp_path / "locks" / "a")
    assert lock is not None
    os.close(lock)


def test_a_dead_owner_blocks_nobody(tmp_path: Path, holder: Any) -> None:
    process, _ = holder(tmp_path / "a")
    os.kill(process.pid, signal.SIGKILL)
    process.join(10)
    lock = take_lock(tmp_path / "a")
    assert lock is not None
    os.close(lock)


def other_run(start: Start, counting: Any, log: Path) -> None:
    """A run in a process of its own that writes down every step it really does, slowly."""
    from thinkrl.stages.context import StageContext

    finish = StageContext.finish_step

    def slowly(self: StageContext, step: int, *args: Any, **kwargs: Any) -> None:
        with log.open("a") as file:
            file.write(f"{os.getpid()} {step}\n")
        time.sleep(0.2)
        finish(self, step, *args, **kwargs)

    StageContext.finish_step = slowly  # type: ignore[method-assign]
    start(f"run{os.getpid()}", {"count": counting()})


def test_two_runs_that_start_together_do_the_work_once(start: Start, counting: Any, tmp_path: Path) -> None:
    log = tmp_path / "steps"
    runs = [FORK.Process(target=other_run, args=(start, counting, log)) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join(60)
    assert [run.exitcode for run in runs] == [0, 0]
    steps = [line.split() for line in log.read_text().splitlines()]
    assert [step for _, step in steps] == ["1", "2", "3"]
    assert len({process for process, _ in steps}) == 1
    first, second = (tmp_path / f"run{run.pid}" / "metrics.jsonl" for run in runs)
    assert first.read_text() == second.read_text()


def test_a_run_takes_over_from_one_that_was_killed(
    start: Start, counting: Any, tmp_path: Path, done: list[Any]
) -> None:
    log = tmp_path / "steps"
    killed = FORK.Process(target=other_run, args=(start, counting, log))
    killed.start()
    while not log.exists():
        time.sleep(0.01)
    os.kill(killed.pid or 0, signal.SIGKILL)
    killed.join(10)
    start("mine", {"count": counting()})
    assert done == [("count", 1), ("count", 2), ("count", 3)]


def test_ctrl_c_ends_the_wait(
    start: Start, counting: Any, holder: Any, done: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    tree = {"model": {"source": "none"}, "seed": 0, "stages": {"count": {"n": 1}}}
    fingerprint = reuse.stage_fingerprint("count", tree, ["base"])
    process, _ = holder(tmp_path / "cache" / "locks" / fingerprint)
    looks: list[float] = []

    def look(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(reuse, "time", SimpleNamespace(sleep=look))
    with pytest.raises(KeyboardInterrupt, match="before stage 'count'"):
        start("a", {"count": counting()})
    assert done == []
    assert f"another run (process {process.pid}) is at the same work" in capsys.readouterr().out.replace("\n", " ")


def test_where_there_are_no_locks_the_work_is_done(
    start: Start, counting: Any, done: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(path: Path) -> int:
        raise OSError("no locks here")

    monkeypatch.setattr(reuse, "take_lock", none)
    start("a", {"count": counting()})
    assert len(done) == 3


def test_taking_a_stage_counts_as_use(tmp_path: Path) -> None:
    cache = StageCache(tmp_path / "stages")
    entry = stored(cache, tmp_path / "run", age=5000)
    cache.restore(entry, tmp_path / "other")
    assert cache_entries(cache)[0].used == pytest.approx(time.time(), abs=60)


def test_entries_say_what_removing_them_frees(tmp_path: Path) -> None:
    cache = StageCache(tmp_path / "stages")
    entry = stored(cache, tmp_path / "run")
    own = (entry / "reuse.json").stat().st_size
    (found,) = cache_entries(cache)
    assert (found.stage, found.rows, found.size, found.freed) == ("warm", 1, own + 100, own)
    (tmp_path / "run" / "result.json").unlink()
    assert cache_entries(cache)[0].freed == own + 100


def test_only_what_is_old_and_idle_goes(tmp_path: Path, holder: Any) -> None:
    cache = StageCache(tmp_path / "stages")
    names = [f"{number:032x}" for number in range(3)]
    for name, age in zip(names, (10, 9000, 9000), strict=True):
        stored(cache, tmp_path / "run", name, age)
    holder(cache.lock_path(names[2]))
    would, busy = prune(cache, 5000, dry_run=True)
    assert ([entry.name for entry in would], busy) == ([names[1]], 1)
    assert len(cache_entries(cache)) == 3
    removed, busy = prune(cache, 5000)
    assert ([entry.name for entry in removed], busy) == ([names[1]], 1)
    assert {entry.name for entry in cache_entries(cache)} == {names[0], names[2]}
    assert (tmp_path / "run" / "result.json").read_text() == "x" * 100, "the run keeps its own"
    prune(cache)
    assert [entry.name for entry in cache_entries(cache)] == [names[2]]
    assert [path.name for path in cache.lock_path("x").parent.iterdir()] == [names[2]]


def test_what_a_killed_write_left_goes_after_an_hour(tmp_path: Path) -> None:
    cache = StageCache(tmp_path / "stages")
    old, new = (cache.root / f"{NAME}.{name}.partial" for name in ("old", "new"))
    for folder in (old, new):
        (folder / "folder").mkdir(parents=True)
    os.utime(old, (time.time() - 4000, time.time() - 4000))
    removed, _ = prune(cache)
    assert [entry.path for entry in removed] == [old]
    assert new.is_dir()


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THINKRL_CACHE", str(tmp_path))

    def invoke(*args: str) -> str:
        result = CliRunner().invoke(app, ["cache", *args], env={"COLUMNS": "200"})
        assert result.exit_code == 0, result.output
        return result.output

    assert "0 stages" in invoke("list")
    assert "removed 0 stages" in invoke("prune")
    stored(StageCache(tmp_path / "stages"), tmp_path / "run", age=3 * 86400)
    assert "warm" in invoke("list")
    assert "3 days ago" in invoke("list")
    assert "removed 0 stages" in invoke("prune", "--older-than", "4")
    assert "would remove 1 stages" in invoke("prune", "--dry-run")
    assert "removed 1 stages" in invoke("prune", "--older-than", "2")
    assert "0 stages" in invoke("list")
