"""What a report says: numbers that were put into run directories come out, with intervals known from elsewhere."""

import json
from math import isnan, sqrt
from pathlib import Path
from typing import Any

import pytest
from run_files import CONFIG, rl_rows, write_run

from thinkrl.config.component import ConfigError
from thinkrl.reports.configurations import arm_of
from thinkrl.reports.curves import POINTS, curve
from thinkrl.reports.panels import panels
from thinkrl.reports.report import Report, make_report
from thinkrl.reports.samples import marked


def other(**learner: Any) -> dict[str, Any]:
    return {**CONFIG, "learner": {**CONFIG["learner"], **learner}}


def titles(report: Report) -> set[str]:
    return {notice.title for notice in report.notices}


def test_one_run(tmp_path: Path) -> None:
    report = make_report([write_run(tmp_path / "run")])
    assert report.title == "demo, seed 0"
    (configuration,) = report.configurations
    assert [(s.name, s.kind, s.status, s.seconds) for s in configuration.first.stages][:2] == [
        ("warm", "SFT", "finished", 30.0), ("before", "Evaluate", "finished", 30.0)]  # fmt: skip
    assert configuration.first.wall_seconds == 300
    rl = {charts.stage: charts for charts in report.charts}["rl"].known
    assert rl["reward"].curves[0].mean == (0.1, 0.3, 0.5, 0.7)
    assert rl["reward/sum/contribution"].panel.title == "Reward part: sum"
    assert rl["seconds"].curves[0].mean == (3.0,) * 4
    assert all(isnan(low) for low in rl["reward"].curves[0].low)
    times = {time.stage: time.seconds for time in report.times}
    assert (times["rl"]["sample"], times["rl"]["update"], times["warm"]["update"]) == (8.0, 4.0, 1.0)


def test_held_out_results_and_what_a_stage_changed(tmp_path: Path) -> None:
    before, after = make_report([write_run(tmp_path / "run")]).evaluations
    assert (before.stage, before.accuracy.value, before.change) == ("before", 0.25, None)
    assert after.accuracy.value == 0.75
    # Wilson's interval of 3 of 4, from the formula: centre 0.6275, half 0.3269.
    assert after.accuracy.low == pytest.approx(0.3006, abs=1e-4)
    assert after.accuracy.high == pytest.approx(0.9544, abs=1e-4)
    assert after.change is not None
    assert after.change.value == 0.5
    assert after.change.low <= 0.5 <= after.change.high


def test_seeds_of_one_configuration_get_an_interval_over_seeds(tmp_path: Path) -> None:
    rewards = ([0.0, 1.0], [0.2, 1.2], [0.7, 1.7])
    runs = [write_run(tmp_path / f"seed{s}", seed=s, rows=rl_rows(r)) for s, r in enumerate(rewards)]
    report = make_report(runs)
    assert report.title == "demo: 3 runs"
    (configuration,) = report.configurations
    (drawn,) = {c.stage: c for c in report.charts}["rl"].known["reward"].curves
    assert drawn.mean == pytest.approx((0.3, 1.3))
    # Student's t with two degrees of freedom: 4.303 s / sqrt(3), s of 0, 0.2, 0.7 being 0.36056.
    half = 4.303 * 0.360555 / sqrt(3)
    assert drawn.low[0] == pytest.approx(0.3 - half, abs=1e-4)
    assert drawn.high[1] == pytest.approx(1.3 + half, abs=1e-4)
    assert [run.seed for run in configuration.runs] == [0, 1, 2]
    assert [e.seeds for e in report.evaluations] == [3, 3]
    assert report.evaluations[1].change is not None
    assert report.evaluations[1].change.low == pytest.approx(0.5), "three seeds with the same change have no spread"


def test_runs_that_differ_in_a_value_are_told_apart_with_who_set_it(tmp_path: Path) -> None:
    slow = write_run(tmp_path / "slow" / "seed0")
    fast = write_run(tmp_path / "fast" / "seed0", config=other(learning_rate=1e-3))
    report = make_report([slow, fast, write_run(tmp_path / "fast" / "seed1", seed=1, config=other(learning_rate=1e-3))])
    assert [(c.label, len(c.runs)) for c in report.configurations] == [("slow", 1), ("fast", 2)]
    (setting,) = report.settings
    assert setting.key == "learner.learning_rate"
    assert setting.values == (
        ("1e-05", "override learner.learning_rate=1e-5"), ("0.001", "override learner.learning_rate=1e-5"))  # fmt: skip


def test_what_no_result_depends_on_sets_nothing_apart(tmp_path: Path) -> None:
    changed = {**CONFIG, "tracker": {"mode": "online"}, "deviations": []}
    runs = [write_run(tmp_path / "a"), write_run(tmp_path / "b", seed=1, config=changed)]
    assert len(make_report(runs).configurations) == 1


def test_one_configuration_shows_what_the_recipe_chose(tmp_path: Path) -> None:
    settings = {s.key: s.values for s in make_report([write_run(tmp_path / "run")]).settings}
    assert settings == {
        "learner.learning_rate": (("1e-05", "override learner.learning_rate=1e-5"),),
        "learner.betas.0": (("0.9", "recipes/demo/laptop.yaml"),),
    }


def test_a_folder_stands_for_the_runs_below_it(tmp_path: Path) -> None:
    for arm in ("method", "baseline"):
        write_run(tmp_path / "r" / arm / "seed0", config=other(learning_rate=float(len(arm))))
    assert [c.label for c in make_report([tmp_path / "r"]).configurations] == ["baseline", "method"]
    with pytest.raises(ConfigError, match="holds no run"):
        make_report([tmp_path / "r" / "method" / "seed0" / "stages"])


@pytest.mark.parametrize(("path", "arm"), [("r/method/seed3", "method"), ("r/seed0_x=1", None), ("r/other", None)])
def test_arms_are_known_by_their_place(path: str, arm: str | None) -> None:
    assert arm_of(Path(path)) == arm


@pytest.mark.parametrize(
    ("columns", "title"),
    [
        ({}, "The loss is about 0, and should be"),
        ({"advantage/flat_groups": 0.8}, "Many flat groups"),
        ({"truncated": 0.5}, "Many truncated responses"),
        ({"reward/ungradable_rate": 0.05}, "Ungradable responses"),
        ({"reward/timeout_rate": 0.05}, "Checking was stopped"),
        ({"clip/low": 0.2, "clip/high": 0.1}, "Many clipped tokens"),
        ({"mismatch/mean_abs": [0.2, 0.0, 0.0, 0.0]}, "Sampler and learner disagree"),
        ({"entropy": [1.0, 0.5, 0.2, 0.1]}, "Little entropy is left"),
        ({"accuracy": [0.6, 0.5, 0.4, 0.3]}, "The reward rises and accuracy falls"),
        ({"reward": [0.9, 0.5, 0.5, 0.1]}, "The reward fell"),
        ({"loss": [0.1, float("nan"), 0.1, 0.1]}, "Not finite"),
    ],
)
def test_warnings_that_are_due(tmp_path: Path, columns: dict[str, Any], title: str) -> None:
    quiet = make_report([write_run(tmp_path / "quiet", rows=rl_rows([0.1, 0.3, 0.5, 0.7], **{"kl/old": 0.1}))])
    assert titles(quiet) == set(), "an ordinary run warns of nothing"
    assert title in titles(make_report([write_run(tmp_path / "run", rows=rl_rows([0.1, 0.3, 0.5, 0.7], **columns))]))


def test_a_run_that_stopped_says_where_and_why(tmp_path: Path) -> None:
    ends = [{"time": "2026-11-25T04:30:00+00:00", "ended": "2026-11-25T04:31:00+00:00", "end": "RunError: disk full"}]
    crashed = write_run(tmp_path / "a", unfinished="rl", record={"starts": ends})
    (notice,) = [n for n in make_report([crashed]).notices if n.title == "Not finished"]
    assert "stopped in stage rl: RunError: disk full" in notice.text
    killed = write_run(tmp_path / "b", unfinished="rl", record={"starts": [{"time": "2026-11-25T04:30:00+00:00"}]})
    (notice,) = [n for n in make_report([killed]).notices if n.title == "Not finished"]
    assert "still running, or killed" in notice.text


def test_the_same_warning_of_several_runs_is_said_once(tmp_path: Path) -> None:
    dirty = {"git": {"commit": "abc", "dirty": True}}
    runs = [write_run(tmp_path / f"seed{seed}", seed=seed, record=dirty) for seed in (0, 1)]
    (notice,) = [n for n in make_report(runs).notices if n.title == "Uncommitted changes"]
    assert notice.about == "demo, seed 0; demo, seed 1"


def test_what_cannot_be_read_is_said_and_the_rest_is_shown(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "stages" / "3_after" / "result.json").write_text("{")
    (run / "origins.yaml").write_text("a: [")
    (run / "stages" / "2_rl" / "rollouts" / "000003.parquet").write_bytes(b"cut off")
    report = make_report([run])
    assert sum(n.title == "Not all of the run could be read" for n in report.notices) == 2
    assert [e.stage for e in report.evaluations] == ["before"]
    # An evaluation whose result another version wrote is told as far as the metrics log has it.
    logged = {"stage": "after", "step": 1, "accuracy": 0.75, "accuracy_low": 0.3, "accuracy_high": 0.9, "prompts": 4.0}
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(logged) + "\n")
    found = make_report([run]).evaluations[1]
    assert (found.stage, found.accuracy.value, found.accuracy.low, found.prompts) == ("after", 0.75, 0.3, 4)
    assert [s.step for s in report.samples] == [2, 2], "the file before the broken one"


def test_a_run_that_has_hardly_begun(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(
        json.dumps({"format": 1, "recipe": "demo", "stages": {}, "starts": [{}]})
    )
    report = make_report([tmp_path / "run"])
    assert (report.charts, report.evaluations, report.samples) == ((), (), ())


def test_samples_are_one_of_each_kind(tmp_path: Path) -> None:
    texts = ["<answer>1</answer>"] * 3 + ["<think>a</think>"]
    samples = make_report([write_run(tmp_path / "run", texts=texts)]).samples
    assert [s.verdict for s in samples] == ["correct", "wrong"]
    assert samples[0].terms == (("sum", 1.0, 1.0, ""),)
    assert samples[0].reference == '"2"'


def test_thinking_and_answer_are_marked_and_no_character_is_lost() -> None:
    text = "a<think>b</think>c<answer>d</answer>e"
    assert marked(text) == (
        ("text", "a<think>"),
        ("think", "b"),
        ("text", "</think>c<answer>"),
        ("answer", "d"),
        ("text", "</answer>e"),
    )
    for odd in ("", "<think>", "</answer><answer>", "<answer>1</answer><think>x<answer>2</answer>"):
        assert "".join(piece for _, piece in marked(odd)) == odd


def test_long_curves_are_averaged_in_equal_stretches() -> None:
    rows = [{"step": step, "x": float(step)} for step in range(1, 4 * POINTS + 1)]
    drawn = curve("a", "x", [rows])
    assert len(drawn.mean) == POINTS
    assert drawn.mean[0] == drawn.steps[0] == 2.5
    assert sum(drawn.mean) / POINTS == pytest.approx((4 * POINTS + 1) / 2)


def test_a_run_that_has_fewer_steps_counts_where_it_has_them() -> None:
    drawn = curve("a", "x", [[{"step": 1, "x": 1.0}, {"step": 2, "x": 2.0}], [{"step": 1, "x": 3.0}]])
    assert drawn.mean == (2.0, 2.0)
    assert isnan(drawn.low[1])


def test_columns_nobody_knows_come_after_those_everybody_asks_for() -> None:
    known, others = panels(
        ["zeta", "loss", "reward", "reward/b/contribution", "seconds/sample", "step", "reward/b/value"]
    )
    assert [panel.column for panel in known] == ["reward", "reward/b/contribution", "loss"]
    assert [panel.column for panel in others] == ["reward/b/value", "zeta"]
