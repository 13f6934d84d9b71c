import json
from pathlib import Path

import pytest
from test_cli_start import invoke

SMOKE = ("evaluate", "--model", "tiny", "benchmark=chain_sum", "scale=smoke", "benchmark.max_prompts=2")


@pytest.fixture(autouse=True)
def _in_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_result_is_saved_under_its_protocol_and_compares_only_with_its_like(tmp_path: Path) -> None:
    code, text = invoke(*SMOKE, "--json")
    assert code == 0
    saved = list((tmp_path / "results/chain_sum").glob("*.json"))
    assert len(saved) == 1
    result = json.loads(saved[0].read_text())
    assert json.loads(text) == result
    assert result["protocol_id"]["hash"] in saved[0].name
    assert (len(result["prompt_ids"]), len(result["verdicts"][0])) == (2, 2)

    code, text = invoke(*SMOKE, "--compare", str(saved[0]))
    assert code == 0
    assert "tiny minus tiny: +0.0000" in text
    assert list((tmp_path / "results/chain_sum").glob("*.json")) == saved, "the same numbers are the same file"

    other = (*SMOKE, "benchmark.sampling.temperature=0.5", "--compare", str(saved[0]))
    code, text = invoke(*other)
    assert code == 1
    assert "these fields differ: sampling.temperature" in text
    code, text = invoke(*other, "--force")
    assert code == 0
    assert "warning: the protocols differ in sampling.temperature" in text


def test_another_result_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text("kept")
    code, text = invoke(*SMOKE, "--output", "mine.json")
    assert code == 0
    assert (tmp_path / "mine.json").read_text() == "kept"
    assert "saved to mine-2.json" in text


def test_an_earlier_result_that_is_missing_or_edited_is_refused_before_anything_runs(tmp_path: Path) -> None:
    code, text = invoke(*SMOKE, "--compare", "nowhere.json")
    assert (code, "nowhere.json cannot be read" in text) == (1, True)
    (tmp_path / "edited.json").write_text("{}")
    code, text = invoke(*SMOKE, "--compare", "edited.json")
    assert (code, "edited.json: this is no benchmark result" in text) == (1, True)
    assert not (tmp_path / "results").exists()
