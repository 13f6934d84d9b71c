"""Recomputed layers change memory and nothing else: with adapters and without, for bodies of ours and transformers'."""

import pytest
import torch
from live_memory import LiveMemory
from tiny_policy import gradients, make_rollouts, open_learner, random_advantages, relative_difference, tiny_policy

from thinkrl.algorithms.kl import KLLoss
from thinkrl.algorithms.objective import ClippedObjective
from thinkrl.learning.adapters import Adapter
from thinkrl.sampling.sampler import SamplingSpec

ADAPTERS = {"whole": None, "lora": Adapter(rank=2), "dora": Adapter(rank=2, dora=True)}
BODIES = {"ours": {}, "transformers": {"hidden_act": "gelu"}}
OBJECTIVE = ClippedObjective(kl=KLLoss(0.1))


def update(learner, seed=0, sizes=(3, 4, 1), objective=OBJECTIVE):
    rollouts = make_rollouts(sizes, seed=seed)
    return learner.update(rollouts, random_advantages(rollouts), objective, SamplingSpec(temperature=0.8))


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("share", [True, False])
def test_gradients_are_the_same(body, adapter, share):
    found = []
    for checkpointing in (False, True):
        learner = open_learner(
            tiny_policy(**BODIES[body]), with_reference=True, adapter=ADAPTERS[adapter],
            share_prompts=share, gradient_checkpointing=checkpointing,
        )  # fmt: skip
        update(learner)  # B starts at 0, where A has no gradient
        update(learner, seed=1)
        found.append(gradients(learner))
    assert relative_difference(found[1], found[0]) < 1e-5


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_memory_no_longer_grows_by_whole_layers(body, adapter):
    """What two more layers add to the peak: their gradients, and with recomputation one tensor of states each."""
    growth = {}
    for checkpointing in (False, True):
        peaks = []
        for layers in (2, 4):
            policy = tiny_policy(num_hidden_layers=layers, **BODIES[body])
            learner = open_learner(policy, adapter=ADAPTERS[adapter], gradient_checkpointing=checkpointing)
            update(learner, objective=ClippedObjective())  # makes what stays: sums of gradients, and moments
            with LiveMemory() as memory:
                update(learner, seed=2, sizes=(8, 8), objective=ClippedObjective())
            peaks.append(memory.peak)
        growth[checkpointing] = peaks[1] - peaks[0]
    assert growth[True] < growth[False] / 3


def test_layers_are_recomputed_in_updates_only():
    learner, calls = open_learner(tiny_policy(), gradient_checkpointing=True), []
    learner._scorer.module.model.layers[0].self_attn.q_proj.register_forward_hook(
        lambda *_: calls.append(torch.is_grad_enabled())
    )
    learner.logprobs(make_rollouts(), SamplingSpec())
    assert calls == [False]
    update(learner, objective=ClippedObjective())
    assert calls == [False, True, True]
