"""vLLM in this process, for real: what it holds, what it samples, and that its numbers are the policy's."""

import dataclasses
from itertools import chain

import numpy as np
import pytest
import torch
from architectures import FAMILIES, tiny_policy
from transformers import GenerationConfig
from vllm_here import require_vllm

from thinkrl.config.component import UserError
from thinkrl.rollouts.store import FinishReason
from thinkrl.sampling import vllm_worker
from thinkrl.sampling.checksum import weights_checksum
from thinkrl.sampling.distribution import processed_logprobs
from thinkrl.sampling.sampler import Sample, SampleRequest, SamplingSpec, ThinkingBudget
from thinkrl.sampling.vllm_sampler import VLLMSampler

require_vllm()

PROMPTS = [[5, 9, 200], [7] * 70, [44], [3, 100, 101, 102, 2, 103]]  # the last one has the end token (2) inside
ENGINE = VLLMSampler(kv_cache_gib=0.05, batch_size=16)


def policy_of(family="llama-tied", dtype=torch.float32):
    """Heads of 32 at least, which is what vLLM's attention takes on a processor."""
    return tiny_policy(family, dtype=dtype, hidden_size=128, **({"head_dim": 32} if family == "qwen3" else {}))


def request(prompt, *keys):
    return SampleRequest(np.asarray(prompt, dtype=np.int32), keys)


def requests(samples=3):
    return [request(prompt, *(1000 * i + j for j in range(samples))) for i, prompt in enumerate(PROMPTS)]


def scored(policy, prompt, sample: Sample, spec):
    ids = torch.tensor([list(prompt) + sample.token_ids.tolist()])
    with torch.no_grad():
        logits = policy.module(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
    logprobs = processed_logprobs(logits, spec)
    return logprobs.gather(-1, torch.from_numpy(sample.token_ids).long()[:, None])[:, 0].numpy()


def worst(policy, rows, spec):
    return max(
        float(np.abs(scored(policy, prompt, sample, spec) - sample.logprobs).max())
        for prompt, row in zip(PROMPTS, rows, strict=True)
        for sample in row
    )


@pytest.fixture(scope="module")
def policy():
    return policy_of()


@pytest.fixture(scope="module")
def sampler(policy):
    opened = ENGINE.open(policy)
    yield opened
    opened.close()


SPECS = [
    *(SamplingSpec(temperature=t, max_new_tokens=24) for t in (0.6, 1.0, 1.3)),
    SamplingSpec(top_k=20, max_new_tokens=24),
    SamplingSpec(temperature=0.8, top_p=0.9, max_new_tokens=24),
    SamplingSpec(temperature=1.3, top_k=50, top_p=0.95, max_new_tokens=24),
    SamplingSpec(temperature=1.3, top_k=50, min_p=0.02, max_new_tokens=24),
]


@pytest.mark.parametrize("spec", SPECS)
def test_logprobs_are_those_of_one_full_forward_pass_under_the_specification(policy, sampler, spec):
    rows = sampler.sample(requests(), spec)
    assert [len(row) for row in rows] == [3, 3, 3, 3]
    assert worst(policy, rows, spec) < 1e-4


def test_greedy_equals_the_modules_own_greedy_generation(policy, sampler):
    rows = sampler.sample([request(prompt, 1) for prompt in PROMPTS], SamplingSpec(temperature=0.0, max_new_tokens=30))
    for prompt, (sample,) in zip(PROMPTS, rows, strict=True):
        expected = policy.module.generate(
            torch.tensor([prompt]),
            generation_config=GenerationConfig(max_new_tokens=30, eos_token_id=2, pad_token_id=0, do_sample=False),
        )[0, len(prompt) :]
        assert sample.token_ids.tolist() == expected.tolist()
        assert not sample.logprobs.any()


HOT = SamplingSpec(temperature=1.2, max_new_tokens=40)


def test_a_sample_does_not_depend_on_its_batch(sampler):
    """Tokens and log-probabilities to the bit: what makes a resumed run equal an uninterrupted one."""
    together = sampler.sample(requests(), HOT)
    alone = [[sampler.sample([request(p, key)], HOT)[0][0] for key in r.stream_keys]
             for p, r in zip(PROMPTS, requests(), strict=True)]  # fmt: skip
    again = sampler.sample(list(reversed(requests())), HOT)[::-1]
    for one, other, third in zip(chain(*together), chain(*alone), chain(*again), strict=True):
        for name in ("token_ids", "logprobs"):
            assert getattr(one, name).tobytes() == getattr(other, name).tobytes() == getattr(third, name).tobytes()
    assert {len(s.token_ids) for s in chain(*alone)} != {40}, "some samples must end early for this to say much"


def test_other_keys_are_other_samples(sampler):
    first, second, again = sampler.sample([request(PROMPTS[0], 1, 2, 1)], SamplingSpec(max_new_tokens=20))[0]
    assert first.token_ids.tolist() == again.token_ids.tolist() != second.token_ids.tolist()
    assert np.isnan(first.entropies).all()


def test_stop_ids_are_the_policys_and_nothing_else_ends_a_sample(policy, sampler, monkeypatch):
    monkeypatch.setattr(policy, "stop_ids", frozenset())
    spec = SamplingSpec(temperature=2.0, max_new_tokens=180)
    (free,) = sampler.sample([request(PROMPTS[0], 11)], spec)[0]
    assert (len(free.token_ids), free.finish_reason) == (180, FinishReason.LENGTH)
    ids = free.token_ids.tolist()
    monkeypatch.setattr(policy, "stop_ids", frozenset({ids[20], 259}))
    (stopped,) = sampler.sample([request(PROMPTS[0], 11)], spec)[0]
    assert stopped.token_ids.tolist() == ids[: min(ids.index(t) for t in {ids[20], 259} & set(ids)) + 1]
    assert stopped.finish_reason is FinishReason.STOP


def test_a_stop_string_ends_a_sample_where_it_is_complete(policy, sampler, monkeypatch):
    monkeypatch.setattr(policy, "stop_ids", frozenset())
    spec = SamplingSpec(temperature=2.0, max_new_tokens=80)
    free = sampler.sample([request(PROMPTS[0], 5)], spec)[0][0].token_ids.tolist()
    decode = policy.tokenizer.decode
    text = decode(free[10:13])
    stopped = sampler.sample([request(PROMPTS[0], 5)], dataclasses.replace(spec, stop=("nowhere", text)))[0][0]
    ends = next(n for n in range(1, 81) if text in decode(free[:n]))
    assert stopped.token_ids.tolist() == free[:ends]
    assert stopped.finish_reason is FinishReason.STOP


def test_thinking_is_cut_and_what_follows_is_conditioned_on_the_insert(policy, sampler, monkeypatch):
    monkeypatch.setattr(policy, "stop_ids", frozenset())
    budget = ThinkingBudget(tokens=9, insert="</think>42", end="</think>")
    spec = SamplingSpec(max_new_tokens=40, budget=budget)
    for prompt, row in zip(PROMPTS, sampler.sample(requests(2), spec), strict=True):
        for sample in row:
            given = ~sample.sampled
            assert policy.tokenizer.decode(sample.token_ids[given]) == budget.insert
            assert np.flatnonzero(given).tolist() == list(range(9, 9 + len(budget.insert)))
            expected = scored(policy, prompt, sample, spec)
            np.testing.assert_allclose(sample.logprobs[sample.sampled], expected[sample.sampled], atol=1e-4)
            assert len(sample.token_ids) == 40


def test_sync_takes_over_new_weights_and_says_so(policy, sampler):
    spec = SamplingSpec(max_new_tokens=10)
    before, checksum = sampler.sample(requests(), spec), sampler.sync(0)
    assert checksum == weights_checksum(policy.named_weights())
    original = {name: p.detach().clone() for name, p in policy.module.named_parameters()}
    with torch.no_grad():
        for parameter in policy.module.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    changed = sampler.sync(17)
    assert changed == weights_checksum(policy.named_weights()) != checksum
    after = sampler.sample(requests(), spec)
    # The prompt of 70 tokens had whole blocks in the prefix cache.
    assert worst(policy, after, spec) < 1e-4
    assert {sample.version for sample in chain(*after)} == {sampler.version} == {17}
    assert any(not np.array_equal(a[0].token_ids, b[0].token_ids) for a, b in zip(before, after, strict=True))
    with torch.no_grad():
        for name, parameter in policy.module.named_parameters():
            parameter.copy_(original[name])
    assert sampler.sync(18) == checksum
    for one, other in zip(chain(*sampler.sample(requests(), spec)), chain(*before), strict=True):
        assert one.logprobs.tobytes() == other.logprobs.tobytes()


def test_weights_that_are_not_the_modules_own_are_taken_from_their_stream(policy, sampler, monkeypatch):
    stream = [(name, parameter.detach() * 0.9) for name, parameter in policy.module.named_parameters()]
    own = {name: parameter.detach().clone() for name, parameter in policy.module.named_parameters()}
    monkeypatch.setattr(policy, "weight_stream", lambda: iter(stream))
    assert sampler.sync(1) == weights_checksum(iter(stream))
    monkeypatch.setattr(policy, "weight_stream", None)
    with torch.no_grad():
        for name, parameter in policy.module.named_parameters():
            parameter.copy_(own[name])
    sampler.sync(2)


def test_an_engine_that_does_not_hold_what_was_sent_ends_the_run(policy, sampler, monkeypatch):
    torn = [list(policy.module.named_parameters())] * 2
    torn[1] = [(name, p.detach() + (1e-3 if name.endswith("1.mlp.up_proj.weight") else 0)) for name, p in torn[0]]
    passes = iter(torn)
    monkeypatch.setattr(policy, "weight_stream", lambda: iter(next(passes)))
    with pytest.raises(RuntimeError, match=r"holds weights of version 5 .* was sent"):
        sampler.sync(5)
    monkeypatch.undo()
    with torch.no_grad():
        policy.module.model.embed_tokens.weight += 0.01
    monkeypatch.setattr(vllm_worker, "repack", lambda model: None)
    with pytest.raises(RuntimeError, match="lm_head computes with other weights than it shows"):
        sampler.sync(6)
    monkeypatch.undo()
    with torch.no_grad():
        policy.module.model.embed_tokens.weight -= 0.01
    sampler.sync(7)


def test_an_engine_that_computes_something_else_ends_the_run(policy, sampler, monkeypatch):
    forward = policy.module.forward

    def hotter(*args, **kwargs):
        output = forward(*args, **kwargs)
        output.logits = output.logits / 1.1
        return output

    monkeypatch.setattr(policy.module, "forward", hotter)
    with pytest.raises(RuntimeError, match="nats a token, more than largest_difference"):
        sampler.sync(8)
    monkeypatch.undo()
    sampler.sync(9)


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "llama-tied"])
def test_every_family_is_read_back_and_agrees(family):
    policy = policy_of(family)
    opened = ENGINE.open(policy)
    try:
        assert opened.sync(1) == weights_checksum(policy.named_weights())
        assert worst(policy, opened.sample(requests(2), HOT), HOT) < 1e-4
    finally:
        opened.close()


def test_bfloat16_is_read_back_and_does_not_depend_on_its_batch():
    policy = policy_of("qwen2", torch.bfloat16)
    opened = ENGINE.open(policy)
    try:
        assert opened.sync(1) == weights_checksum(policy.named_weights())
        together = list(chain(*opened.sample(requests(), HOT)))
        alone = [opened.sample([request(r.prompt_ids, k)], HOT)[0][0] for r in requests() for k in r.stream_keys]
        for one, other in zip(together, alone, strict=True):
            assert one.token_ids.tolist() == other.token_ids.tolist()
    finally:
        opened.close()
        opened.close()


def test_the_process_is_left_as_it_was(policy):
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    opened = ENGINE.open(policy)
    opened.close()
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.distributed.is_initialized()
    torch.set_num_threads(threads)


def test_sleep_is_refused_where_memory_cannot_be_handed_back(policy):
    with pytest.raises(UserError, match="sleep must be false on cpu"):
        VLLMSampler(sleep=True).open(policy)
