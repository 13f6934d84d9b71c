import logging
from typing import Any

import numpy as np
import pytest
import torch

from thinkrl.data.length import OverlongPolicy
from thinkrl.data.source import DataError
from thinkrl.environments.single_turn import SingleTurn
from thinkrl.models.tiny import TinyModel
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.rollouts.store import FinishReason, Origin, Rollouts
from thinkrl.rollouts.streams import stream_key
from thinkrl.sampling.sampler import SamplingSpec
from thinkrl.sampling.torch_sampler import TorchSampler

PROMPTS = [Prompt(name, (Message("user", f"{name}?"),), "1") for name in ("a", "b", "c")]
SPEC = SamplingSpec(max_new_tokens=12)


def roll(policy: Any, sampler: Any, prompts: list[Prompt] = PROMPTS, size: int = 2, **fields: Any) -> Rollouts:
    environment = SingleTurn(**fields)
    return environment.rollout(policy, sampler, prompts, size, SPEC, seed=5, stage="grpo", step=3)


def encode(policy: Any, text: str) -> list[int]:
    return list(policy.tokenizer(text, add_special_tokens=False)["input_ids"])


def test_ids_groups_and_stream_keys(policy: Any, scripted: Any) -> None:
    sampler = scripted([encode(policy, "1<|im_end|>")])
    rollouts = roll(policy, sampler)
    assert [group.group_id for group in rollouts.groups] == ["3/a", "3/b", "3/c"]
    assert rollouts.response_ids == ("3/a/0", "3/a/1", "3/b/0", "3/b/1", "3/c/0", "3/c/1")
    assert sampler.asked[1].stream_keys == tuple(stream_key("sample", 5, "grpo", 3, "b", i) for i in range(2))
    keys = [key for request in sampler.asked for key in request.stream_keys]
    assert len(set(keys)) == 6
    for group, request in zip(rollouts.groups, sampler.asked, strict=True):
        assert np.array_equal(group.prompt_ids, request.prompt_ids)
        assert policy.tokenizer.decode(group.prompt_ids).endswith("<|im_start|>assistant\n")


def test_the_stop_token_is_kept_among_ids_and_left_out_of_text(policy: Any, scripted: Any) -> None:
    script = encode(policy, "4é7<|im_end|>")
    response = roll(policy, scripted([script])).response(0)
    assert response.text == "4é7"
    assert response.token_ids.tolist() == script
    assert response.char_ends.tolist() == [1, 1, 2, 3, 3]
    assert response.origins.tolist() == [Origin.SAMPLED] * 5
    assert response.logprobs.tolist() == [-1, -2, -3, -4, -5]
    assert response.entropies.tolist() == [1, 2, 3, 4, 5]
    assert response.versions.tolist() == [7] * 5


def test_a_cut_response_keeps_every_token_in_its_text(policy: Any, scripted: Any) -> None:
    response = roll(policy, scripted([encode(policy, "47")], FinishReason.LENGTH)).response(0)
    assert (response.text, response.finish_reason) == ("47", FinishReason.LENGTH)
    assert response.char_ends.tolist() == [1, 2]


def test_a_stop_at_once_and_a_stop_by_text(policy: Any, scripted: Any) -> None:
    stop = policy.tokenizer.eos_token_id
    rollouts = roll(policy, scripted([[stop], encode(policy, "1</answer>")]))
    assert rollouts.texts[:2] == ("", "1</answer>")
    assert rollouts.char_ends[0].tolist() == [0]


def test_any_of_several_stop_tokens_is_left_out_and_only_at_the_end(policy: Any, scripted: Any) -> None:
    pad = policy.tokenizer.pad_token_id
    policy.stop_ids = frozenset({policy.tokenizer.eos_token_id, pad})
    inside = [*encode(policy, "1"), pad, *encode(policy, "2")]
    rollouts = roll(policy, scripted([[*inside, pad], [*inside, policy.tokenizer.eos_token_id]]))
    assert rollouts.texts[:2] == ("1<|pad|>2", "1<|pad|>2")


def test_given_text_starts_the_response_and_carries_no_loss(policy: Any, scripted: Any) -> None:
    sampler = scripted([encode(policy, "1</think>2<|im_end|>")])
    rollouts = roll(policy, sampler, response_prefix="<think>\n")
    response, given = rollouts.response(0), encode(policy, "<think>\n")
    assert response.text == "<think>\n1</think>2"
    assert response.token_ids[:2].tolist() == given
    assert response.origins.tolist() == [Origin.GIVEN] * 2 + [Origin.SAMPLED] * 4
    assert np.isnan(response.logprobs[:2]).all()
    assert np.isnan(response.entropies[:2]).all()
    assert not np.isnan(response.logprobs[2:]).any()
    assert response.versions.tolist() == [-1, -1, 7, 7, 7, 7]
    assert sampler.asked[0].prompt_ids.tolist() == [*rollouts.groups[0].prompt_ids.tolist(), *given]
    assert rollouts.sampled_counts.tolist() == [4] * 6


def test_a_templates_own_opening_is_given_too(policy: Any, scripted: Any) -> None:
    template = policy.tokenizer.chat_template
    policy.tokenizer.chat_template = template.replace("assistant\\n", "assistant\\n<think>\\n").replace(
        "assistant\n", "assistant\n<think>\n"
    )
    sampler = scripted([encode(policy, "1</think>2<|im_end|>")])
    rollouts = roll(policy, sampler)
    assert rollouts.texts[0] == "<think>\n1</think>2"
    assert policy.tokenizer.decode(rollouts.groups[0].prompt_ids).endswith("assistant\n")
    assert policy.tokenizer.decode(sampler.asked[0].prompt_ids).endswith("assistant\n<think>\n")


def test_sampled_ids_are_stored_as_sampled(policy: Any, scripted: Any) -> None:
    # These ids decode to text that encodes to one token: decode-encode would change them.
    script = [*(encode(policy, char)[0] for char in "<think>"), policy.tokenizer.eos_token_id]
    response = roll(policy, scripted([script])).response(0)
    assert response.text == "<think>"
    assert encode(policy, response.text) != script[:-1]
    assert response.token_ids.tolist() == script


def test_overlong_prompts_follow_the_policy(policy: Any, scripted: Any, caplog: pytest.LogCaptureFixture) -> None:
    prompts = [PROMPTS[0], Prompt("long", (Message("user", "x" * 50 + "yz"),)), PROMPTS[1]]
    sampler = scripted([encode(policy, "1")])
    limit = 30
    with pytest.raises(DataError, match="1 of 3 prompts are longer than 30 tokens"):
        roll(policy, sampler, prompts, max_prompt_tokens=limit)
    with caplog.at_level(logging.WARNING):
        dropped = roll(policy, sampler, prompts, max_prompt_tokens=limit, overlong=OverlongPolicy.DROP)
    assert [group.prompt.prompt_id for group in dropped.groups] == ["a", "b"]
    assert "1 of 3 prompts" in caplog.text
    cut = roll(policy, sampler, prompts, max_prompt_tokens=limit, overlong=OverlongPolicy.TRUNCATE_LEFT)
    ids = cut.groups[1].prompt_ids
    assert len(ids) == limit
    assert policy.tokenizer.decode(ids).endswith("yz<|im_end|>\n<|im_start|>assistant\n")


def test_a_sampler_that_loses_responses_is_an_error(policy: Any, scripted: Any) -> None:
    sampler = scripted([encode(policy, "1")])
    sampler.sample = lambda requests, spec: [[] for _ in requests]
    with pytest.raises(ValueError, match="gave 0 of 2 responses for 3/a"):
        roll(policy, sampler)


def test_bad_fields_are_refused() -> None:
    with pytest.raises(ValueError, match="max_prompt_tokens must be at least 1, got 0"):
        SingleTurn(max_prompt_tokens=0)


def test_a_real_sampler_gives_each_prompt_the_same_whatever_stands_beside_it() -> None:
    torch.set_num_threads(1)
    policy = TinyModel(hidden=32, intermediate=64, layers=1, heads=2, kv_heads=1).load(seed=0)
    sampler = TorchSampler(batch_size=4).open(policy)
    together = roll(policy, sampler, size=3, response_prefix="<think>")
    alone = roll(policy, sampler, PROMPTS[1:2], size=2, response_prefix="<think>")
    for row, response in enumerate(alone):
        beside = together.response(3 + row)
        assert response.response_id == beside.response_id
        assert np.array_equal(response.token_ids, beside.token_ids)
    assert len({tuple(ids.tolist()) for ids in together.token_ids}) == 9
    for response in together:
        shown = response.token_ids[:-1] if response.finish_reason is FinishReason.STOP else response.token_ids
        assert policy.tokenizer.decode(shown) == response.text
        assert response.char_ends[-1] == len(response.text)
    another_step = SingleTurn().rollout(policy, sampler, PROMPTS[1:2], 2, SPEC, seed=5, stage="grpo", step=4)
    assert not np.array_equal(another_step.token_ids.values, alone.token_ids.values)
