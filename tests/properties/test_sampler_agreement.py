"""What the sampler records is what the learner computes, under every specification."""

import numpy as np
import pytest
from tiny_policy import open_learner, random_advantages, tiny_policy

from thinkrl.algorithms.objective import ClippedObjective
from thinkrl.environments.single_turn import SingleTurn
from thinkrl.learning.torch_learner import TorchLearner
from thinkrl.models.pretrained import PretrainedModel
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.rollouts.store import Group, Origin, Response, Rollouts
from thinkrl.sampling.sampler import SampleRequest, SamplingSpec
from thinkrl.sampling.torch_sampler import TorchSampler

SPECS = [
    SamplingSpec(temperature=0.6, max_new_tokens=12),
    SamplingSpec(temperature=1.0, max_new_tokens=12),
    SamplingSpec(temperature=1.3, max_new_tokens=12),
    SamplingSpec(temperature=0.9, top_k=10, top_p=0.8, min_p=0.02, max_new_tokens=12),
    SamplingSpec(temperature=0.6, top_p=0.9, max_new_tokens=12),
    SamplingSpec(temperature=1.0, min_p=0.05, max_new_tokens=12),
    SamplingSpec(temperature=1.3, top_k=15, max_new_tokens=12),
]


class NoText:
    """A tokenizer whose tokens have no text."""

    def decode(self, *args, **kwargs):
        return ""


def sample(policy, sampler, spec, seed=0):
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(3, 40, n).astype(np.int32) for n in (2, 5, 9)]
    requests = [SampleRequest(p, tuple(range(100 * i, 100 * i + 4))) for i, p in enumerate(prompts)]
    groups = [Group(f"g{i}", Prompt(f"p{i}", ()), p) for i, p in enumerate(prompts)]
    responses = []
    for i, samples in enumerate(sampler.sample(requests, spec)):
        for j, s in enumerate(samples):
            n = len(s.token_ids)
            responses.append(
                Response(
                    f"g{i}r{j}",
                    f"g{i}",
                    "",
                    s.finish_reason,
                    s.token_ids,
                    np.full(n, Origin.SAMPLED, np.uint8),
                    s.logprobs,
                    s.entropies,
                    np.full(n, s.version, np.int32),
                    np.zeros(n, np.int32),
                )
            )
    return Rollouts.from_responses(groups, responses)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_the_mismatch_is_rounding_before_and_after_an_update(spec, family):
    policy = tiny_policy(family)
    policy.tokenizer = NoText()
    sampler, learner = TorchSampler().open(policy), open_learner(policy, learning_rate=0.01)
    for step in range(2):
        rollouts = sample(policy, sampler, spec, seed=step)
        report = learner.update(rollouts, random_advantages(rollouts), ClippedObjective(), spec)
        assert report.metrics["mismatch/max_abs"] < 1e-4
        stale = learner.update(rollouts, random_advantages(rollouts), ClippedObjective(), spec)
        assert stale.metrics["mismatch/max_abs"] > 1e-3  # the weights have moved on, and the metric says so
        sampler.sync(learner.version)


def test_a_pretrained_model_in_float32_agrees_at_every_temperature():
    policy = PretrainedModel("smollm2-135m-instruct", dtype="float32").load(for_training=True)
    sampler, learner = TorchSampler().open(policy), TorchLearner(learning_rate=0.0).open(policy, 1, False)
    prompts = [Prompt(f"p{i}", (Message("user", f"What is {17 * i + 3} + {23 * i + 8}?"),)) for i in range(2)]
    for temperature, truncation in ((0.6, {}), (1.0, {"top_p": 0.9}), (1.3, {"top_k": 50, "min_p": 0.02})):
        spec = SamplingSpec(temperature=temperature, max_new_tokens=12, **truncation)
        rollouts = SingleTurn().rollout(policy, sampler, prompts, 3, spec, seed=0, stage="s", step=1)
        found = learner.logprobs(rollouts, spec).values[rollouts.sampled]
        assert len(found) > 30
        assert np.abs(found - rollouts.logprobs.values[rollouts.sampled]).max() < 1e-4
        assert found.min() < -0.5, "some tokens must be a surprise for this to say much"
