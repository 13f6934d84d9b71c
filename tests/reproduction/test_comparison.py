"""Two runs on the same prompts, with results written by hand."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from thinkrl.benchmarks.metrics import paired_difference
from thinkrl.benchmarks.result import BenchmarkResult, ProtocolMismatch
from thinkrl.config.component import ConfigError
from thinkrl.reproduction.comparison import compare_runs
from thinkrl.reproduction.readings import FinishedRun

sys.path.append(str(Path(__file__).parents[1] / "sweeps"))
from sweep_fakes import result


def run(folder: Path, seed: int, **results: BenchmarkResult) -> FinishedRun:
    folder.mkdir(parents=True)
    stages: dict[str, Any] = {}
    for number, (stage, found) in enumerate(results.items()):
        (folder / f"{stage}.json").write_text(found.to_json())
        made = {"result": {"path": f"{stage}.json", "fingerprint": "f"}}
        stages[f"{number}_{stage}"] = {"status": "finished", "artifacts": made}
    (folder / "run.json").write_text(json.dumps({"seed": seed, "stages": stages}))
    return FinishedRun(folder)


def test_the_difference_is_paired_by_prompt(tmp_path: Path) -> None:
    a, b = run(tmp_path / "a", 0, test=result(2)), run(tmp_path / "b", 5, test=result(6))
    found = compare_runs([a], [b])
    accuracy = found.differences[0]
    assert (accuracy.metric, accuracy.first, accuracy.second, accuracy.prompts) == ("accuracy", 0.25, 0.75, 8)
    assert accuracy.estimate.value == 0.5
    # The independent bootstrap over prompts of thinkrl.benchmarks, on the same eight differences.
    other = paired_difference(result(2).scores, result(6).scores)
    assert accuracy.estimate.low == pytest.approx(other.interval.low, abs=0.05)
    assert accuracy.estimate.high == pytest.approx(other.interval.high, abs=0.05)
    assert (found.pairs, found.stages, found.differing) == (((0, 5),), ("test", "test"), ())
    back = compare_runs([b], [a]).differences[0].estimate
    assert (back.value, back.low, back.high) == (-0.5, -accuracy.estimate.high, -accuracy.estimate.low)


def test_every_measure_is_compared_and_equal_runs_differ_by_nothing(tmp_path: Path) -> None:
    a, b = run(tmp_path / "a", 0, test=result(3)), run(tmp_path / "b", 0, test=result(3))
    found = compare_runs([a], [b]).differences
    assert [one.metric for one in found] == list(result(3).measures)
    assert all((one.estimate.value, one.estimate.low, one.estimate.high) == (0, 0, 0) for one in found)


def test_seeds_are_paired_where_both_sides_have_them(tmp_path: Path) -> None:
    first = [run(tmp_path / f"a{seed}", seed, test=result(right)) for seed, right in ((0, 1), (1, 5), (2, 7))]
    second = [run(tmp_path / f"b{seed}", seed, test=result(right)) for seed, right in ((2, 8), (1, 6))]
    found = compare_runs(first, second)
    assert found.pairs == ((1, 1), (2, 2))
    assert found.differences[0].estimate.per_seed == (0.125, 0.125)
    with pytest.raises(ConfigError, match="no seed in common"):
        compare_runs(first[:1], second)
    with pytest.raises(ConfigError, match="seed 0 is there twice"):
        compare_runs([first[0], run(tmp_path / "again", 0, test=result(1))], second)


def test_different_protocols_are_refused_unless_forced(tmp_path: Path) -> None:
    a, b = run(tmp_path / "a", 0, test=result(2)), run(tmp_path / "b", 0, test=result(2, version=2, engine="vllm"))
    with pytest.raises(ProtocolMismatch, match="version, engine"):
        compare_runs([a], [b])
    found = compare_runs([a], [b], force=True)
    assert found.differing == ("version", "engine")
    assert found.protocols[0] != found.protocols[1]


def test_only_common_prompts_count_and_the_others_are_told(tmp_path: Path) -> None:
    a, b = run(tmp_path / "a", 0, test=result(2)), run(tmp_path / "b", 0, test=result(4, n=6))
    found = compare_runs([a], [b], force=True)
    assert (found.alone, found.differences[0].prompts) == (2, 6)
    assert found.differences[0].estimate.value == pytest.approx(2 / 6)
    with pytest.raises(ConfigError, match="no held-out prompt in common"):
        compare_runs([a], [run(tmp_path / "c", 0, test=result(2, ids="q"))])


def test_stages_are_the_last_ones_or_those_that_are_named(tmp_path: Path) -> None:
    both = run(tmp_path / "a", 0, before=result(1), after=result(3))
    found = compare_runs([both], [both], ("before", "after"))
    assert (found.stages, found.differences[0].estimate.value) == (("before", "after"), 0.25)
    assert compare_runs([both], [both]).stages == ("after", "after")
    judged = run(tmp_path / "b", 0, after=result(3), validation=result(8))
    assert compare_runs([both], [judged]).stages == ("after", "after"), "what was chosen on is no comparison"
    with pytest.raises(ConfigError, match="did you mean before"):
        compare_runs([both], [both], ("befor", None))


def test_json_has_null_where_there_is_no_number(tmp_path: Path) -> None:
    a, b = run(tmp_path / "a", 0, test=result(2)), run(tmp_path / "b", 0, test=result(3))
    stored = json.loads(json.dumps(compare_runs([a], [b]).as_json()))
    assert stored["metrics"]["accuracy"]["difference"] == 0.125
    assert stored["metrics"]["accuracy"]["prompts"] == 8
    assert np.isfinite(stored["metrics"]["accuracy"]["low"])
