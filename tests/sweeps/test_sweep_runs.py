"""Sweeps of fake runs through Hydra's real multirun: what is run, skipped, continued, stopped, and told."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from sweep_fakes import FakeRuns, fake_sweep

from thinkrl.config.component import ConfigError
from thinkrl.sweeps import process
from thinkrl.sweeps.choice import Choice
from thinkrl.sweeps.folder import RunState, SweepFolder
from thinkrl.sweeps.job import split_seed
from thinkrl.sweeps.means import Launcher, Means, Sweeper
from thinkrl.sweeps.stopping import MedianStop
from thinkrl.sweeps.table import tabulate
from thinkrl.tracking.errors import RunError

RIGHT = {"1": {"right": {"0": 2, "1": 4}}, "2": {"right": {"0": 5, "1": 5}}, "3": {"right": {"0": 1, "1": 1}}}
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["thinkrl.sweeps.sweep", "sweep_fakes"])


def statuses(folder: SweepFolder) -> dict[str, str]:
    return {f"{' '.join(state.point)} {state.seed}".strip(): state.status for state in folder.states()}


def test_every_point_runs_once_with_every_seed_and_the_best_is_found_on_validation(tmp_path: Path) -> None:
    fake = FakeRuns(tmp_path, RIGHT)
    sweep = fake_sweep(tmp_path, "rate=1,2,3", "seed=range(2)")
    sweep.run(fake.command)
    assert statuses(sweep.folder) == {f"rate={r} {s}": "finished" for r in (1, 2, 3) for s in (0, 1)}
    assert fake.starts == [f"seed{seed}_rate={rate}" for rate in (1, 2, 3) for seed in (0, 1)]
    table = tabulate(sweep.folder)
    # The fake gets one more right on validation prompts than on the test: of 8, for point 1, 3 and 5.
    assert [row.chosen.mean for row in table.rows if row.chosen] == [0.5, 0.75, 0.25]
    assert [row.test.mean for row in table.rows if row.test] == [0.375, 0.625, 0.125]
    assert table.rows[0].chosen is not None
    assert table.best == 1
    # Student's interval of 3/8 and 5/8, by hand: mean 1/2, standard error 1/8, quantile 12.706.
    assert table.rows[0].chosen.low == pytest.approx(0.5 - 12.706 / 8)
    assert "| best | rate=2 | 0.75 (0.75 to 0.75) | 2 of 2 | 0.625 (0.625 to 0.625) |" in table.markdown()


def test_the_same_command_runs_nothing_again_and_a_wider_one_only_what_is_new(tmp_path: Path) -> None:
    fake = FakeRuns(tmp_path, RIGHT)
    fake_sweep(tmp_path, "rate=1,2", "seed=0").run(fake.command)
    fake_sweep(tmp_path, "rate=1,2", "seed=0").run(fake.command)
    assert len(fake.starts) == 2
    wider = fake_sweep(tmp_path, "rate=1,2,3", "seed=0,1")
    wider.run(fake.command)
    assert sorted(fake.starts) == sorted({f"seed{s}_rate={r}" for r in (1, 2, 3) for s in (0, 1)})
    assert len(tabulate(wider.folder).rows) == 3


def test_a_failed_point_says_why_and_the_rest_goes_on(tmp_path: Path) -> None:
    fake = FakeRuns(tmp_path, {**RIGHT, "2": {"fails": "no memory left on device"}})
    sweep = fake_sweep(tmp_path, "rate=1,2,3")
    sweep.run(fake.command)
    assert statuses(sweep.folder) == {"rate=1 0": "finished", "rate=2 0": "failed", "rate=3 0": "finished"}
    (failed,) = (state for state in sweep.folder.states() if state.status == "failed")
    assert failed.why == "exit code 1: no memory left on device"
    table = tabulate(sweep.folder)
    assert table.best == 0
    assert table.rows[1].remarks == ["seed 0 failed: exit code 1: no memory left on device"]
    fake.points["2"] = RIGHT["2"]
    sweep.run(fake.command)
    assert statuses(sweep.folder)["rate=2 0"] == "finished"
    assert len(fake.starts) == 4, "what failed is tried again, and nothing else"
    assert tabulate(sweep.folder).best == 1


def test_a_point_with_an_unfinished_seed_is_not_chosen(tmp_path: Path) -> None:
    fake = FakeRuns(tmp_path, {"1": {"right": {"0": 1, "1": 1}}, "2": {"right": {"0": 7, "1": 7}}})
    sweep = fake_sweep(tmp_path, "rate=1,2", "seed=0,1")
    sweep.run(fake.command)
    lost = next(state for state in sweep.folder.states() if state.point == ("rate=2",) and state.seed == 1)
    sweep.folder.write(lost.end("failed", "lost"))
    table = tabulate(sweep.folder)
    assert (table.best, table.rows[1].chosen and table.rows[1].chosen.n) == (0, 1)


def test_the_metric_may_be_a_column_of_the_log_and_lower_may_be_better(tmp_path: Path) -> None:
    rewards = {"1": {"rewards": [0.0, 0.0, 0.0, 4.0]}, "2": {"rewards": [9.0, 9.0, 9.0, 3.0]}}
    sweep = fake_sweep(tmp_path, "rate=1,2", choice=Choice("reward/mean", "rl", evaluated=False))
    sweep.run(FakeRuns(tmp_path, rewards).command)
    table = tabulate(sweep.folder)
    assert [row.chosen.mean for row in table.rows if row.chosen] == [4.0, 3.0], "the last quarter of the steps"
    assert table.best == 0
    assert tabulate(sweep.folder, Choice("reward/mean", "rl", evaluated=False, minimize=True)).best == 1
    missing = tabulate(sweep.folder, Choice("reward/mea", "rl", evaluated=False))
    assert missing.best is None
    assert "did you mean reward/mean?" in missing.rows[0].remarks[0]


def test_other_shared_overrides_and_other_folders_are_refused(tmp_path: Path) -> None:
    fake = FakeRuns(tmp_path, RIGHT)
    fake_sweep(tmp_path, "rate=1,2", "size=3").run(fake.command)
    with pytest.raises(ConfigError, match=r"fixed: \['size=3'\] -> \['size=4'\]"):
        fake_sweep(tmp_path, "rate=1,2", "size=4").run(fake.command)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "other.txt").write_text("")
    with pytest.raises(RunError, match=r"holds other files \(other.txt\)"):
        fake_sweep(tmp_path, "rate=1", folder=SweepFolder(tmp_path / "full")).run(fake.command)
    assert len(fake.starts) == 2


def test_a_run_whose_recipe_was_changed_is_refused_before_anything_starts(tmp_path: Path) -> None:
    fake = FakeRuns(tmp_path, RIGHT)
    sweep = fake_sweep(tmp_path, "rate=1,2")
    sweep.run(fake.command)
    (sweep.folder.run("seed0_rate=1") / "config.yaml").write_text("rate: other\nseed: 0\n")
    with pytest.raises(ConfigError, match='rate: "other" -> '):
        fake_sweep(tmp_path, "rate=1,2,3").run(fake.command)
    assert len(fake.starts) == 2


def test_a_hopeless_point_is_stopped_and_goes_on_when_the_rule_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("thinkrl.sweeps.job._LOOK_SECONDS", 0.1)
    good = {"rewards": [1.0] * 4, "right": {"0": 3, "1": 3}}
    bad = {"rewards": [0.5, 0.1, 0.1, 0.1], "seconds": 60.0}
    fake = FakeRuns(tmp_path, {"1": good, "2": good, "3": bad})
    sweep = fake_sweep(tmp_path, "rate=1,2,3", "seed=0,1", stop=MedianStop(stage="rl", after=3, others=2))
    sweep.run(fake.command)
    states = {state.name: state for state in sweep.folder.states()}
    assert states["seed0_rate=3"].status == states["seed1_rate=3"].status == "stopped"
    assert "at step 4 its best reward/mean is 0.5" in states["seed0_rate=3"].why
    assert states["seed1_rate=3"].why == "its seed 0 was stopped"
    assert fake.starts.count("seed1_rate=3") == 0
    sweep.run(fake.command)
    assert len(fake.starts) == 5, "a stopped run stays stopped while the rule holds"
    fake.points["3"] = good
    fake_sweep(tmp_path, "rate=1,2,3", "seed=0,1").run(fake.command)
    assert set(statuses(sweep.folder).values()) == {"finished"}


def test_random_points_run_with_every_seed(tmp_path: Path) -> None:
    fake = FakeRuns(tmp_path, RIGHT)
    means = Means(Sweeper.RANDOM, trials=2)
    sweep = fake_sweep(tmp_path, "rate=1,2,3", "seed=0,1", means=means)
    planned = [run.name for run in sweep.runs]
    sweep.run(fake.command)
    assert fake.starts == planned
    assert len({split_seed(state.point)[0] for state in sweep.folder.states()}) == 2
    sweep.run(fake.command)
    assert len(fake.starts) == 4


def test_joblib_runs_side_by_side(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    points = {rate: {**RIGHT[rate], "together": 2} for rate in ("1", "2")}
    sweep = fake_sweep(tmp_path, "rate=1,2", means=Means(launcher=Launcher.JOBLIB, jobs=2))
    sweep.run(FakeRuns(tmp_path, points).command)
    assert set(statuses(sweep.folder).values()) == {"finished"}, "neither ends before the other has begun"


def test_optuna_proposes_the_same_points_again_and_goes_on_from_their_results(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    means = Means(Sweeper.OPTUNA, trials=4)
    fake = FakeRuns(tmp_path, {str(rate): {"right": {"0": rate, "1": rate}} for rate in range(1, 8)})
    fake_sweep(tmp_path, "rate=range(1,7)", "seed=0,1", means=means).run(fake.command)
    first = fake.starts
    assert len(first) == len(set(first)) <= 8
    assert {name.partition("_")[0] for name in first} == {"seed0", "seed1"}
    sweep = fake_sweep(tmp_path, "rate=range(1,7)", "seed=0,1", means=Means(Sweeper.OPTUNA, trials=8))
    sweep.run(fake.command)
    assert fake.starts[: len(first)] == first
    assert len(fake.starts) == len(set(fake.starts)) > len(first)
    table = tabulate(sweep.folder)
    assert table.best is not None
    assert table.rows[table.best].point == (max(row.point[0] for row in table.rows),), "more is better here"


def test_optuna_survives_points_that_all_fail(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    fake = FakeRuns(tmp_path, {rate: {"fails": "no memory"} for rate in ("1", "2")})
    sweep = fake_sweep(tmp_path, "rate=1,2", means=Means(Sweeper.OPTUNA, trials=3))
    sweep.run(fake.command)
    assert set(statuses(sweep.folder).values()) == {"failed"}


def test_submitit_runs_a_batch_at_a_time(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    sweep = fake_sweep(tmp_path, "rate=1,2,3", means=Means(launcher=Launcher.SUBMITIT_LOCAL, jobs=2))
    sweep.run(FakeRuns(tmp_path, RIGHT).command)
    assert set(statuses(sweep.folder).values()) == {"finished"}
    assert tabulate(sweep.folder).best == 1


def run_sweep(folder: str, points: dict[str, Any], jobs: int) -> None:
    os.setsid()
    launcher = Launcher.JOBLIB if jobs > 1 else Launcher.LOCAL
    sweep = fake_sweep(Path(folder), "rate=1,2", "seed=0,1", means=Means(launcher=launcher, jobs=jobs))
    sweep.run(FakeRuns(Path(folder), points).command)


@pytest.mark.parametrize("jobs", [1, 2])
def test_after_a_kill_no_run_is_left_behind_and_the_same_command_finishes_the_rest(tmp_path: Path, jobs: int) -> None:
    if jobs > 1:
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    slow = {"1": RIGHT["1"], "2": {**RIGHT["2"], "seconds": 60.0}}
    child = _SERVER.Process(target=run_sweep, args=(str(tmp_path), slow, jobs))
    child.start()
    fake = FakeRuns(tmp_path, RIGHT)
    wait_until(lambda: len(fake.starts) == 2 + jobs)  # so all of the first point have finished
    assert child.pid is not None
    family = psutil.Process(child.pid).children(recursive=True)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    wait_until(lambda: not [one for one in family if one.is_running() and "fake.py" in " ".join(cmdline(one))])
    folder = SweepFolder(tmp_path / "sweep")
    finished = {state.name: state for state in folder.states() if state.status == "finished"}
    assert set(finished) >= {"seed0_rate=1", "seed1_rate=1"}
    fake_sweep(tmp_path, "rate=1,2", "seed=0,1").run(fake.command)
    states = {state.name: state for state in folder.states()}
    assert {state.status for state in states.values()} == {"finished"}
    assert len(states) == 4
    assert all(states[name] == before for name, before in finished.items()), "what was finished was not touched"
    assert states["seed0_rate=2"].starts == 2


def cmdline(one: psutil.Process) -> list[str]:
    try:
        return one.cmdline() if one.status() != psutil.STATUS_ZOMBIE else []
    except psutil.Error:
        return []


def wait_until(happened: Any, seconds: float = 180.0) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_keys_are_as_short_as_they_are_clear(tmp_path: Path) -> None:
    point = ("stages.sft.learner.rate=1", "stages.grpo.learner.rate=2", "algorithm=rloo", "+a.size=3")
    folder = SweepFolder(tmp_path)
    folder.begin({"recipe": "r", "fixed": []}, {"choice": Choice("accuracy", "test").as_json()})
    folder.plan([RunState(point, 0)])
    assert tabulate(folder).names == ["sft.learner.rate=1 grpo.learner.rate=2 algorithm=rloo size=3"]


def test_two_commands_do_not_work_in_one_folder(tmp_path: Path) -> None:
    child = _SERVER.Process(target=run_sweep, args=(str(tmp_path), {"1": {"seconds": 60.0}}, 1))
    child.start()
    fake = FakeRuns(tmp_path, {})
    try:
        wait_until(lambda: bool(fake.starts))
        assert [row.count("running") for row in tabulate(SweepFolder(tmp_path / "sweep")).rows] == [1, 0]
        with pytest.raises(RunError, match="in use by another process"):
            fake_sweep(tmp_path, "rate=1,2", "seed=0,1").run(("true",))
    finally:
        child.kill()
        child.join()
    table = tabulate(SweepFolder(tmp_path / "sweep"))
    assert [row.count("running") for row in table.rows] == [0, 0], "what was cut off waits"
    assert "seed 0 waiting: cut off" in table.rows[0].remarks


def test_an_interrupt_lets_the_step_finish_and_the_run_waits_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeRuns(tmp_path, {"1": {**RIGHT["1"], "seconds": 60.0}})
    sweep = fake_sweep(tmp_path, "rate=1,2")

    def interrupt() -> str:
        if (sweep.folder.run("seed0_rate=1") / "metrics.jsonl").exists():
            time.sleep(0.3)
            raise KeyboardInterrupt
        return ""

    monkeypatch.setattr("thinkrl.sweeps.job._never", interrupt)
    with pytest.raises(KeyboardInterrupt):
        sweep.run(fake.command)
    assert statuses(sweep.folder) == {"rate=1 0": "waiting", "rate=2 0": "waiting"}
    assert fake.starts == ["seed0_rate=1"]


def test_a_process_that_a_signal_ended_says_so_and_only_its_own_output_is_quoted(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("error: of an earlier start\n")
    done = process.run_process(("sh", "-c", "echo last; kill -9 $$"), log, dict(os.environ), tmp_path)
    assert (done.code, done.why) == (-9, "ended by SIGKILL: last")
    done = process.run_process(("sh", "-c", "echo 'error: one'; echo two; exit 3"), log, dict(os.environ), tmp_path)
    assert done.why == "exit code 3: one two"
    done = process.run_process(("true",), log, dict(os.environ), tmp_path)
    assert (done.code, done.last_words) == (0, "it printed nothing")


def test_the_results_are_json(tmp_path: Path) -> None:
    fake = FakeRuns(tmp_path, {**RIGHT, "3": {"fails": "x"}})
    sweep = fake_sweep(tmp_path, "rate=1,3")
    sweep.run(fake.command)
    stored = json.loads(json.dumps(tabulate(sweep.folder).as_json()))
    assert stored["best"] == ["rate=1"]
    assert [point["chosen"] and point["chosen"]["n"] for point in stored["points"]] == [1, None]
    one = stored["points"][0]["chosen"]
    assert one["low"] < one["mean"] == 0.375 < one["high"], "one seed: the interval is over prompts"
    assert stored["points"][1]["runs"][0]["why"] == "exit code 1: x"
