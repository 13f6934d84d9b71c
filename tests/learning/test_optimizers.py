"""Steps of each optimizer against formulas written out, and exact resume of each."""

import importlib.util
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_policy import gradients, make_rollouts, open_learner, random_advantages, relative_difference, tiny_policy

from thinkrl.algorithms.objective import ClippedObjective
from thinkrl.config.component import ConfigError
from thinkrl.learning import update_rules
from thinkrl.learning.adapters import Adapter
from thinkrl.learning.torch_learner import TorchLearner
from thinkrl.sampling.sampler import SamplingSpec

EIGHT_BIT = pytest.param(
    "adamw_8bit",
    marks=pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"),
)
NAMES = ["adamw", "muon", EIGHT_BIT]
MIXED = [("adamw", "adamw_8bit"), ("adamw_8bit", "adamw"), ("muon", "adamw_8bit"), ("adamw_8bit", "muon")]
LARGE = {"hidden_size": 64, "intermediate_size": 160, "vocab_size": 128}
"""Matrices of 4,096 and more entries, whose moments are quantised, some with a last block that is not full."""


def update(learner, seed=0):
    rollouts = make_rollouts(seed=seed)
    return learner.update(rollouts, random_advantages(rollouts), ClippedObjective(), SamplingSpec())


def orthogonal(matrix):
    """Five steps of X <- a X + (b X X^T + c (X X^T)^2) X from X / |X|, in float64."""
    x = matrix.double().numpy()
    wide = x if x.shape[0] <= x.shape[1] else x.T
    wide = wide / np.linalg.norm(wide)
    for _ in range(5):
        gram = wide @ wide.T
        wide = 3.4445 * wide + (-4.7750 * gram + 2.0315 * gram @ gram) @ wide
    return torch.from_numpy(wide if x.shape[0] <= x.shape[1] else wide.T)


def hidden(name):
    return name.endswith("_proj.weight")


@pytest.mark.parametrize("shape", [(64, 24), (24, 64), (40, 40)])
def test_two_steps_of_muon_by_hand(shape):
    torch.manual_seed(0)
    weight = torch.randn(shape)
    momentum = torch.zeros(shape, dtype=torch.float64)
    rules = update_rules.update_rules("muon", {"w": weight}, (), betas=(0.9, 0.99), epsilon=1e-8, weight_decay=0.1)
    for _ in range(2):
        before = weight.double()
        weight.grad = torch.randn(shape)
        momentum = 0.95 * momentum + 0.05 * weight.grad.double()
        nesterov = 0.05 * weight.grad.double() + 0.95 * momentum
        expected = before * (1 - 0.02 * 0.1) - 0.02 * 0.2 * max(shape) ** 0.5 * orthogonal(nesterov)
        rules["w"].step(0.02)
        assert weight.grad is None
        # The published iteration runs in bfloat16, which has 8 bits.
        assert (weight - expected).norm() / (expected - before).norm() < 0.02


def test_muon_s_momentum_is_of_the_whole_gradient():
    config = {"learning_rate": 0.01, "max_gradient_norm": None}
    learner, other = open_learner(tiny_policy(), optimizer="muon", **config), open_learner(tiny_policy(), **config)
    update(learner)
    update(other)
    momentum = {n: t for n, t in learner.state().tensors.items() if n.startswith("momentum_buffer/")}
    expected = {f"momentum_buffer/{n}": 0.05 * t for n, t in gradients(other).items() if hidden(n)}
    assert relative_difference(momentum, expected) < 1e-6


def test_the_singular_values_of_a_muon_step_are_near_one_another():
    policy = tiny_policy(**LARGE)
    before = {name: p.detach().clone() for name, p in policy.module.named_parameters()}
    update(open_learner(policy, optimizer="muon", learning_rate=0.01))
    for name, parameter in policy.module.named_parameters():
        if hidden(name) and "0.mlp" in name:
            values = torch.linalg.svdvals(parameter.detach() - before[name]) / (
                0.01 * 0.2 * max(parameter.shape) ** 0.5
            )
            assert values.max() < 1.3
            assert values.median() > 0.6


@pytest.mark.parametrize("tie", [True, False])
def test_muon_leaves_embeddings_head_norms_and_biases_to_adamw(tie):
    config = {"learning_rate": 0.01, "weight_decay": 0.1}
    plain, muon = tiny_policy("qwen2", tie=tie), tiny_policy("qwen2", tie=tie)
    update(open_learner(plain, **config))
    learner = open_learner(muon, optimizer="muon", **config)
    update(learner)
    expected = dict(plain.module.named_parameters())
    for name, parameter in muon.module.named_parameters():
        assert torch.equal(parameter, expected[name]) == (not hidden(name)), name
    moments = {name.partition("/")[0]: set() for name in learner.state().tensors}
    for name in learner.state().tensors:
        moments[name.partition("/")[0]].add(name.partition("/")[2])
    assert moments["momentum_buffer"] == {name for name in expected if hidden(name)}
    assert moments["exp_avg"] == moments["exp_avg_sq"] == {name for name in expected if not hidden(name)}


@pytest.mark.parametrize("name", [EIGHT_BIT])
def test_a_step_of_8_bit_adamw_is_adamw_s_within_quantisation(name):
    moved = {}
    for optimizer in ("adamw", name):
        policy = tiny_policy(**LARGE)
        before = {n: p.detach().clone() for n, p in policy.module.named_parameters()}
        learner = open_learner(policy, optimizer=optimizer, learning_rate=0.01, betas=(0.9, 0.99), weight_decay=0.1)
        first = update(learner)
        moved[optimizer] = [{n: p.detach() - before[n] for n, p in policy.module.named_parameters()}]
        update(learner, seed=1)
        moved[optimizer].append({n: p.detach() - before[n] for n, p in policy.module.named_parameters()})
    tensors = learner.state().tensors
    wide = "model.layers.0.mlp.gate_proj.weight"
    assert tensors[f"state1/{wide}"].dtype == tensors[f"state2/{wide}"].dtype == torch.uint8
    assert tensors[f"absmax1/{wide}"].shape == (40,)
    assert tensors["state1/model.norm.weight"].dtype == torch.float32
    assert first.gradient_norm > 0
    # The first step is taken before moments are rounded; the second from rounded ones.
    assert relative_difference(moved[name][0], moved["adamw"][0]) < 1e-5
    assert 1e-4 < relative_difference(moved[name][1], moved["adamw"][1]) < 0.1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("adapter", [None, Adapter(rank=32, dora=True)], ids=["whole", "adapter"])
@pytest.mark.parametrize("updates_before", [0, 2])
def test_a_restored_optimizer_goes_on_as_if_never_stopped(name, dtype, adapter, updates_before):
    config = {"optimizer": name, "learning_rate": 0.01, "betas": (0.9, 0.99), "weight_decay": 0.1, "adapter": adapter}
    learner = open_learner(tiny_policy(dtype=dtype, **LARGE), **config)
    for step in range(updates_before):
        update(learner, seed=step)
    saved = learner.state()
    restored = open_learner(tiny_policy(dtype=dtype, **LARGE), **config)
    update(restored, seed=7)
    restored.load_state(saved)
    for step in (3, 4):
        one, two = update(learner, seed=step), update(restored, seed=step)
        assert replace(one, seconds={}) == replace(two, seconds={})
    states = [x.state() for x in (learner, restored)]
    assert states[0].values == states[1].values
    assert states[0].tensors.keys() == states[1].tensors.keys()
    assert all(torch.equal(tensor, states[1].tensors[key]) for key, tensor in states[0].tensors.items())


@pytest.mark.parametrize(
    ("name", "other"),
    [("adamw", "muon"), ("muon", "adamw"), *[pytest.param(*p, marks=EIGHT_BIT.marks) for p in MIXED]],
)
@pytest.mark.parametrize("adapter", [None, Adapter(rank=4)], ids=["whole", "adapter"])
def test_a_state_of_another_optimizer_is_refused_and_nothing_changes(name, other, adapter):
    ours, theirs = (open_learner(tiny_policy(), optimizer=n, adapter=adapter) for n in (name, other))
    update(ours)
    update(theirs)
    before = ours.state()
    with pytest.raises(ValueError, match="the state is of another optimizer"):
        ours.load_state(theirs.state())
    after = ours.state()
    assert before.values == after.values
    assert all(torch.equal(tensor, after.tensors[key]) for key, tensor in before.tensors.items())


@pytest.mark.parametrize("name", NAMES)
def test_masters_are_float32_and_the_gradient_is_the_same(name):
    reports = []
    for optimizer in ("adamw", name):
        learner = open_learner(tiny_policy(dtype=torch.bfloat16, **LARGE), optimizer=optimizer)
        reports.append(update(learner))
        assert all(tensor.dtype == torch.float32 for tensor in learner.weights().values())
    assert reports[0].gradient_norm == reports[1].gradient_norm
    assert reports[0].loss == reports[1].loss


def test_a_missing_package_is_said_before_a_model_loads(monkeypatch):
    learner = TorchLearner(optimizer="adamw_8bit")
    monkeypatch.setattr(update_rules.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs bitsandbytes, which is not installed"):
        learner.check()
    TorchLearner(optimizer="muon").check()
