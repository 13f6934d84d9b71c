import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from thinkrl.config.component import UserError
from thinkrl.tracking.directory import RunDirectory
from thinkrl.tracking.errors import RunError

CONFIG = "model:\n  name: tiny\nstages:\n- steps: 3\nrate: 1.0e-05\ntracker:\n  mode: offline\n"
ORIGINS = "model.name: recipe.yaml\n"


def _open(path: Path, config: str = CONFIG) -> RunDirectory:
    return RunDirectory.open(path, config, ORIGINS, {"recipe": "quickstart", "seed": 3})


def test_a_new_directory_holds_configuration_and_record(tmp_path: Path) -> None:
    with _open(tmp_path / "runs" / "a") as run:
        assert (run.path / "config.yaml").read_text() == CONFIG
        assert (run.path / "origins.yaml").read_text() == ORIGINS
        record = json.loads((run.path / "run.json").read_text())
    assert record["recipe"] == "quickstart"
    assert record["seed"] == 3
    assert record["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"torch", "transformers", "numpy"} <= record["versions"].keys()
    assert record["hardware"]["cores"] >= 1
    assert not run.resumed


def test_the_commit_is_the_one_git_names(tmp_path: Path) -> None:
    with _open(tmp_path / "a") as run:
        git = run.record["git"]
    here = Path(__file__).parent
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False)
    if head.returncode:
        assert git == {}
    else:
        assert git["commit"] == head.stdout.strip()
        assert isinstance(git["dirty"], bool)


def test_opening_again_keeps_the_record(tmp_path: Path) -> None:
    with _open(tmp_path / "a") as run:
        run.update(wandb_run_id="abc")
        created = run.record["created"]
    with _open(tmp_path / "a") as run:
        assert run.resumed
        assert run.record["created"] == created
        assert run.record["wandb_run_id"] == "abc"
        assert run.messages == ()
        assert len(run.record["starts"]) == 2


def test_another_configuration_is_refused_key_by_key(tmp_path: Path) -> None:
    _open(tmp_path / "a").close()
    other = CONFIG.replace("tiny", "small").replace("steps: 3", "steps: 4").replace("rate: 1.0e-05\n", "extra: null\n")
    with pytest.raises(RunError) as caught:
        _open(tmp_path / "a", other)
    message = str(caught.value)
    assert 'model.name: "tiny" -> "small"' in message
    assert "stages.0.steps: 3 -> 4" in message
    assert "rate: 1e-05 -> (absent)" in message
    assert "extra: (absent) -> null" in message
    assert "--dir" in message
    assert "tracker" not in message
    assert (tmp_path / "a" / "config.yaml").read_text() == CONFIG
    _open(tmp_path / "a").close()  # the refused one left no lock


def test_order_and_comments_are_no_difference(tmp_path: Path) -> None:
    _open(tmp_path / "a", "a: 1\nb: 2\n").close()
    _open(tmp_path / "a", "# same\nb: 2\na: 1\n").close()


def test_a_key_no_result_depends_on_may_change_and_is_noted(tmp_path: Path) -> None:
    _open(tmp_path / "a").close()
    changed = CONFIG.replace("offline", "online")
    with _open(tmp_path / "a", changed) as run:
        assert run.messages == ('tracker.mode: "offline" -> "online" since the run began',)
    assert (tmp_path / "a" / "config.yaml").read_text() == changed
    record = json.loads((tmp_path / "a" / "run.json").read_text())
    assert record["starts"][1]["changes"] == list(run.messages)


def test_another_version_of_a_package_is_said(tmp_path: Path) -> None:
    with _open(tmp_path / "a") as run:
        versions = {**run.record["versions"], "torch": "1.0"}
        run.update(versions=versions)
    with _open(tmp_path / "a") as run:
        assert len(run.messages) == 1
        assert run.messages[0].startswith('versions.torch: "1.0" -> ')


_HOLDER = """
import sys, time
from pathlib import Path
from thinkrl.tracking.directory import RunDirectory
run = RunDirectory.open(Path(sys.argv[1]), "a: 1", "", {})
print("open", flush=True)
time.sleep(60)
"""


def test_two_processes_never_share_a_run_and_kill_9_releases_it(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", _HOLDER, str(tmp_path / "a")], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    with pytest.raises(RunError, match=rf"in use by another process \(pid {holder.pid}\)"):
        _open(tmp_path / "a", "a: 1")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    with _open(tmp_path / "a", "a: 1") as run:
        assert run.resumed
        with pytest.raises(RunError, match=f"in use by this process .pid {os.getpid()}"):
            _open(tmp_path / "a", "a: 1")
    _open(tmp_path / "a", "a: 1").close()


def test_a_second_opening_refused_in_this_process_does_not_free_the_run(tmp_path: Path) -> None:
    with _open(tmp_path / "a", "a: 1"):
        with pytest.raises(RunError):
            _open(tmp_path / "a", "a: 1")
        command = [sys.executable, "-c", _HOLDER, str(tmp_path / "a")]
        other = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert f"in use by another process (pid {os.getpid()})" in other.stderr


def test_a_worker_that_outlives_a_killed_run_does_not_keep_it(tmp_path: Path) -> None:
    script = _HOLDER.replace("print(", "import os\nif os.fork() == 0:\n    time.sleep(5)\n    os._exit(0)\nprint(")
    holder = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "a")], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    _open(tmp_path / "a", "a: 1").close()


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    (tmp_path / "draft.partial").write_text("precious too")
    with pytest.raises(RunError, match=r"holds other files \(draft.partial, thesis.tex\) and no run"):
        _open(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["draft.partial", "thesis.tex"]


def test_a_start_killed_while_laying_out_is_finished_by_the_next(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("a: 0")
    (tmp_path / "run.json.partial").write_text("{")
    with _open(tmp_path) as run:
        assert not run.resumed
        assert (tmp_path / "config.yaml").read_text() == CONFIG
    assert not (tmp_path / "run.json.partial").exists()


def test_a_folder_that_cannot_be_written_is_a_clean_error() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, stat.S_IRUSR | stat.S_IXUSR | stat.S_IROTH | stat.S_IXOTH)
        user = os.geteuid()
        try:
            if user == 0:
                os.seteuid(65534)  # permissions do not bind root
            with pytest.raises(RunError, match=r"cannot write .*Permission denied.*--dir"):
                _open(Path(folder) / "a")
            with pytest.raises(UserError, match="cannot write"):
                _open(Path(folder))
        finally:
            os.seteuid(user)
            os.chmod(folder, stat.S_IRWXU)


def test_a_file_in_the_way_is_a_clean_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        _open(tmp_path / "file" / "a")


def test_a_broken_record_is_named(tmp_path: Path) -> None:
    _open(tmp_path / "a").close()
    (tmp_path / "a" / "run.json").write_text('{"format": 1,\n oops}')
    with pytest.raises(RunError, match=r"run\.json, line 2: not JSON"):
        _open(tmp_path / "a")


def test_stages_go_from_pending_to_finished_with_their_artifacts(tmp_path: Path) -> None:
    with _open(tmp_path / "a") as run:
        run.plan_stages(["sft", "grpo"])
        assert run.stage_path(0, "sft") == tmp_path / "a" / "stages" / "0_sft"
        assert run.stage_path(0, "sft").is_dir()
        run.begin_stage(0, "sft", {"bytes": 0, "rows": 0})
        outside = tmp_path / "cache" / "x"
        made = {"model": (run.stage_path(0, "sft") / "model", "f1"), "shared": (outside, "f2")}
        run.finish_stage(0, "sft", made)
        run.begin_stage(1, "grpo", {"bytes": 80, "rows": 2})
    os.rename(tmp_path / "a", tmp_path / "b")
    with _open(tmp_path / "b") as run:
        done, going = run.stage(0, "sft"), run.stage(1, "grpo")
        assert (done.status, going.status, run.stage(2, "evaluate").status) == ("finished", "running", "pending")
        assert run.artifact_path(done.artifacts["model"]) == tmp_path / "b" / "stages" / "0_sft" / "model"
        assert run.artifact_path(done.artifacts["shared"]) == outside
        assert done.artifacts["model"].fingerprint == "f1"
        again = run.begin_stage(1, "grpo", {"bytes": 200, "rows": 5})
        assert again.metrics == {"bytes": 80, "rows": 2}, "a stage rewinds to where it first began"


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden"])
def test_stage_names_cannot_leave_the_directory(tmp_path: Path, name: str) -> None:
    with _open(tmp_path / "a") as run, pytest.raises(ValueError, match="name that can be a folder"):
        run.stage_path(0, name)


def test_free_keys_may_be_patterns_of_whole_keys(tmp_path: Path) -> None:
    def opened(processes: int, rate: float) -> None:
        config = (
            f"learner: {{processes: {processes}}}\nstages: {{a: {{learner: {{processes: {processes}, rate: {rate}}}}}}}"
        )
        RunDirectory.open(tmp_path / "run", config, "{}", {}, ("tracker", "*learner.processes")).close()

    opened(1, 0.5)
    opened(2, 0.5)
    with pytest.raises(RunError, match=r"stages\.a\.learner\.rate: 0\.5 -> 0\.25"):
        opened(2, 0.25)


def test_each_start_notes_how_it_ended(tmp_path: Path) -> None:
    with _open(tmp_path / "a") as run:
        run.end("RunError: no space left")
    with _open(tmp_path / "a") as run:
        run.end("finished")
    starts = json.loads((tmp_path / "a" / "run.json").read_text())["starts"]
    assert [start["end"] for start in starts] == ["RunError: no space left", "finished"]
    assert all(start["time"] <= start["ended"] for start in starts)
