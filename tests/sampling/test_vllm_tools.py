"""Turns with tools on a real vLLM engine: token in, token out, and log-probabilities that are the policy's own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from architectures import tiny_policy
from vllm_here import require_vllm

from thinkrl.environments.tool_use import ToolUse
from thinkrl.environments.tools import ToolReply
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.rollouts.store import Origin, Rollouts
from thinkrl.rollouts.tool_calls import ToolSyntax, turn_spans
from thinkrl.sampling.distribution import processed_logprobs
from thinkrl.sampling.sampler import Sample, SampleRequest, SamplingSpec
from thinkrl.sampling.vllm_sampler import VLLMSampler

require_vllm()

SPEC = SamplingSpec(temperature=0.9, top_k=50, max_new_tokens=150)
PROMPTS = [Prompt(name, (Message("user", f"{name * 20}?"),), "1") for name in ("a", "b", "c")]
SHORT = ToolSyntax(call_start="<", call_end="e", response_start="[", response_end="]")


@dataclass(frozen=True)
class Silent:
    """Never asked: the calls of a random model are not well formed, and it reads so."""

    def fault(self, arguments: Mapping[str, Any]) -> str:
        return ""

    def answer_all(self, calls: Sequence[Mapping[str, Any]]) -> list[ToolReply]:
        return [ToolReply("") for _ in calls]


ENVIRONMENT = ToolUse(tools={"none": Silent()}, syntax=SHORT, max_turns=4, max_tool_tokens=12, max_turn_tokens=60)


@dataclass
class Noting:
    """A sampler that notes what it is asked and what it gives."""

    inner: Any
    asked: list[tuple[SampleRequest, list[Sample]]] = field(default_factory=list)

    @property
    def version(self) -> int:
        return int(self.inner.version)

    def sample(self, requests: Sequence[SampleRequest], spec: SamplingSpec) -> list[list[Sample]]:
        rows: list[list[Sample]] = self.inner.sample(requests, spec)
        self.asked += zip(requests, rows, strict=True)
        return rows


@pytest.fixture(scope="module")
def policy() -> Any:
    """Heads of 32, which is what vLLM's attention takes on a processor; room for prompt, turns and replies."""
    return tiny_policy(hidden_size=128, max_position_embeddings=512)


@pytest.fixture(scope="module")
def sampler(policy: Any) -> Any:
    opened = VLLMSampler(kv_cache_gib=0.05, batch_size=16).open(policy)
    yield opened
    opened.close()


def roll(policy: Any, sampler: Any, prompts: Sequence[Prompt] = PROMPTS, size: int = 4) -> Rollouts:
    return ENVIRONMENT.rollout(policy, sampler, prompts, size, SPEC, seed=5, stage="grpo", step=3)


def test_turns_end_at_different_places_and_every_token_is_as_it_was_sampled(policy: Any, sampler: Any) -> None:
    noting = Noting(sampler)
    rollouts = roll(policy, noting)
    turns = [len(turn_spans(response)) for response in rollouts]
    assert len(set(turns)) > 1
    sampled = {
        (*request.prompt_ids.tolist(), *sample.token_ids.tolist()): sample
        for request, row in noting.asked
        for sample in row
    }
    assert len(noting.asked) > len(PROMPTS)
    for response, group in zip(rollouts, rollouts.group_index, strict=True):
        prompt = rollouts.groups[group].prompt_ids.tolist()
        for first, last in turn_spans(response):
            turn = sampled[(*prompt, *response.token_ids[:last].tolist())]
            assert turn.token_ids.tolist() == response.token_ids[first:last].tolist()
            assert turn.logprobs.tolist() == response.logprobs[first:last].tolist()


def test_log_probabilities_of_every_turn_are_those_of_one_forward_pass(policy: Any, sampler: Any) -> None:
    """Later turns begin in the prefix cache of earlier ones; what it holds must be what the policy computes."""
    rollouts = roll(policy, sampler)
    later = 0
    for response, group in zip(rollouts, rollouts.group_index, strict=True):
        prompt = rollouts.groups[group].prompt_ids
        ids = torch.from_numpy(np.concatenate([prompt, response.token_ids]).astype(np.int64))
        with torch.no_grad():
            logits = policy.module(input_ids=ids[None], use_cache=False).logits[0, len(prompt) - 1 : -1]
        scored = processed_logprobs(logits, SPEC).gather(-1, ids[len(prompt) :, None])[:, 0].numpy()
        drawn = response.origins == Origin.SAMPLED
        assert np.abs(scored[drawn] - response.logprobs[drawn]).max() < 1e-4
        assert np.isnan(response.logprobs[~drawn]).all()
        later += len(turn_spans(response)) > 1
    assert later > 0


def test_a_response_is_the_same_whatever_stands_beside_it(policy: Any, sampler: Any) -> None:
    together, alone = roll(policy, sampler), roll(policy, sampler, PROMPTS[1:2], 2)
    for row, response in enumerate(alone):
        other = together.response(4 + row)
        for name in ("token_ids", "origins", "logprobs"):
            assert getattr(response, name).tobytes() == getattr(other, name).tobytes()
        assert response.calls == other.calls
