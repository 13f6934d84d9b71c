"""Threads spin on free cores and sleep on busy ones, unless the environment has a choice of its own."""

import os

import psutil
import pytest

from thinkrl.cli.cores import choose_wait_policy


@pytest.mark.parametrize(("percent", "policy"), [(3.0, None), (60.0, "passive")])
def test_the_choice_follows_what_others_use(
    percent: float, policy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: percent)
    choose_wait_policy()
    assert os.environ.get("OMP_WAIT_POLICY") == policy
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)


@pytest.mark.parametrize(("name", "value"), [("OMP_WAIT_POLICY", "active"), ("GOMP_SPINCOUNT", "100")])
def test_the_environment_has_the_last_word(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for other in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: pytest.fail("the machine was looked at"))
    choose_wait_policy()
    assert os.environ[name] == value
