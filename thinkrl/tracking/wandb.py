"""Weights & Biases: a copy of the metrics that never stops a run and never shows a row twice."""

import netrc
import os
import secrets
import string
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlparse

from thinkrl.tracking.directory import RunDirectory
from thinkrl.tracking.metrics import Value, read_rows
from thinkrl.tracking.tracker import NoTracker, OpenTracker
from thinkrl.tracking.wandb_rows import SentRows

_LETTERS = string.ascii_lowercase + string.digits
_Mode = Literal["auto", "online", "offline", "disabled"]

_SETTINGS: dict[str, Any] = {
    "silent": True,
    "console": "off",
    "disable_code": True,
    "init_timeout": 20.0,
    "finish_timeout": 120.0,
    "x_transaction_log_flush_interval": 0.05,
}
"""Quiet, bounded in every wait, and quick to write what a kill would lose."""


@dataclass(frozen=True)
class WandbTracker:
    """Copies rows, configuration and sample tables to W&B (or to files that `wandb sync` sends later).

    A run keeps one id for all its starts, in `run.json`. W&B drops a row whose step does not rise, so its own
    step is twice our row number (plus one for tables), and `row` is the axis of every chart. A refusal
    or a failure of the service is reported once; the run goes on offline, or without.
    """

    mode: _Mode = "auto"
    """`auto` follows WANDB_MODE when set, else is online when there is a key and offline when not."""
    project: str = "thinkrl"
    """Project the run is shown in."""
    entity: str | None = None
    """Team or user that owns the project; null takes the key's default."""
    group: str | None = None
    """Runs with the same group are shown together; null takes none."""
    tags: tuple[str, ...] = ()
    """Labels of the run."""

    def __post_init__(self) -> None:
        if self.mode not in ("auto", "online", "offline", "disabled"):
            raise ValueError(f"mode must be auto, online, offline or disabled, got {self.mode!r}")
        if not self.project:
            raise ValueError("project must not be empty")

    def open(self, run: RunDirectory, config: Mapping[str, Any], name: str) -> OpenTracker:
        """Starts or continues the W&B run that belongs to `run`. Never raises because of W&B."""
        mode = self._resolved_mode()
        if mode == "disabled":
            return NoTracker().open(run, config, name)
        attempts: list[Literal["online", "offline"]] = ["online", "offline"] if mode == "online" else ["offline"]
        for attempt in attempts:
            try:
                return _WandbRun(self._init(attempt, run, config, name), run, attempt)
            except Exception as error:
                then = "going on offline" if attempt == "online" else "going on without it"
                _forget_client()
                _report(f"could not start {attempt} ({_short(error)}); {then}. metrics.jsonl holds everything")
        return NoTracker().open(run, config, name)

    def _resolved_mode(self) -> Literal["online", "offline", "disabled"]:
        mode = os.environ.get("WANDB_MODE", "auto") if self.mode == "auto" else self.mode
        if mode == "disabled":
            return "disabled"
        if mode == "offline":
            return "offline"
        if has_key():
            return "online"
        if mode == "online":
            _report("no key, so the run is kept offline. `wandb login` stores one")
        return "offline"

    def _init(self, mode: Literal["online", "offline"], run: RunDirectory, config: Mapping[str, Any], name: str) -> Any:
        import wandb

        known = run.record.get("wandb_run_id")
        run_id = _id_in_sweep() or known or "".join(secrets.choice(_LETTERS) for _ in range(8))
        if run_id != known:
            run.update(wandb_run_id=run_id)
        settings = {key: value for key, value in _SETTINGS.items() if key in wandb.Settings.model_fields}
        wandb.setup(settings=wandb.Settings(silent=True))
        started = wandb.init(
            mode=mode,
            project=self.project,
            entity=self.entity,
            group=self.group,
            tags=list(self.tags) or None,
            name=name,
            id=run_id,
            resume="allow",
            dir=str(run.path),
            config=dict(config),
            settings=wandb.Settings(**settings),
            reinit="finish_previous",
        )
        started.define_metric("row")
        started.define_metric("*", step_metric="row")
        return started


class _WandbRun:
    """An open W&B run. `_next` is the first row that W&B does not have; `_began` is what that was on opening."""

    def __init__(self, client: Any, run: RunDirectory, mode: str) -> None:
        self._client = client
        self._mode = mode
        self._path = run.path
        self._held: dict[int, dict[str, Any]] = {}
        kept = SentRows.load(run.path)
        self._next = self._rows_on_server() if mode == "online" else kept.confirmed()
        self._began = self._next
        self._cursor = SentRows(run.path, self._next, first=self._next, file=str(client.settings.sync_file))
        self._save_cursor()

    def log(self, row_number: int, row: Mapping[str, Value]) -> None:
        """Sends a row, after rows before it that W&B lacks (lost in a crash, or from before it was used)."""
        if self._client is None or row_number < self._next:
            return
        try:
            if row_number > self._next:
                stored = read_rows(self._path / "metrics.jsonl")
                for number in range(self._next, row_number):
                    self._send(number, stored[number])
            self._send(row_number, row)
        except Exception as error:
            self._give_up(error)
            return
        self._next = row_number + 1
        self._save_cursor()

    def log_samples(self, row_number: int, name: str, columns: Sequence[str], rows: Sequence[Sequence[Value]]) -> None:
        """Sends a table: with its row when that is still to come, alone when it was the last one."""
        if self._client is None or row_number < max(self._began, self._next - 1):
            return
        try:
            import wandb

            table = wandb.Table(columns=list(columns), data=[list(row) for row in rows])
            if row_number >= self._next:
                self._held.setdefault(row_number, {})[name] = table
            else:
                self._client.log({"row": row_number, name: table}, step=2 * row_number + 1)
        except Exception as error:
            self._give_up(error)

    def finish(self, exit_code: int) -> None:
        """Closes the W&B run and says how to send what was kept offline."""
        if self._client is None:
            return
        client, self._client = self._client, None
        try:
            client.finish(exit_code=exit_code)
        except Exception as error:
            _report(f"could not finish ({_short(error)}). {self._sync_hint()}")
            return
        if self._mode == "offline":
            _report(f"kept offline. {self._sync_hint()}")

    def _send(self, number: int, row: Mapping[str, Value]) -> None:
        known = {key: value for key, value in row.items() if value is not None}
        self._client.log({"row": number, **known, **self._held.pop(number, {})}, step=2 * number, commit=True)

    def _give_up(self, error: Exception) -> None:
        """Goes on without W&B; the next start of the run sends what is missing."""
        client, self._client = self._client, None
        _report(f"failed ({_short(error)}); going on without it. The next start of this run sends what is missing")
        try:
            client.finish(exit_code=1)
        except Exception:
            return  # it failed already, and that was said

    def _rows_on_server(self) -> int:
        last = self._client.summary.get("row") if getattr(self._client, "resumed", False) else None
        return 0 if last is None else int(last) + 1

    def _save_cursor(self) -> None:
        try:
            self._cursor.save(self._next)
        except Exception as error:
            self._give_up(error)

    def _sync_hint(self) -> str:
        return f"To send it: wandb sync {self._path / 'wandb'}/offline-run-*"


def has_key() -> bool:
    """Whether W&B's client would find a key: in WANDB_API_KEY or in the netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    places = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    for place in places:
        try:
            if netrc.netrc(Path(place).expanduser()).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def _id_in_sweep() -> str | None:
    """The id that W&B's sweep agent has given this run: it has made the run already, and takes no other id."""
    return os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None


def _forget_client() -> None:
    """Ends the client's own process, which would refuse the run's id after a failed start."""
    try:
        import wandb

        wandb.teardown(exit_code=0)
    except Exception:
        return


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def _report(text: str) -> None:
    print(f"W&B: {text}", file=sys.stderr)
