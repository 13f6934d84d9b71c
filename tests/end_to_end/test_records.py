"""What a run writes agrees with itself: metrics are a recount of the stored responses."""

import json
from pathlib import Path

import numpy as np
import pytest
from run_contents import metric_rows

from thinkrl.rollouts.store import FinishReason
from thinkrl.tracking.rollout_files import read_rollouts


def grpo_files(run: Path) -> list[Path]:
    return sorted((run / "stages" / "5_grpo" / "rollouts").glob("*.parquet"))


def rows_of(run: Path, stage: str) -> list[dict[str, float]]:
    return [row for row in metric_rows(run) if row["stage"] == stage]


def test_every_grpo_metric_is_a_recount(undisturbed: Path) -> None:
    rows = rows_of(undisturbed, "grpo")
    assert len(rows) == len(grpo_files(undisturbed)) == 4
    for row, path in zip(rows, grpo_files(undisturbed), strict=True):
        stored = read_rollouts(path)
        rollouts, columns = stored.rollouts, stored.columns
        assert stored.step == row["step"]
        assert row["reward"] == pytest.approx(np.mean(columns["reward"]), abs=1e-12)
        assert row["accuracy"] == pytest.approx(np.mean([v == "correct" for v in columns["verdict"]]), abs=1e-12)
        assert row["response_length"] == np.mean([len(r.token_ids) for r in rollouts])
        assert row["truncated"] == np.mean([r.finish_reason is FinishReason.LENGTH for r in rollouts])
        assert row["sampled_tokens"] == rollouts.sampled.sum()
        assert row["entropy"] == pytest.approx(np.mean(rollouts.entropies.values[rollouts.sampled], dtype=np.float64))
        for term in ("correctness", "format", "true_steps"):
            values = np.asarray(columns[f"term/{term}"], dtype=float)
            assert row[f"reward/{term}/value"] == pytest.approx(np.nanmean(values), abs=1e-12)


def test_the_total_is_the_sum_of_its_parts(undisturbed: Path) -> None:
    for path in grpo_files(undisturbed):
        columns = read_rollouts(path).columns
        parts = np.asarray([columns[name] for name in columns if name.startswith("contribution/")])
        assert np.array_equal(np.asarray(columns["reward"]), parts.sum(axis=0))


def test_every_token_knows_the_weights_that_sampled_it(undisturbed: Path) -> None:
    for step, path in enumerate(grpo_files(undisturbed)):
        rollouts = read_rollouts(path).rollouts
        assert set(rollouts.versions.values[rollouts.sampled]) == {step}


def test_sampler_and_learner_agree(undisturbed: Path) -> None:
    for row in rows_of(undisturbed, "grpo"):
        assert row["mismatch/max_abs"] < 1e-4


def test_rows_have_every_time(undisturbed: Path) -> None:
    for line in (undisturbed / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        for part in ("sample", "reward", "logprobs", "update", "checkpoint", "wait"):
            assert row[f"seconds/{part}"] >= 0


def test_results_recount_the_stored_verdicts(undisturbed: Path) -> None:
    for folder in ("1_after_cold_start", "4_after_refinement", "6_after_grpo"):
        stage = undisturbed / "stages" / folder
        result = json.loads((stage / "result.json").read_text())
        columns = read_rollouts(stage / "rollouts" / "000001.parquet").columns
        flat = [verdict for row in result["verdicts"] for verdict in row]
        assert columns["verdict"] == flat
        assert result["summary"]["accuracy"] == pytest.approx(np.mean([v == "correct" for v in flat]))


def test_the_directory_says_what_ran(undisturbed: Path) -> None:
    record = json.loads((undisturbed / "run.json").read_text())
    assert [stage["status"] for stage in record["stages"].values()] == ["finished"] * 7
    assert record["versions"]["torch"]
    origins = (undisturbed / "origins.yaml").read_text()
    assert "override stages.grpo.steps=4" in origins


def test_the_run_ends_with_a_table_of_what_every_stage_changed(undisturbed: Path) -> None:
    log = (undisturbed.parent / "log").read_text()
    table = log[log.index("held-out chain_sum") :]
    for words in ("cold_start", "refinement", "grpo", "95% interval", "run directory", "try next"):
        assert words in table
    assert "protocol" in table
