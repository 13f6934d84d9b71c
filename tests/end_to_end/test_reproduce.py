"""`thinkrl reproduce` from the command line: runs, results, going on, and mistakes that are told before any run."""

import json
from pathlib import Path

import pytest
from cli_process import SMALL
from typer.testing import CliRunner

from thinkrl.cli.app import app
from thinkrl.config.paths import recipes_dir
from thinkrl.tracking.metrics import read_rows


def reproduce(*args: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["reproduce", *args])
    return result.exit_code, " ".join(result.output.split())


def test_two_arms_run_and_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    beside = recipes_dir() / "quickstart" / "results.json"
    before = beside.read_bytes() if beside.exists() else None
    sizes = [override for override in SMALL if override != "reuse=false"]
    monkeypatch.setenv("THINKRL_CACHE", str(tmp_path / "cache"))
    arms = "claim.arms={method: [], baseline: ['stages.grpo.learner.learning_rate=0']}"
    args = ["quickstart", *sizes, arms, "claim.checks.lift.against=baseline", "claim.checks.lift.against_stage=null",
            "--seeds", "7", "--dir", str(tmp_path / "runs")]  # fmt: skip
    code, output = reproduce(*args)
    assert code == 0, output
    record = json.loads((tmp_path / "runs" / "results.json").read_text())
    assert record["seeds"] == [7]
    assert record["arms"] == {"method": [], "baseline": ["stages.grpo.learner.learning_rate=0"]}
    assert record["checks"]["lift"]["metric"] == "accuracy"
    assert record["spent"]["method"]["updates"] == record["spent"]["baseline"]["updates"] > 4
    assert f"verdict: {record['verdict']}" in output
    # The page of both arms, and what each run took.
    page = (tmp_path / "runs" / "report.html").read_text()
    assert record["verdict"] in page
    assert "baseline" in page
    assert all(record["minutes"][arm]["7"] > 0 for arm in ("method", "baseline"))
    assert len(record["commits"]) <= 1
    # What was changed on the command line is not the recipe's own result.
    assert (beside.read_bytes() if beside.exists() else None) == before
    # The stages before the reward matters were computed once.
    log = (tmp_path / "runs" / "baseline" / "seed7.log").read_text()
    assert "cold_start: the same work was done before" in log

    rows = read_rows(tmp_path / "runs" / "method" / "seed7" / "metrics.jsonl")
    code, again = reproduce(*args)
    assert code == 0, again
    assert read_rows(tmp_path / "runs" / "method" / "seed7" / "metrics.jsonl") == rows


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["quickstrat"], "did you mean quickstart"),
        (["quickstart", "--seeds", "1,x"], "--seeds must be whole numbers"),
        (["quickstart", "--seeds", "1,1"], "--seeds must be different numbers"),
        (["quickstart", "--scale", "large"], "--scale must be paper"),
        (["quickstart", "claim=null"], "states no claim"),
        (["quickstart", "claim.arms={method: [], b: ['algorithm=rlo']}"], "rloo"),
        (["quickstart", "claim.checks.lift.metrc=accuracy"], "metric"),
        ([], "name a recipe"),
    ],
)
def test_mistakes_are_told_before_anything_runs(args: list[str], message: str, tmp_path: Path) -> None:
    code, output = reproduce(*args, "--dir", str(tmp_path / "runs"))
    assert code == 2, output
    assert message in output
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_names_every_run(tmp_path: Path) -> None:
    code, output = reproduce("quickstart", "--dry-run", "--dir", str(tmp_path / "runs"))
    assert code == 0
    assert output.count("seed") >= 3
    assert not (tmp_path / "runs").exists()


def test_a_run_that_fails_is_named_with_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "runs" / "method" / "seed7").mkdir(parents=True)
    (tmp_path / "runs" / "method" / "seed7" / "other.txt").write_text("not a run")
    code, output = reproduce("quickstart", *SMALL, "--seeds", "7", "--dir", str(tmp_path / "runs"))
    assert code == 1
    assert "method, seed 7" in output
    assert "holds other files" in output


def test_an_analysis_is_kept_over_reruns(tmp_path: Path) -> None:
    from thinkrl.cli.reproduce import _kept_analysis

    (tmp_path / "results.json").write_text(json.dumps({"analysis": "three seeds are too few"}))
    assert _kept_analysis(tmp_path / "results.json") == "three seeds are too few"
    assert _kept_analysis(tmp_path / "none.json") == ""
    (tmp_path / "results.json").write_text("[]")
    assert _kept_analysis(tmp_path / "results.json") == ""
