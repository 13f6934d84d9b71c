from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_policy import (
    gradients,
    make_rollouts,
    open_learner,
    random_advantages,
    relative_difference,
    tiny_policy,
    update_gradients,
)

from thinkrl.algorithms.kl import KLLoss
from thinkrl.algorithms.objective import ClippedObjective
from thinkrl.learning.learner import Example
from thinkrl.learning.torch_learner import TorchLearner
from thinkrl.sampling.sampler import SamplingSpec

SPEC = SamplingSpec()
DTYPES = [torch.float32, torch.bfloat16]


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def dense_logprobs(policy, rollouts, temperature=1.0):
    """Every response alone through the whole model, with transformers' own forward pass."""
    values = []
    for row, response in enumerate(rollouts):
        prompt = rollouts.groups[rollouts.group_index[row]].prompt_ids
        ids = torch.from_numpy(np.concatenate([prompt, response.token_ids]).astype(np.int64))
        logits = policy.module(ids[None]).logits[0, len(prompt) - 1 : -1] / temperature
        values.append(logits.float().log_softmax(-1).gather(1, ids[len(prompt) :, None])[:, 0])
    return torch.cat(values)


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.3])
def test_logprobs_equal_the_whole_model_s(temperature):
    policy, rollouts = tiny_policy(), make_rollouts(given=True)
    logprobs = open_learner(policy, row_tokens=40).logprobs(rollouts, SamplingSpec(temperature=temperature))
    expected = dense_logprobs(policy, rollouts, temperature).detach().numpy()
    assert logprobs.values.dtype == np.float32
    assert np.abs(logprobs.values - expected)[rollouts.sampled].max() < 1e-5
    assert np.isnan(logprobs.values[~rollouts.sampled]).all()


def test_the_gradient_of_an_update_is_that_of_the_loss_written_out():
    policy, rollouts = tiny_policy(), make_rollouts(given=True)
    advantages = random_advantages(rollouts)
    mask = torch.from_numpy(rollouts.sampled)
    a = torch.from_numpy(np.nan_to_num(advantages.values.values)).float()
    loss = -(a * dense_logprobs(policy, rollouts))[mask].sum() / mask.sum()
    names = [name for name, _ in policy.module.named_parameters()]
    expected = dict(zip(names, torch.autograd.grad(loss, list(policy.module.parameters())), strict=True))
    ours, report = update_gradients(rollouts, advantages, ClippedObjective(aggregation="token"))
    assert relative_difference(ours, expected) < 1e-5
    norm = torch.cat([g.flatten() for g in expected.values()]).norm().item()
    assert report.gradient_norm == pytest.approx(norm, rel=1e-5)
    assert report.metrics["ratio"] == 1.0


def test_supervision_is_cross_entropy_on_targets():
    rng = np.random.default_rng(0)
    examples = [Example(*(rng.integers(0, 40, n).astype(np.int32) for n in (3, length))) for length in (4, 9, 1)]
    policy = tiny_policy()
    total = 0
    for example in examples:
        ids = torch.from_numpy(np.concatenate([example.prompt_ids, example.target_ids]).astype(np.int64))
        labels = torch.cat([torch.full((3,), -100), ids[3:]])
        total = total + policy.module(ids[None], labels=labels[None]).loss * len(example.target_ids)
    loss = total / 14
    parameters = dict(policy.module.named_parameters())
    expected = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
    learner = open_learner(tiny_policy())
    report = learner.supervise(examples)
    assert report.loss == pytest.approx(loss.item(), rel=1e-6)
    assert relative_difference(gradients(learner), expected) < 1e-5


def test_the_step_is_adamw_s():
    """One step from zero moments without decay moves each weight by -lr * g / (|g| + epsilon)."""
    policy, rollouts = tiny_policy(), make_rollouts()
    before = {n: p.detach().clone() for n, p in policy.module.named_parameters()}
    learner = TorchLearner(learning_rate=0.01, max_gradient_norm=None, epsilon=1e-3).open(policy, 10, False)
    learner.update(rollouts, random_advantages(rollouts), ClippedObjective(), SPEC)
    g, _ = update_gradients(rollouts, random_advantages(rollouts), ClippedObjective())
    for name, parameter in policy.module.named_parameters():
        expected = before[name] - 0.01 * g[name] / (g[name].abs() + 1e-3)
        assert torch.allclose(parameter.detach(), expected, atol=1e-6), name


def test_gradients_are_clipped_by_their_global_norm():
    rollouts, advantages = make_rollouts(), random_advantages(make_rollouts())
    whole, report = update_gradients(rollouts, advantages, ClippedObjective())
    bound = report.gradient_norm / 4
    clipped, other = update_gradients(rollouts, advantages, ClippedObjective(), max_gradient_norm=bound)
    assert other.gradient_norm == report.gradient_norm
    assert relative_difference(clipped, {n: g / 4 for n, g in whole.items()}) < 1e-4
    loose, _ = update_gradients(rollouts, advantages, ClippedObjective(), max_gradient_norm=4 * report.gradient_norm)
    assert equal(loose, whole)


def test_decay_falls_on_matrices_only():
    policy, rollouts = tiny_policy("qwen2"), make_rollouts()
    before = {n: p.detach().clone() for n, p in policy.module.named_parameters()}
    advantages = random_advantages(rollouts)
    zero = replace(advantages, values=rollouts.token_ids.with_values(np.zeros(len(rollouts.token_ids.values))))
    learner = open_learner(policy, learning_rate=0.1, weight_decay=0.5)
    learner.update(rollouts, zero, ClippedObjective(), SPEC)
    for name, parameter in policy.module.named_parameters():
        factor = 0.95 if parameter.ndim == 2 else 1.0
        assert torch.allclose(parameter.detach(), before[name] * factor, atol=1e-7), name


def test_master_weights_keep_steps_too_small_for_the_module():
    policy, rollouts = tiny_policy(dtype=torch.bfloat16), make_rollouts()
    learner = open_learner(policy, learning_rate=1e-6)
    before = learner.state().weights
    module_before = {n: p.detach().clone() for n, p in policy.module.named_parameters()}
    for _ in range(3):
        learner.update(rollouts, random_advantages(rollouts), ClippedObjective(), SPEC)
    after = learner.state().weights
    name = "model.layers.0.self_attn.q_proj.weight"
    assert (after[name] - before[name]).abs().mean() == pytest.approx(3e-6, rel=0.2)
    parameters = dict(policy.module.named_parameters())
    assert (parameters[name] == module_before[name]).float().mean() > 0.9
    assert all(torch.equal(parameters[n], after[n].bfloat16()) for n in parameters)


def two_updates(learner, seed=0):
    for step in range(2):
        rollouts = make_rollouts(seed=seed + step)
        report = learner.update(
            rollouts, random_advantages(rollouts), ClippedObjective(kl=KLLoss(0.1)), SamplingSpec(temperature=0.8)
        )
    return report


@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_updates_give_equal_bytes(dtype):
    states, reports = [], []
    for _ in range(2):
        learner = open_learner(tiny_policy(dtype=dtype), with_reference=True)
        reports.append(replace(two_updates(learner), seconds={}))
        states.append(learner.state())
    assert equal(states[0].tensors, states[1].tensors)
    assert reports[0] == reports[1]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("updates_before", [0, 1])
def test_a_restored_learner_goes_on_as_if_never_stopped(dtype, updates_before):
    settings = {"betas": (0.9, 0.99), "schedule": "cosine", "warmup_steps": 2, "with_reference": True}
    learner = open_learner(tiny_policy(dtype=dtype), **settings)
    for _ in range(updates_before):
        two_updates(learner)
    saved = learner.state()
    last = two_updates(learner, seed=9)

    policy = tiny_policy(dtype=dtype)
    restored = open_learner(policy, **settings)
    restored.load_state(saved)
    assert restored.version == 2 * updates_before
    again = two_updates(restored, seed=9)
    assert equal(learner.state().tensors, restored.state().tensors)
    assert learner.state().values == restored.state().values
    assert replace(last, seconds={}) == replace(again, seconds={})
    assert all(torch.equal(p, restored.state().weights[n].to(dtype)) for n, p in policy.module.named_parameters())


def test_loading_takes_back_what_came_after():
    learner = open_learner(tiny_policy(), with_reference=True)
    saved = learner.state()
    two_updates(learner)
    learner.load_state(saved)
    assert learner.version == 0
    assert equal(learner.state().tensors, saved.tensors)


def test_a_state_of_another_model_is_refused_and_nothing_changes():
    learner = open_learner(tiny_policy(), with_reference=True)
    two_updates(learner)
    before = learner.state()
    with pytest.raises(ValueError, match=r"of another model: \d+ tensors do not match, first"):
        learner.load_state(open_learner(tiny_policy("qwen3")).state())
    other = open_learner(tiny_policy(intermediate_size=24), with_reference=True)
    two_updates(other)
    with pytest.raises(ValueError, match=r"is \(24, 32\), expected \(48, 32\)"):
        learner.load_state(other.state())
    assert equal(learner.state().tensors, before.tensors)


def test_the_mismatch_with_the_sampler_is_measured():
    policy, rollouts = tiny_policy(), make_rollouts(given=True)
    advantages = random_advantages(rollouts, excluded=[1])
    learner = open_learner(policy)
    own = learner.logprobs(rollouts, SPEC)
    shift = np.linspace(-0.2, 0.3, len(own.values)).astype(np.float32)
    report = learner.update(
        replace(rollouts, logprobs=own.with_values(own.values + shift)), advantages, ClippedObjective(), SPEC
    )
    counted = np.abs(shift[rollouts.sampled & (rollouts.token_ids.row_ids != 1)])
    assert report.metrics["mismatch/mean_abs"] == pytest.approx(counted.mean(), abs=1e-6)
    assert report.metrics["mismatch/max_abs"] == pytest.approx(counted.max(), abs=1e-6)


def test_the_reference_is_the_weights_at_the_start():
    policy, rollouts = tiny_policy(), make_rollouts()
    learner = open_learner(policy, with_reference=True, learning_rate=0.01)
    start = learner.logprobs(rollouts, SPEC)
    objective = ClippedObjective(kl=KLLoss(0.1))
    first = learner.update(rollouts, random_advantages(rollouts), objective, SPEC)
    second = learner.update(rollouts, random_advantages(rollouts), objective, SPEC)
    assert first.metrics["kl/reference"] == 0
    assert second.metrics["kl/reference"] > 0
    assert np.array_equal(learner.reference_logprobs(rollouts, SPEC).values, start.values)
    assert np.abs(learner.logprobs(rollouts, SPEC).values - start.values).max() > 1e-3


def test_token_weights_multiply_the_loss():
    rollouts = make_rollouts()
    advantages = random_advantages(rollouts)
    ones = np.ones(len(rollouts.token_ids.values))
    a, _ = update_gradients(rollouts, advantages, ClippedObjective())
    halved = replace(advantages, weights=rollouts.token_ids.with_values(ones / 2))
    b, _ = update_gradients(rollouts, halved, ClippedObjective())
    assert relative_difference(b, {n: g / 2 for n, g in a.items()}) < 1e-6


def test_the_learning_rate_follows_the_version():
    learner = open_learner(tiny_policy(), learning_rate=1.0, warmup_steps=1, schedule="linear")
    rollouts = make_rollouts((2,))
    nothing = random_advantages(rollouts, excluded=[0, 1])
    rates = [learner.update(rollouts, nothing, ClippedObjective(), SPEC).learning_rate for _ in range(4)]
    assert rates == pytest.approx([1.0, 1.0, 8 / 9, 7 / 9])


def test_what_cannot_be_learned_from_is_refused():
    rollouts = make_rollouts()
    advantages = random_advantages(rollouts)
    learner = open_learner(tiny_policy())
    before = learner.state()
    with pytest.raises(ValueError, match="temperature must be above 0"):
        learner.update(rollouts, advantages, ClippedObjective(), SamplingSpec(temperature=0.0))
    with pytest.raises(ValueError, match="with_reference must be true"):
        learner.update(rollouts, advantages, ClippedObjective(kl=KLLoss(0.1)), SPEC)
    with pytest.raises(ValueError, match="with_reference must be true"):
        learner.reference_logprobs(rollouts, SPEC)
    nan = replace(advantages, values=advantages.values.with_values(advantages.values.values * np.nan))
    with pytest.raises(ValueError, match="advantages must be finite at every sampled token"):
        learner.update(rollouts, nan, ClippedObjective(), SPEC)
    with pytest.raises(ValueError, match="old_logprobs must be finite at every sampled token"):
        learner.update(rollouts, advantages, ClippedObjective(), SPEC, nan.values)
    with pytest.raises(ValueError, match="advantages and token_ids differ"):
        learner.update(rollouts.select([0]), advantages, ClippedObjective(), SPEC)
    assert learner.version == 0
    assert equal(learner.state().tensors, before.tensors)


def test_a_gradient_that_is_not_finite_stops_before_the_weights():
    policy, rollouts = tiny_policy(), make_rollouts()
    learner = open_learner(policy)
    before = learner.state()
    huge = rollouts.token_ids.with_values(np.full(len(rollouts.token_ids.values), 3e38))
    with pytest.raises(FloatingPointError, match="the gradient norm must be finite"):
        learner.update(rollouts, replace(random_advantages(rollouts), values=huge), ClippedObjective(), SPEC)
    assert equal(learner.state().tensors, before.tensors)
    a = learner.update(rollouts, random_advantages(rollouts), ClippedObjective(), SPEC)
    _, b = update_gradients(rollouts, random_advantages(rollouts), ClippedObjective())
    assert a.gradient_norm == b.gradient_norm  # nothing of the failed step is left


def test_policies_that_cannot_be_trained_are_refused():
    policy = tiny_policy()
    with pytest.raises(ValueError, match="must be loaded for training"):
        open_learner(replace(policy, masters=None))
    sliding = tiny_policy("qwen2", use_sliding_window=True, max_window_layers=0, sliding_window=4)
    with pytest.raises(ValueError, match="share_prompts must be false for models with"):
        open_learner(sliding)
    open_learner(sliding, share_prompts=False)
    policy.module.config.final_logit_softcapping = 30.0
    with pytest.raises(ValueError, match="models with final_logit_softcapping are not supported"):
        open_learner(policy)


@pytest.mark.parametrize(
    "settings",
    [
        {"learning_rate": -1.0},
        {"betas": (0.9, 1.0)},
        {"epsilon": 0.0},
        {"weight_decay": -0.1},
        {"warmup_steps": -1},
        {"max_gradient_norm": 0.0},
        {"row_tokens": 0},
        {"micro_batch_tokens": 0},
        {"logits_chunk_tokens": 0},
    ],
)
def test_bad_settings_are_refused_by_name(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        TorchLearner(**settings)
