import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb

from thinkrl.tracking.directory import RunDirectory
from thinkrl.tracking.metrics import MetricsLog
from thinkrl.tracking.wandb import WandbTracker, has_key
from thinkrl.tracking.wandb_rows import SentRows, read_history

LONG = "long" * 20_000


@pytest.fixture(autouse=True)
def _no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_PROJECT", "WANDB_RUN_ID", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    yield
    wandb.teardown()


class _Client:
    """Stands in for a W&B run: keeps what it gets and fails when told to."""

    def __init__(self, summary: dict[str, Any] | None = None, fails_at: int | None = None) -> None:
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.summary = summary or {}
        self.resumed = summary is not None
        self.fails_at = fails_at
        self.settings = wandb.Settings()
        self.finished: list[int] = []

    def define_metric(self, *_: Any, **__: Any) -> None:
        pass

    def log(self, data: dict[str, Any], step: int, commit: bool | None = None) -> None:
        if self.fails_at is not None and data["row"] >= self.fails_at:
            raise wandb.errors.CommError("the service is away")
        self.logged.append((step, data))

    def finish(self, exit_code: int) -> None:
        self.finished.append(exit_code)


def _directory(path: Path) -> RunDirectory:
    return RunDirectory.open(path / "run", "a: 1", "", {})


def _rows(path: Path) -> list[dict[str, Any]]:
    wandb.teardown()  # waits for the client's own process, which may still be writing after `finish`
    files = sorted((path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    return [row for file in files for row in read_history(file)]


def test_the_real_client_writes_rows_config_and_tables_offline(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with _directory(tmp_path) as run:
        tracker = WandbTracker(project="p", tags=("a", "b")).open(run, {"model": {"name": "tiny"}}, "one")
        tracker.log_samples(0, "responses", ["prompt", "reward"], [["1+1", 0.5]])
        tracker.log(0, {"row": 0, "stage": "sft", "loss": 0.1, "nothing": None})
        tracker.log(1, {"row": 1, "stage": "sft", "loss": 0.2, "text": LONG})
        tracker.log_samples(1, "responses", ["prompt", "reward"], [["2+2", 1.0]])
        tracker.finish(0)
        run_id = run.record["wandb_run_id"]
    rows = _rows(tmp_path)
    assert [(row["row"], row.get("loss")) for row in rows] == [(0, 0.1), (1, 0.2), (1, None)]
    assert [row["_step"] for row in rows] == [0, 2, 3], "W&B drops a row whose step does not rise"
    assert ["responses._type" in row for row in rows] == [True, False, True]
    assert "nothing" not in rows[0]
    assert rows[1]["text"] == LONG, "a record that spans several blocks of the file"
    assert list((tmp_path / "run" / "wandb").glob(f"offline-run-*-{run_id}"))
    tables = sorted((tmp_path / "run" / "wandb").glob("*/files/media/table/responses_*.json"))
    assert {json.loads(table.read_text())["data"][0][0] for table in tables} == {"1+1", "2+2"}
    captured = capfd.readouterr()
    assert captured.out == "", "the client is quiet"
    assert captured.err == f"W&B: kept offline. To send it: wandb sync {run.path / 'wandb'}/offline-run-*\n"


_RUN = """
import io, os, signal, sys
from pathlib import Path
from rich.console import Console
from thinkrl.tracking.directory import RunDirectory
from thinkrl.tracking.progress import ProgressDisplay
from thinkrl.tracking.recorder import Recorder
from thinkrl.tracking.wandb import WandbTracker

run = RunDirectory.open(Path(sys.argv[1]), "a: 1", "", {})
kill = int(sys.argv[2])
tracker = WandbTracker(mode="offline").open(run, {}, "one")
recorder = Recorder(run, tracker, ProgressDisplay(Console(file=io.StringIO())))
if run.resumed:
    recorder.rewind(run.record["checkpoint"])
for row in range(recorder.position["rows"], 60):
    if row % 10 == 0:
        run.update(checkpoint=recorder.position)
    recorder.record("grpo", row, {"reward": row / 7}, {})
    if row == kill:
        os.kill(os.getpid(), signal.SIGKILL)
recorder.close()
"""


def test_every_row_reaches_w_and_b_once_through_two_kills(tmp_path: Path) -> None:
    for kill, code in ((17, -signal.SIGKILL), (39, -signal.SIGKILL), (99, 0)):
        command = [sys.executable, "-c", _RUN, str(tmp_path / "run"), str(kill)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == code, done.stderr
    rows = _rows(tmp_path)
    assert [(row["row"], row["step"], row["reward"]) for row in rows] == [(row, row, row / 7) for row in range(60)]
    assert [row["_step"] for row in rows] == [2 * row for row in range(60)]
    folders = {file.name.split("-")[-1] for file in (tmp_path / "run" / "wandb").glob("offline-run-*")}
    assert len(folders) == 1, "one run id for all starts"
    assert len(list((tmp_path / "run" / "wandb").glob("offline-run-*"))) == 3


def _attach(monkeypatch: pytest.MonkeyPatch, *clients: Any) -> list[dict[str, Any]]:
    """Makes `wandb.init` hand out `clients` in turn, raising those that are errors; returns its arguments."""
    calls: list[dict[str, Any]] = []
    left = list(clients)

    def init(**arguments: Any) -> Any:
        calls.append(arguments)
        client = left.pop(0)
        if isinstance(client, Exception):
            raise client
        return client

    monkeypatch.setattr(wandb, "init", init)
    return calls


def _metrics(run: RunDirectory, count: int) -> None:
    log = MetricsLog(run.path / "metrics.jsonl")
    for row in range(log.row_count, count):
        log.append({"row": row, "x": row * 0.5})
    log.close()


def test_a_failure_while_logging_stops_nothing_and_the_next_start_sends_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = _Client(fails_at=3), _Client()
    _attach(monkeypatch, first, second)
    with _directory(tmp_path) as run:
        tracker = WandbTracker(mode="offline").open(run, {}, "x")
        for row in range(6):
            _metrics(run, row + 1)
            tracker.log(row, {"row": row, "x": row * 0.5})
            tracker.log_samples(row, "t", ["a"], [[1]])
        tracker.finish(0)
    assert capsys.readouterr().err.count("W&B: ") == 1, "said once"
    assert [data["x"] for step, data in first.logged if step % 2 == 0] == [0.0, 0.5, 1.0]
    assert first.finished == [1]
    with _directory(tmp_path) as run:
        tracker = WandbTracker(mode="offline").open(run, {}, "x")
        _metrics(run, 8)
        for row in (4, 5, 6, 7):  # replayed from a checkpoint at row 4
            tracker.log(row, {"row": row, "x": row * 0.5})
        tracker.finish(0)
    assert [data["row"] for _, data in second.logged] == [3, 4, 5, 6, 7]
    assert [data["x"] for _, data in second.logged] == [1.5, 2.0, 2.5, 3.0, 3.5]


def test_online_what_the_server_has_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    first, second = _Client(), _Client(summary={"row": 2})
    calls = _attach(monkeypatch, first, second)
    with _directory(tmp_path) as run:
        tracker = WandbTracker(project="p", entity="e", group="g", tags=("t",)).open(run, {"a": 1}, "name")
        for row in range(5):
            _metrics(run, row + 1)
            tracker.log(row, {"row": row, "x": row * 0.5})
    with _directory(tmp_path) as run:  # the process was killed before rows 3 and 4 were uploaded
        tracker = WandbTracker().open(run, {"a": 1}, "name")
        _metrics(run, 6)
        tracker.log(4, {"row": 4, "x": 2.0})
        tracker.log(5, {"row": 5, "x": 2.5})
    assert [data["row"] for _, data in second.logged] == [3, 4, 5]
    assert calls[0]["id"] == calls[1]["id"]
    assert calls[0]["resume"] == calls[1]["resume"] == "allow"
    assert (calls[0]["mode"], calls[0]["project"], calls[0]["entity"]) == ("online", "p", "e")
    assert (calls[0]["group"], calls[0]["tags"], calls[0]["name"]) == ("g", ["t"], "name")
    assert calls[0]["config"] == {"a": 1}


def test_a_refusal_online_goes_on_offline_with_the_same_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    client = _Client()
    calls = _attach(monkeypatch, wandb.errors.AuthenticationError("bad key\nmore"), client)
    with _directory(tmp_path) as run:
        tracker = WandbTracker().open(run, {}, "x")
        tracker.log(0, {"row": 0})
        tracker.finish(0)
    assert [call["mode"] for call in calls] == ["online", "offline"]
    assert calls[0]["id"] == calls[1]["id"]
    assert len(client.logged) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert "could not start online (AuthenticationError: bad key); going on offline" in said[0]
    assert "wandb sync" in said[1]


def test_when_nothing_starts_the_run_goes_on_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _attach(monkeypatch, OSError("no space"))
    with _directory(tmp_path) as run:
        tracker = WandbTracker(mode="offline").open(run, {}, "x")
        tracker.log(0, {"row": 0})
        tracker.log_samples(0, "t", ["a"], [[1]])
        tracker.finish(0)
    assert "could not start offline (OSError: no space); going on without it" in capsys.readouterr().err


def test_the_real_client_refuses_a_bad_key_and_keeps_the_run_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "short")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    with _directory(tmp_path) as run:
        tracker = WandbTracker(mode="online").open(run, {}, "x")
        tracker.log(0, {"row": 0, "x": 1.0})
        tracker.finish(0)
    assert [row["x"] for row in _rows(tmp_path)] == [1.0]
    assert "could not start online (AuthenticationError" in capsys.readouterr().err


def test_disabled_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _attach(monkeypatch)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with _directory(tmp_path) as run:
        for tracker in (WandbTracker(), WandbTracker(mode="disabled")):
            followed = tracker.open(run, {}, "x")
            followed.log(0, {"row": 0})
            followed.finish(0)
        assert "wandb_run_id" not in run.record
    assert calls == []
    assert not (tmp_path / "run" / "wandb").exists()


def test_a_key_is_found_where_the_client_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not has_key()
    (tmp_path / "netrc").write_text("machine api.wandb.ai\n  login user\n  password " + "a" * 40 + "\n")
    (tmp_path / "netrc").chmod(0o600)
    assert has_key()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert not has_key()
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    assert has_key()


def test_a_damaged_or_missing_cursor_costs_no_row(tmp_path: Path) -> None:
    assert SentRows.load(tmp_path).confirmed() == 0
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "cursor.json").write_text("{")
    assert SentRows.load(tmp_path).confirmed() == 0
    SentRows(tmp_path, 0, first=4, file=str(tmp_path / "gone.wandb")).save(9)
    assert SentRows.load(tmp_path).confirmed() == 9, "synced and removed: what was sent counts"
    (tmp_path / "gone.wandb").write_bytes(b":W&B\x00\x00\x00")
    assert SentRows.load(tmp_path).confirmed() == 4, "the client wrote none of what it was given"


def test_a_foreign_file_is_no_history(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="is not a W&B run file"):
        read_history(tmp_path / "x")


@pytest.mark.parametrize(("field", "value"), [("mode", "on"), ("project", "")])
def test_bad_values_are_named(field: str, value: str) -> None:
    with pytest.raises(ValueError, match=field):
        WandbTracker(**{field: value})  # type: ignore[arg-type]


def test_a_run_that_a_wandb_sweep_proposed_keeps_the_id_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def init(**values: Any) -> _Client:
        asked.append(values)
        return _Client()

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setenv("WANDB_RUN_ID", "given123")
    with _directory(tmp_path) as run:
        WandbTracker(mode="offline").open(run, {}, "one").finish(0)
        own = run.record["wandb_run_id"]
        assert own != "given123", "outside a sweep the run has an id of its own"
        monkeypatch.setenv("WANDB_SWEEP_ID", "s1")
        WandbTracker(mode="offline").open(run, {}, "one").finish(0)
        assert run.record["wandb_run_id"] == "given123"
    assert [values["id"] for values in asked] == [own, "given123"]
