import json
import socket
import time
from pathlib import Path

import pytest
from test_cli_start import invoke

from thinkrl.cli import doctor
from thinkrl.cli.doctor import _in_subprocess, disk, hub, optional_engine, package, reachable, wandb


def test_a_crash_a_hang_and_a_missing_engine_are_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _in_subprocess("print('before'); print('1.2')") == ("ok", "1.2")
    assert _in_subprocess("import os; os._exit(3)") == ("broken", "exit code 3")
    assert _in_subprocess("raise RuntimeError('no driver')") == ("broken", "RuntimeError: no driver")
    assert _in_subprocess("import time; time.sleep(60)", seconds=0.3) == ("broken", "did not import within 0 s")
    monkeypatch.setitem(doctor.ENGINES, "no_such_engine", "install it")
    found = optional_engine("no_such_engine")
    assert (found.state, found.advice) == ("missing", "install it")
    assert optional_engine("json").state == "ok"


def test_a_server_that_never_answers_costs_no_more_than_the_limit() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        start = time.monotonic()
        assert not reachable(f"127.0.0.1:{silent.getsockname()[1]}", seconds=0.3)
        assert time.monotonic() - start < 1.5


def test_a_name_that_does_not_exist_is_unreachable() -> None:
    assert not reachable("host.invalid", seconds=0.5)


def test_wandb_without_key_or_switched_off_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert (wandb().found, "wandb login" in wandb().advice) == ("no key", True)
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.setattr(doctor, "reachable", lambda host: False)
    assert (wandb().state, "offline" in wandb().advice) == ("off", True)
    monkeypatch.setattr(doctor, "reachable", lambda host: host == "api.wandb.ai")
    assert wandb().state == "ok"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example:8080/x")
    monkeypatch.setattr(doctor, "reachable", lambda host: host == "wandb.example:8080")
    assert wandb().state == "ok"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert wandb().found == "WANDB_MODE=offline"


def test_the_hub_is_not_asked_when_offline_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(doctor, "reachable", lambda host: pytest.fail("asked"))
    assert hub().state == "off"
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(doctor, "reachable", lambda host: host == "huggingface.co")
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    assert hub().state == "ok"


def test_a_missing_package_and_a_read_only_folder_are_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert package("torch").state == "ok"
    assert package("no-such-package").state == "broken"
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    assert disk(Path.cwd()).state == "broken"


def test_a_sandbox_is_named_by_its_means_and_its_absence_by_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    from thinkrl.sandbox import means
    from thinkrl.sandbox.execution import SandboxError

    monkeypatch.setattr(means, "find_means", lambda: means.Means("/usr/bin/bwrap"))
    assert (doctor.sandbox().state, doctor.sandbox().found) == ("ok", "bubblewrap (/usr/bin/bwrap)")

    def refuse() -> None:
        raise SandboxError("unshare: Operation not permitted")

    monkeypatch.setattr(means, "find_means", refuse)
    assert (doctor.sandbox().state, doctor.sandbox().found) == ("missing", "unshare: Operation not permitted")


def test_the_report_names_everything_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_in_subprocess", lambda program, seconds=60.0: ("missing", "not installed"))
    monkeypatch.setattr(doctor, "reachable", lambda host: False)
    code, text = invoke("doctor", "--json")
    findings = json.loads(text)
    names = [finding["name"] for finding in findings]
    assert code == 0
    assert len(set(names)) == len(names)
    assert {"python", "torch", "cores", "memory", "disk", "devices", "vllm", "wandb server", "hub", "sandbox"} <= set(
        names
    )
    assert all(finding["advice"] for finding in findings if finding["state"] in ("missing", "broken", "off"))
    assert "vllm" in invoke("doctor")[1]
