"""Supervision on responses of which some tokens are given: they are read, and carry no loss."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_policy import (
    gradients,
    make_rollouts,
    open_learner,
    relative_difference,
    tiny_policy,
    update_gradients,
)

from thinkrl.algorithms.objective import ClippedObjective
from thinkrl.algorithms.types import Advantages
from thinkrl.learning.learner import Example
from thinkrl.learning.packing import example_paths
from thinkrl.rollouts.store import Origin
from thinkrl.sampling.sampler import SamplingSpec


def ids(*values):
    return np.array(values, dtype=np.int32)


def examples(seed=0, lengths=(6, 9, 1, 4)):
    rng = np.random.default_rng(seed)
    made = [Example(*(rng.integers(0, 40, n).astype(np.int32) for n in (3, length))) for length in lengths]
    return [Example(e.prompt_ids, e.target_ids, rng.random(len(e.target_ids)) < 0.4) for e in made]


def supervised(made, **settings):
    learner = open_learner(tiny_policy(), **settings)
    return learner.supervise(made), gradients(learner)


def test_paths_predict_what_is_not_given():
    mask = np.array([False, True, True, False, True])
    (path,) = example_paths([Example(ids(1), ids(2, 3, 4, 5, 6), mask)])
    assert path.token_ids.tolist() == [1, 2, 3, 4]
    assert path.sources.tolist() == [0, 3]
    assert path.targets.tolist() == [2, 5]
    assert example_paths([Example(ids(1), ids(2, 3), np.array([True, True]))]) == []


def test_loss_is_cross_entropy_on_the_rest_by_transformers():
    made = examples()
    policy, total, count = tiny_policy(), 0, 0
    for example in made:
        row = torch.from_numpy(np.concatenate([example.prompt_ids, example.target_ids]).astype(np.int64))
        labels = row.clone()
        labels[:3] = -100
        labels[3:][torch.from_numpy(example.given)] = -100
        kept = int((~example.given).sum())
        if kept:
            total, count = total + policy.module(row[None], labels=labels[None]).loss * kept, count + kept
    assert 0 < count < sum(len(example.target_ids) for example in made)
    loss = total / count
    parameters = dict(policy.module.named_parameters())
    expected = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
    report, found = supervised(made)
    assert report.loss == pytest.approx(loss.item(), rel=1e-6)
    assert relative_difference(found, expected) < 1e-5


def test_where_nothing_is_given_it_is_the_plain_path_to_the_bit():
    plain = [Example(e.prompt_ids, e.target_ids) for e in examples()]
    none = [Example(e.prompt_ids, e.target_ids, np.zeros(len(e.target_ids), dtype=np.bool_)) for e in plain]
    report, found = supervised(plain)
    other, same = supervised(none)
    assert report.loss == other.loss
    assert all(torch.equal(found[name], same[name]) for name in found)


@pytest.mark.parametrize(
    "settings",
    [{"share_prompts": False}, {"micro_batch_tokens": 8}, {"share_prompts": False, "micro_batch_tokens": 12}],
)
def test_gradients_do_not_depend_on_batching(settings):
    report, expected = supervised(examples())
    other, found = supervised(examples(), **settings)
    assert other.loss == pytest.approx(report.loss, rel=1e-6)
    assert relative_difference(found, expected) < 1e-5


def test_a_batch_of_given_tokens_alone_changes_nothing():
    policy = tiny_policy()
    learner = open_learner(policy)
    before = {name: p.clone() for name, p in policy.module.named_parameters()}
    report = learner.supervise([Example(ids(1), ids(2, 3), np.array([True, True]))])
    assert (report.loss, report.version) == (0.0, 1)
    assert all(torch.equal(p, before[name]) for name, p in policy.module.named_parameters())


def test_supervision_follows_the_gradient_of_a_reward_of_one_for_every_response():
    """In SFT as in RL: the same tokens carry the same loss, on policy and with a mean over tokens."""
    rollouts = make_rollouts(given=True)
    logprobs = open_learner(tiny_policy()).logprobs(rollouts, SamplingSpec())
    ones = Advantages(
        rollouts.token_ids.with_values(np.where(rollouts.sampled, 1.0, np.nan)), np.ones(len(rollouts), dtype=np.bool_)
    )
    expected, _ = update_gradients(replace(rollouts, logprobs=logprobs), ones, ClippedObjective(aggregation="token"))
    made = [
        Example(rollouts.groups[group].prompt_ids, response.token_ids, response.origins == Origin.GIVEN)
        for response, group in zip(rollouts, rollouts.group_index, strict=True)
    ]
    assert any(example.given.any() for example in made)
    _, found = supervised(made)
    assert relative_difference(found, expected) < 1e-5
