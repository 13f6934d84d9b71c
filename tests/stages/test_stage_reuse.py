"""The same work is done once; other work never passes for it; a cache that fails costs time and nothing else."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from thinkrl.stages import reuse
from thinkrl.stages.reuse import StageCache, stage_fingerprint
from thinkrl.stages.runner import Run
from thinkrl.tracking.recorder import Recorder

Start = Callable[..., Run]


def rows_of(run: Run) -> list[dict[str, Any]]:
    lines = (run.directory / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.startswith(("seconds/", "time"))} for line in lines]


def cached(tmp_path: Path) -> list[str]:
    folder = tmp_path / "cache" / "stages"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def fingerprint(stage: dict[str, Any], **tree: Any) -> str:
    return stage_fingerprint("s", {"model": {"source": "m"}, "seed": 0, "stages": {"s": stage}, **tree}, [])


def test_a_second_run_takes_the_stage_with_its_rows(start: Start, counting: Any, done: list[Any]) -> None:
    first = start("a", {"count": counting()})
    second = start("b", {"count": counting()})
    assert done == [("count", 1), ("count", 2), ("count", 3)]
    assert rows_of(first) == rows_of(second)
    assert len(rows_of(second)) == 3
    made = second.produced["count"]["model"]
    assert made.path.is_relative_to(second.directory)
    assert (made.path / "weights").read_text() == "count 3"


def test_a_kill_while_rows_are_copied_leaves_each_once(
    start: Start, counting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = start("a", {"count": counting()})
    copied = Recorder.replay

    def killed(self: Recorder, row: Any) -> None:
        if row["step"] == 3:
            raise SystemError("killed")
        copied(self, row)

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "replay", killed)
        with pytest.raises(SystemError):
            start("b", {"count": counting()})
    assert rows_of(start("b", {"count": counting()})) == rows_of(first)


def test_without_reuse_the_work_is_done_again(start: Start, counting: Any, done: list[Any]) -> None:
    start("a", {"count": counting()})
    start("b", {"count": counting()}, reuse=False)
    assert len(done) == 6


def test_an_edited_data_file_is_other_work(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text("one")
    before = fingerprint({"path": str(data)})
    assert fingerprint({"path": str(data)}) == before
    data.write_text("two")
    assert fingerprint({"path": str(data)}) != before


def test_an_edited_model_folder_is_other_work(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_text("one")
    before = fingerprint({}, model={"source": str(tmp_path)})
    (tmp_path / "model.safetensors").write_text("two")
    assert fingerprint({}, model={"source": str(tmp_path)}) != before


def test_texts_that_name_no_file_are_harmless() -> None:
    assert fingerprint({"a": "", "b": "x" * 5000, "c": "nul\0", "d": ["/", "."]})


def test_edited_user_code_and_what_it_imports_is_other_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_reward_part.py").write_text("LIMIT = 1\n")
    (tmp_path / "own_reward_term.py").write_text("from own_reward_part import LIMIT\nclass Term: ...\n")
    stage = {"term": {"_target_": "own_reward_term.Term"}}
    before = fingerprint(stage)
    (tmp_path / "own_reward_part.py").write_text("LIMIT = 2\n")
    assert fingerprint(stage) != before
    for name in ("own_reward_part", "own_reward_term"):
        sys.modules.pop(name, None)


def test_a_pipeline_that_is_only_tried_is_other_work() -> None:
    assert fingerprint({}, scale={"plumbing": True}) != fingerprint({}, scale={"plumbing": False})


def test_two_runs_that_finish_the_same_work_together_do_not_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = StageCache(tmp_path / "cache")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(name)
    with monkeypatch.context() as both:
        both.setattr(cache, "find", lambda fingerprint: None)  # neither sees the other when it begins
        for name in ("a", "b"):
            cache.store("f", tmp_path / name, {"result": tmp_path / name / "result.json"}, [])
    found = cache.find("f")
    assert found is not None
    made, _ = cache.restore(found, tmp_path / "c")
    assert made["result"].read_text() == "a"
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["f"]


def test_a_cache_that_cannot_be_written_stops_no_run(
    start: Start, counting: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cache").write_text("a file where the cache should be")
    run = start("a", {"count": counting()})
    assert len(rows_of(run)) == 3
    assert "count: not kept for reuse" in capsys.readouterr().out


def test_a_stage_that_new_code_finished_is_nobody_elses(
    start: Start, counting: Any, done: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RuntimeError):
        start("a", {"count": counting(fail_at=3), "after": counting()})
    monkeypatch.setattr(reuse, "code_fingerprint", lambda: "mended")
    start("a", {"count": counting(), "after": counting()})
    assert [step for name, step in done if name == "count"] == [1, 2, 3], "it went on where it was"
    done.clear()
    start("b", {"count": counting(), "after": counting()})
    assert len(done) == 6, "neither the mixed stage nor what was made from it is taken"
