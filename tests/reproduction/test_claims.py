"""From run directories to a decided claim, with runs written by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from thinkrl.config.component import ConfigError
from thinkrl.reproduction.arms import plan_runs
from thinkrl.reproduction.claim import Check, Claim
from thinkrl.reproduction.paper_scale import fit_claim
from thinkrl.reproduction.readings import FinishedRun
from thinkrl.reproduction.table import table
from thinkrl.reproduction.verdicts import decide_claim, results_record

Accuracy = dict[str, list[float]]
Runs = dict[tuple[str, int], FinishedRun]

ROWS = [
    {"stage": "warm", "step": 1, "loss": 1.0, "weights_version": 4.0},
    *(
        {"stage": "rl", "step": s, "loss": 0.0, "weights_version": 2.0 * s, "asked_prompts": 3.0,
         "sampled_tokens": 100.0 + s, "entropy": 1.0 - 0.1 * s, "seconds/sample": 2.0}
        for s in range(1, 9)
    ),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _results(monkeypatch: pytest.MonkeyPatch) -> None:
    """A result file here is `{"ids": [...], "accuracy": [...]}`, one sample a prompt."""
    from types import SimpleNamespace

    import numpy as np

    from thinkrl.reproduction import readings

    def from_json(text: str) -> Any:
        stored = json.loads(text)
        values = np.asarray(stored["accuracy"], dtype=float)[:, None]
        measures = ("accuracy", "thinking_tokens")
        return SimpleNamespace(prompt_ids=tuple(stored["ids"]), measured=lambda _: values, measures=measures)

    monkeypatch.setattr(readings, "BenchmarkResult", SimpleNamespace(from_json=from_json))


def write_run(
    folder: Path, accuracy: dict[str, list[float]], rows: list[dict[str, Any]] = ROWS, ids: str = "abcd"
) -> Path:
    folder.mkdir(parents=True)
    stages: dict[str, Any] = {"0_rl": {"status": "finished", "artifacts": {"model": {"path": "m", "fingerprint": "f"}}}}
    for index, (stage, values) in enumerate(accuracy.items(), start=1):
        (folder / f"{stage}.json").write_text(json.dumps({"ids": list(ids), "accuracy": values}))
        made = {"result": {"path": f"{stage}.json", "fingerprint": "f"}}
        stages[f"{index}_{stage}"] = {"status": "finished", "artifacts": made}
    (folder / "run.json").write_text(json.dumps({"stages": stages}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def claim(**checks: Check) -> Claim:
    return Claim("it works", {"method": (), "baseline": ("algorithm=rloo",)}, checks, seeds=(0, 1))


BETTER = Check("better", "accuracy", at_least=0.0)


def runs(
    tmp_path: Path, method: list[float], baseline: list[float], **fields: Any
) -> dict[tuple[str, int], FinishedRun]:
    return {
        (arm, seed): FinishedRun(write_run(tmp_path / arm / str(seed), {"test": values}, **fields))
        for arm, values in (("method", method), ("baseline", baseline))
        for seed in (0, 1)
    }


def test_a_claim_that_holds_is_reproduced(tmp_path: Path) -> None:
    outcome = decide_claim(claim(better=BETTER), (0, 1), runs(tmp_path, [1, 1, 1, 0], [0, 0, 0, 0]))
    decided = outcome.checks["better"]
    assert decided.means == (0.75, 0.0)
    assert decided.estimate.per_seed == (0.75, 0.75)
    assert outcome.verdict == "reproduced"
    assert outcome.spent["method"] == {"prompts": 24.0, "updates": 20.0, "sampled_tokens": 836.0}
    assert outcome.seconds == 4 * 8 * 2.0


def test_a_claim_that_fails_is_not(tmp_path: Path) -> None:
    outcome = decide_claim(claim(better=BETTER), (0, 1), runs(tmp_path, [0, 0, 0, 0], [1, 1, 1, 1]))
    assert outcome.verdict == "not reproduced"


def test_unequal_budgets_are_told_and_decide_nothing(tmp_path: Path) -> None:
    found = runs(tmp_path, [1, 1, 1, 1], [0, 0, 0, 0])
    more = [{**ROWS[-1], "weights_version": 17.0}]
    found["method", 0] = FinishedRun(write_run(tmp_path / "more", {"test": [1, 1, 1, 1]}, [*ROWS, *more]))
    outcome = decide_claim(claim(better=BETTER), (0, 1), found)
    assert outcome.verdict == "inconclusive"
    assert [line.partition(":")[0] for line in outcome.unequal] == ["prompts", "updates"]


def test_two_stages_of_one_arm(tmp_path: Path) -> None:
    check = Check("lift", "accuracy", at_least=0.4, against="method", stage="after", against_stage="before")
    run = FinishedRun(write_run(tmp_path / "run", {"before": [0, 0, 0, 1], "after": [1, 1, 0, 1]}))
    outcome = decide_claim(Claim("x", {"method": ()}, {"lift": check}, seeds=(0,)), (0,), {("method", 0): run})
    assert outcome.checks["lift"].estimate.value == 0.5


def test_only_common_prompts_are_compared(tmp_path: Path) -> None:
    found = runs(tmp_path, [1, 1, 0, 0], [0, 0, 0, 0])
    found["baseline", 1] = FinishedRun(write_run(tmp_path / "o", {"test": [0, 0, 0, 0]}, ids="abxy"))
    assert decide_claim(claim(better=BETTER), (0, 1), found).checks["better"].means == (1.0, 0.0)
    found["baseline", 1] = FinishedRun(write_run(tmp_path / "p", {"test": [0, 0, 0, 0]}, ids="wxyz"))
    with pytest.raises(ConfigError, match="no held-out prompt in common"):
        decide_claim(claim(better=BETTER), (0, 1), found)


@pytest.mark.parametrize(("statistic", "value"), [("last", 0.2), ("mean", 0.25), ("slope", -0.1)])
def test_the_log_gives_one_number_a_seed(tmp_path: Path, statistic: Any, value: float) -> None:
    run = FinishedRun(write_run(tmp_path / "run", {}))
    assert run.logged("entropy", None, statistic) == pytest.approx(value)


def test_names_that_are_not_there_are_told_with_the_nearest(tmp_path: Path) -> None:
    run = FinishedRun(write_run(tmp_path / "run", {"test": [0, 0, 0, 0]}))
    with pytest.raises(ConfigError, match="entropy"):
        run.logged("entrpy", "rl", "last")
    with pytest.raises(ConfigError, match=r"no evaluation 'tset'.*test"):
        run.per_prompt("accuracy", "tset")
    with pytest.raises(ConfigError, match="thinking_tokens"):
        run.per_prompt("thinking_token", None)


def test_a_check_needs_a_bound_and_two_sides() -> None:
    with pytest.raises(ValueError, match="at_least or at_most"):
        Check("x", "accuracy")
    with pytest.raises(ValueError, match="against must be another arm"):
        Check("x", "accuracy", at_least=0, against="method", stage="a", against_stage="a")
    with pytest.raises(ValueError, match=r"checks\.better must name arms"):
        Claim("x", {"method": ()}, {"better": BETTER})


def test_every_arm_runs_with_every_seed() -> None:
    planned = plan_runs(claim(better=BETTER), (0, 1), ("tracker=none",), Path("r"))
    assert [(run.arm, run.seed) for run in planned] == [("method", 0), ("baseline", 0), ("method", 1), ("baseline", 1)]
    assert planned[1].overrides == ("tracker=none", "algorithm=rloo", "seed=0")
    assert len({run.directory for run in planned}) == 4


def test_the_table_shows_each_check_beside_the_paper(tmp_path: Path) -> None:
    outcome = decide_claim(claim(better=BETTER), (0, 1), runs(tmp_path, [1, 1, 1, 0], [0, 0, 0, 0]))
    record = results_record("demo", "A | B", "1234.5", claim(better=BETTER), (0, 1), (), outcome)
    place = tmp_path / "recipes" / "family" / "demo" / "results.json"
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps(record))
    page = table(tmp_path / "recipes")
    assert "| demo | better | accuracy >= 0 | 0.75 against 0 | 0.75 |" in page
    assert "| **reproduced** |" in page


def test_runs_side_by_side_have_different_seeds() -> None:
    planned = plan_runs(claim(better=BETTER), (0, 1, 2), (), Path("r"), jobs=2)
    assert [(run.arm, run.seed) for run in planned] == [
        ("method", 0), ("method", 1), ("baseline", 0), ("baseline", 1), ("method", 2), ("baseline", 2)]  # fmt: skip


def test_the_time_of_every_run_and_the_commits_are_kept(tmp_path: Path) -> None:
    found = runs(tmp_path, [1, 1, 1, 0], [0, 0, 0, 0])
    for number, run in enumerate(found.values()):
        record = json.loads((run.path / "run.json").read_text())
        record["starts"] = [
            {"time": "2026-11-25T04:00:00+00:00", "ended": "2026-11-25T04:02:00+00:00"},
            {"time": "2026-11-25T05:00:00+00:00"},  # killed: nobody knows when
            {"time": "2026-11-25T06:00:00+00:00", "ended": f"2026-11-25T06:0{number}:00+00:00"},
        ]
        record["git"] = {"commit": "abcdef0123456", "dirty": number == 3}
        (run.path / "run.json").write_text(json.dumps(record))
    outcome = decide_claim(claim(better=BETTER), (0, 1), found)
    assert outcome.minutes == {"method": {0: 2.0, 1: 3.0}, "baseline": {0: 4.0, 1: 5.0}}
    assert outcome.commits == ("abcdef0123456", "abcdef0123456+")
    record = results_record("demo", "A", "", claim(better=BETTER), (0, 1), (), outcome)
    assert record["minutes"]["baseline"] == {"0": 4.0, "1": 5.0}
    place = tmp_path / "recipes" / "family" / "demo" / "results_paper.json"
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps(record | {"recipe": "demo/paper", "analysis": "too few\nsteps"}))
    page = table(tmp_path / "recipes")
    assert "seeds 0 1; 14 min; commit abcdef012, abcdef012+" in page
    assert "- **demo/paper** (reproduced): too few steps" in page


LAPTOP = {"stages": {"grpo": {}, "after_grpo": {}}, "reward": {"_target_": "a"}, "length": 16, "kl": 0.1, "only": 1}
PAPER = {"stages": {"grpo": {}, "math500": {}}, "reward": {"_target_": "b"}, "length": 4096, "kl": 0.1}


def fitted(arms: dict[str, tuple[str, ...]], **checks: Check) -> tuple[Claim, list[str]]:
    return fit_claim(Claim("it works", {"method": (), **arms}, checks), LAPTOP, PAPER)


def test_a_laptop_claim_carries_over_where_it_means_the_same() -> None:
    made, missing = fitted({"baseline": ("reward=plain", "kl=0"), "spare": ()}, better=BETTER)
    assert missing == []
    assert set(made.arms) == {"method", "baseline"}, "an arm that no check reads is not run"
    assert made.checks == {"better": BETTER}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (("reward=plain", "length=40"), "length=40 is a size for the laptop form, which has 16"),
        (("only=2",), "only=2 sets what the paper form does not have"),
    ],
)
def test_an_arm_of_laptop_sizes_is_left_out_with_its_checks(changes: tuple[str, ...], reason: str) -> None:
    made, missing = fitted({"baseline": changes}, better=BETTER)
    assert made.checks == {}
    assert reason in missing[0]
    assert missing[1] == "check better: compares arm baseline, which is left out"


def test_a_check_of_a_stage_that_is_not_there_is_left_out() -> None:
    read = Check("better", "accuracy", at_least=0.0, stage="after_grpo")
    made, missing = fitted({"baseline": ()}, read=read, better=BETTER)
    assert list(made.checks) == ["better"]
    assert missing == ["check read: reads stage after_grpo; the paper form has grpo, math500"]
