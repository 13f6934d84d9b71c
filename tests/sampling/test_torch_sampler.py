"""The sampler's contract: streams, log-probabilities, stops, versions, and weights it really holds."""

from itertools import chain

import numpy as np
import pytest
import torch
from architectures import tiny_policy
from transformers import GenerationConfig

from thinkrl.rollouts.store import FinishReason
from thinkrl.sampling.distribution import processed_logprobs
from thinkrl.sampling.sampler import Sample, SampleRequest, SamplingSpec
from thinkrl.sampling.stops import StopRule
from thinkrl.sampling.torch_sampler import TorchSampler

PROMPTS = [[5, 9, 200], [7] * 40, [44], [3, 100, 101, 102, 2, 103]]  # the last one has the end token (2) inside


def request(prompt: list[int], *keys: int) -> SampleRequest:
    return SampleRequest(np.asarray(prompt, dtype=np.int32), keys)


def requests(samples: int = 3) -> list[SampleRequest]:
    return [request(prompt, *(1000 * i + j for j in range(samples))) for i, prompt in enumerate(PROMPTS)]


def assert_same(one: Sample, other: Sample) -> None:
    np.testing.assert_array_equal(one.token_ids, other.token_ids)
    np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-5)
    assert one.finish_reason == other.finish_reason


@pytest.fixture(scope="module")
def policy():
    return tiny_policy()


HOT = SamplingSpec(temperature=1.2, max_new_tokens=40)


@pytest.fixture(scope="module")
def alone(policy):
    """Each sample drawn with nothing beside it."""
    sampler = TorchSampler(batch_size=1).open(policy)
    return [
        [sampler.sample([request(r.prompt_ids.tolist(), key)], HOT)[0][0] for key in r.stream_keys] for r in requests()
    ]


@pytest.mark.parametrize("batch_size", [2, 5, 64])
@pytest.mark.parametrize("plain_forward", [False, True])
def test_a_sample_does_not_depend_on_its_batch(policy, alone, batch_size, plain_forward):
    together = TorchSampler(batch_size=batch_size, plain_forward=plain_forward).open(policy).sample(requests(), HOT)
    assert [len(row) for row in together] == [3, 3, 3, 3]
    for one, other in zip(chain(*together), chain(*alone), strict=True):
        assert_same(one, other)
    assert {len(s.token_ids) for s in chain(*alone)} != {40}, "some samples must end early for this to say much"


def test_another_key_is_another_sample_and_the_same_key_the_same(policy):
    sampler = TorchSampler().open(policy)
    first, second, again = sampler.sample([request(PROMPTS[0], 1, 2, 1)], SamplingSpec(max_new_tokens=20))[0]
    assert_same(first, again)
    assert first.token_ids.tolist() != second.token_ids.tolist()


def test_repeated_calls_give_equal_bytes(policy):
    sampler = TorchSampler(batch_size=5).open(policy)
    runs = [sampler.sample(requests(), SamplingSpec(max_new_tokens=30)) for _ in range(2)]
    for one, other in zip(*(chain(*run) for run in runs), strict=True):
        for name in ("token_ids", "logprobs", "entropies"):
            assert getattr(one, name).tobytes() == getattr(other, name).tobytes()


@pytest.mark.parametrize(
    "spec",
    [
        *(SamplingSpec(temperature=t, max_new_tokens=24) for t in (0.6, 1.0, 1.3)),
        SamplingSpec(top_k=20, max_new_tokens=24),
        SamplingSpec(temperature=0.8, top_p=0.9, max_new_tokens=24),
        SamplingSpec(temperature=1.3, top_k=50, top_p=0.95, min_p=0.02, max_new_tokens=24),
    ],
)
@pytest.mark.parametrize("family", ["llama-tied", "qwen3"])
def test_logprobs_and_entropies_are_those_of_one_full_forward_pass(family, spec):
    policy = tiny_policy(family)
    for prompt, row in zip(PROMPTS, TorchSampler(batch_size=5).open(policy).sample(requests(), spec), strict=True):
        for sample in row:
            ids = torch.tensor([prompt + sample.token_ids.tolist()])
            with torch.no_grad():
                logits = policy.module(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
            logprobs = processed_logprobs(logits, spec)
            chosen = logprobs.gather(-1, torch.from_numpy(sample.token_ids).long()[:, None])[:, 0]
            np.testing.assert_allclose(sample.logprobs, chosen.numpy(), atol=1e-4)
            entropies = -torch.nan_to_num(logprobs.exp() * logprobs, nan=0.0).sum(-1)
            np.testing.assert_allclose(sample.entropies, entropies.numpy(), atol=2e-4)


@pytest.mark.parametrize("family", ["llama-tied", "qwen2"])
def test_greedy_equals_the_modules_own_greedy_generation(family):
    policy = tiny_policy(family)
    spec = SamplingSpec(temperature=0.0, max_new_tokens=30)
    sampled = TorchSampler().open(policy).sample([request(prompt, 1) for prompt in PROMPTS], spec)
    for prompt, (sample,) in zip(PROMPTS, sampled, strict=True):
        expected = policy.module.generate(
            torch.tensor([prompt]),
            generation_config=GenerationConfig(max_new_tokens=30, eos_token_id=2, pad_token_id=0, do_sample=False),
        )[0, len(prompt) :]
        assert sample.token_ids.tolist() == expected.tolist()
        assert not sample.logprobs.any()
        assert not sample.entropies.any()


def greedy(policy, prompt: list[int], limit: int, *stop: str) -> Sample:
    spec = SamplingSpec(temperature=0.0, max_new_tokens=limit, stop=stop)
    return TorchSampler().open(policy).sample([request(prompt, 0)], spec)[0][0]


def test_a_sample_is_cut_at_the_limit():
    policy = tiny_policy()
    policy.stop_ids = frozenset()
    sample = greedy(policy, PROMPTS[0], 7)
    assert (len(sample.token_ids), sample.finish_reason) == (7, FinishReason.LENGTH)
    assert len(greedy(policy, PROMPTS[0], 1).token_ids) == 1


def test_every_stop_id_ends_a_sample_and_is_its_last_token():
    policy = tiny_policy()
    policy.stop_ids = frozenset()
    free = greedy(policy, PROMPTS[0], 12).token_ids.tolist()
    for position in (0, 3, 11):
        policy.stop_ids = frozenset({free[position], 259})
        first = free.index(free[position])
        sample = greedy(policy, PROMPTS[0], 12)
        assert sample.token_ids.tolist() == free[: first + 1]
        assert sample.finish_reason is FinishReason.STOP


def test_stop_ids_inside_the_prompt_do_not_count():
    policy = tiny_policy()
    policy.stop_ids = frozenset({2, 3})
    policy_free = tiny_policy()
    policy_free.stop_ids = frozenset()
    ids = greedy(policy, PROMPTS[3], 6).token_ids.tolist()
    assert ids == greedy(policy_free, PROMPTS[3], 6).token_ids.tolist()[: len(ids)]


def test_a_stop_string_ends_a_sample_where_it_is_complete():
    policy = tiny_policy()
    policy.stop_ids = frozenset()
    sampler = TorchSampler().open(policy)
    spec = SamplingSpec(max_new_tokens=80, temperature=2.0)
    free = sampler.sample([request(PROMPTS[0], 5)], spec)[0][0].token_ids.tolist()
    decode = policy.tokenizer.decode
    text = decode(free[10:13])
    assert len(text) == 3
    stopped = sampler.sample(
        [request(PROMPTS[0], 5)], SamplingSpec(max_new_tokens=80, temperature=2.0, stop=("nowhere", text))
    )[0][0]
    ends = next(n for n in range(1, 81) if text in decode(free[:n]))
    assert stopped.token_ids.tolist() == free[:ends]
    assert stopped.finish_reason is FinishReason.STOP


def test_a_stop_string_of_several_bytes_per_character_is_found(policy):
    ids = policy.tokenizer.encode("a" * 40 + "数é", add_special_tokens=False)
    rule = StopRule(policy.tokenizer, frozenset(), SamplingSpec(stop=("数é",), max_new_tokens=200))
    ends = [rule.finished(ids[:n]) for n in range(1, len(ids) + 1)]
    assert ends == [None] * (len(ids) - 1) + [FinishReason.STOP]


def test_versions_are_those_of_the_last_sync():
    policy = tiny_policy()
    sampler = TorchSampler().open(policy)
    assert {s.version for row in sampler.sample(requests(), SamplingSpec(max_new_tokens=3)) for s in row} == {0}
    sampler.sync(17)
    assert sampler.version == 17
    assert {s.version for row in sampler.sample(requests(), SamplingSpec(max_new_tokens=3)) for s in row} == {17}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sync_takes_over_new_weights_and_says_so(dtype):
    policy, spec = tiny_policy(dtype=dtype), SamplingSpec(max_new_tokens=10)
    sampler = TorchSampler().open(policy)
    before, checksum = sampler.sample(requests(), spec), sampler.sync(0)
    assert sampler.sync(0) == checksum
    for parameter in policy.module.parameters():
        parameter.data += 0.1
    changed = sampler.sync(1)
    assert changed != checksum
    after = sampler.sample(requests(), spec)
    fresh = TorchSampler().open(policy).sample(requests(), spec)
    assert any(not np.array_equal(a[0].token_ids, b[0].token_ids) for a, b in zip(before, after, strict=True))
    for one, other in zip(chain(*after), chain(*fresh), strict=True):
        assert one.logprobs.tobytes() == other.logprobs.tobytes()


def test_one_changed_value_changes_the_checksum():
    policy = tiny_policy(dtype=torch.bfloat16)
    sampler = TorchSampler().open(policy)
    checksum = sampler.sync(0)
    weight = policy.module.model.layers[1].mlp.up_proj.weight.data
    old = weight[20, 21].item()
    weight[20, 21] = -old
    assert sampler.sync(1) != checksum
    weight[20, 21] = old
    assert sampler.sync(2) == checksum


def test_sampling_from_weights_that_moved_without_a_sync_is_refused():
    policy = tiny_policy()
    sampler = TorchSampler().open(policy)
    for parameter in policy.module.parameters():
        parameter.data += 1e-3
    with pytest.raises(RuntimeError, match="call sync first"):
        sampler.sample(requests(), SamplingSpec(max_new_tokens=2))


def test_training_mode_and_gradients_are_left_as_they_were():
    policy = tiny_policy()
    policy.module.train()
    sampler = TorchSampler(plain_forward=True).open(policy)
    samples = sampler.sample(requests(), SamplingSpec(max_new_tokens=3))
    assert policy.module.training
    policy.module(torch.tensor([[1, 2]])).logits.sum().backward()
    assert policy.module.lm_head.weight.grad is not None
    assert len(samples) == 4


def test_each_prompt_is_read_once_for_its_group(policy, monkeypatch):
    sampler = TorchSampler(batch_size=3).open(policy)
    read = []
    prefill = sampler._decoder.prefill
    monkeypatch.setattr(sampler._decoder, "prefill", lambda prompts: read.extend(map(len, prompts)) or prefill(prompts))
    sampler.sample(requests(samples=7), SamplingSpec(max_new_tokens=4))
    assert read == [len(prompt) for prompt in PROMPTS]


def test_nothing_asked_gives_nothing(policy):
    sampler = TorchSampler().open(policy)
    assert sampler.sample([], SamplingSpec()) == []
    empty, one = sampler.sample([request([4]), request([4], 1)], SamplingSpec(max_new_tokens=2))
    assert (empty, len(one)) == ([], 1)


@pytest.mark.parametrize(
    ("prompt", "message"), [([], "at least one token"), ([5] * 250, "do not fit the model's 256 positions")]
)
def test_prompts_that_cannot_be_sampled_are_refused(policy, prompt, message):
    with pytest.raises(ValueError, match=message):
        TorchSampler().open(policy).sample([request(prompt, 1)], SamplingSpec(max_new_tokens=10))


def test_impossible_settings_name_the_field(policy):
    with pytest.raises(ValueError, match=r"^batch_size must"):
        TorchSampler(batch_size=0)
    with pytest.raises(ValueError, match=r"^stop must"):
        TorchSampler().open(policy).sample([request([4], 1)], SamplingSpec(stop=("",), max_new_tokens=2))
