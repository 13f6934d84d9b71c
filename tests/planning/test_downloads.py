"""What a recipe reads is told without opening it, and a plan fetches nothing."""

from pathlib import Path
from typing import Any

import pytest

from thinkrl.data.hub import HubPrompts, in_hub_cache, without_downloads
from thinkrl.data.source import DataError
from thinkrl.planning.downloads import Need, needs


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    for name in ("HF_HUB_CACHE", "HF_DATASETS_CACHE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "hub" / "models--a--here" / "snapshots" / "1").mkdir(parents=True)
    (tmp_path / "hub" / "datasets--a--empty" / "snapshots").mkdir(parents=True)
    (tmp_path / "datasets" / "a___prepared").mkdir(parents=True)
    return tmp_path


def test_models_data_sets_and_files_with_where_they_are(caches: Path) -> None:
    (caches / "rows.jsonl").write_text("{}")
    hub, file = "thinkrl.data.hub.HubPrompts", "thinkrl.data.files.FilePrompts"
    tree: dict[str, Any] = {
        "model": {"_target_": "thinkrl.models.pretrained.PretrainedModel", "source": "a/here"},
        "constants": {"unused": {"_target_": hub, "dataset": "a/unused"}},
        "stages": {
            "one": {"prompts": {"source": {"_target_": file, "path": str(caches / "rows.jsonl")}}},
            "two": {
                "prompts": {"_target_": hub, "dataset": "a/b"},
                "benchmarks": [{"_target_": hub, "dataset": "a/b"}],
            },
            "three": {"prompts": {"_target_": file, "path": "gone.jsonl"}},
        },
    }
    assert needs(tree) == [
        Need("model", "a/here", True), Need("data set", "a/b", False),
        Need("file", str(caches / "rows.jsonl"), True), Need("file", "gone.jsonl", False),
    ]  # fmt: skip
    assert [str(need).rpartition(": ")[2] for need in needs(tree)] == [
        "on this machine", "to be downloaded", "on this machine", "missing"]  # fmt: skip


@pytest.mark.parametrize(("name", "here"), [("a/prepared", True), ("a/empty", False), ("a/none", False)])
def test_what_was_fetched_is_known_by_its_folder(caches: Path, name: str, here: bool) -> None:
    assert in_hub_cache("dataset", name) is here


def test_nothing_is_fetched_inside_a_plan(caches: Path) -> None:
    with without_downloads(), pytest.raises(DataError, match="a/b is not on this machine yet"):
        HubPrompts("a/b").prompts()
