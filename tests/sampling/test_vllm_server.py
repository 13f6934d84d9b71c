"""vLLM in a server process, for real: the same samples as in this process, and an end that is noticed."""

import dataclasses
import socket
import subprocess
import sys
import time
from itertools import chain

import numpy as np
import psutil
import pytest
import torch
from architectures import tiny_policy
from vllm_here import require_vllm

from thinkrl.config.component import UserError
from thinkrl.sampling.checksum import weights_checksum
from thinkrl.sampling.sampler import SampleRequest, SamplingSpec, ThinkingBudget
from thinkrl.sampling.vllm_client import EngineLost, Server, wait_until_ready
from thinkrl.sampling.vllm_engine import engine_folder
from thinkrl.sampling.vllm_sampler import VLLMSampler
from thinkrl.sampling.vllm_server_sampler import VLLMServerSampler

require_vllm()

PROMPTS = [[5, 9, 200], [7] * 70, [44], [3, 100, 101, 102, 2, 103]]
SPECS = [
    SamplingSpec(temperature=1.2, max_new_tokens=40),
    SamplingSpec(temperature=0.8, top_k=30, top_p=0.9, max_new_tokens=20, stop=("q", "xy")),
    SamplingSpec(max_new_tokens=40, budget=ThinkingBudget(tokens=9, insert="</think>42")),
]


def requests():
    return [
        SampleRequest(np.asarray(prompt, dtype=np.int32), tuple(range(1000 * i, 1000 * i + 4)))
        for i, prompt in enumerate(PROMPTS)
    ]


def assert_equal_bytes(rows, others):
    for one, other in zip(chain(*rows), chain(*others), strict=True):
        for name in ("token_ids", "logprobs"):
            assert getattr(one, name).tobytes() == getattr(other, name).tobytes()
        assert (one.finish_reason, one.version) == (other.finish_reason, other.version)


@pytest.fixture(scope="module")
def policy():
    return tiny_policy(hidden_size=128)


@pytest.fixture(scope="module")
def expected(policy):
    opened = VLLMSampler(kv_cache_gib=0.05).open(policy)
    rows = [opened.sample(requests(), spec) for spec in SPECS]
    opened.close()
    return rows


@pytest.fixture(scope="module")
def sampler(policy):
    opened = VLLMServerSampler(kv_cache_gib=0.05, start_seconds=300).open(policy)
    yield opened
    opened.close()


def server_process(sampler) -> psutil.Process:
    return psutil.Process(sampler._servers[0].ended.__self__.pid)


def test_samples_are_those_of_the_engine_in_this_process(sampler, expected):
    for spec, rows in zip(SPECS, expected, strict=True):
        assert_equal_bytes(sampler.sample(requests(), spec), rows)


def test_weights_go_over_either_way(policy, sampler, monkeypatch):
    own = {name: parameter.detach().clone() for name, parameter in policy.module.named_parameters()}
    checksum = sampler.sync(3)
    with torch.no_grad():
        for parameter in policy.module.parameters():
            parameter += 0.01
    shared = sampler.sync(4)
    monkeypatch.setattr("thinkrl.sampling.vllm_transport._PART_BYTES", 100_000)
    monkeypatch.setattr(sampler, "_config", dataclasses.replace(sampler._config, transport="http"))
    assert sampler.sync(5) == shared == weights_checksum(policy.named_weights()) != checksum
    with torch.no_grad():
        for name, parameter in policy.module.named_parameters():
            parameter.copy_(own[name])
    assert sampler.sync(6) == checksum
    assert sampler.version == 6


def test_nothing_listens_where_others_could_reach_it(sampler):
    process = server_process(sampler)
    listening = [c for p in (process, *process.children(recursive=True)) for c in p.net_connections("inet")]
    assert not [c for c in listening if c.status == psutil.CONN_LISTEN and c.laddr.ip not in ("127.0.0.1", "::1")]
    folder = sampler._servers[0].socket.parent
    assert folder.stat().st_mode & 0o077 == 0


def test_a_late_answer_is_named(sampler, monkeypatch):
    monkeypatch.setattr(sampler, "_config", dataclasses.replace(sampler._config, sample_seconds=0.001))
    with pytest.raises(EngineLost, match=r"waited 0\.001 s for 16 responses from vLLM server 1 of 1"):
        sampler.sample(requests(), SPECS[0])


def test_a_refused_request_is_named(sampler, monkeypatch):
    monkeypatch.setattr("thinkrl.sampling.vllm_client._GRACE_SECONDS", 0.3)
    monkeypatch.setattr(sampler, "_models", ["another"])
    with pytest.raises(EngineLost, match=r"answered /v1/completions with 404.* while 16 responses were awaited"):
        sampler.sample(requests(), SPECS[0])


def test_a_killed_engine_is_noticed_and_named_and_nothing_is_left(policy, sampler):
    """The last test of this server."""
    process = server_process(sampler)
    family = [process, *process.children(recursive=True)]
    engine = next(p for p in family if "EngineCore" in " ".join(p.cmdline()))
    engine.kill()
    begun = time.monotonic()
    with pytest.raises(EngineLost, match=r"(?s)vLLM server 1 of 1 .* while 16 responses were awaited"):
        sampler.sample(requests(), SPECS[0])
    assert time.monotonic() - begun < 30
    sampler.close()
    assert not [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def test_a_server_that_cannot_start_says_why(policy, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(EngineLost, match=r"vLLM server 1 of 1 did not start: process \d+ ended with exit code 1"):
        VLLMServerSampler().open(policy)


def test_a_server_that_is_not_there_is_named():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(EngineLost, match=r"waited 0\.3 s for the start of there"):
        wait_until_ready([Server("there", url)], 0.3)


@pytest.mark.slow
def test_a_server_that_runs_already_samples_the_same(policy, expected, tmp_path):
    """Started by hand as docs/sampling.md says, with weights of its own that the run replaces."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with engine_folder(policy) as folder, (tmp_path / "log").open("wb") as log:
        command = [sys.executable, "-m", "thinkrl.sampling.vllm_serve", f"--model={folder}", "--load-format=dummy"]
        command += ["--dtype=float32", "--enforce-eager", "--kv-cache-memory-bytes=50000000", f"--port={port}"]
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            source = VLLMServerSampler(urls=(f"http://127.0.0.1:{port}",), start_seconds=200)
            opened = source.open(policy)
            for spec, rows in zip(SPECS, expected, strict=True):
                assert_equal_bytes(opened.sample(requests(), spec), rows)
            opened.close()
            assert process.poll() is None, "a server of somebody else's goes on"
            with pytest.raises(UserError, match="dtype 'float32', not 'bfloat16'"):
                source.open(tiny_policy(hidden_size=128, dtype=torch.bfloat16))
        finally:
            process.terminate()
            process.wait(30)
