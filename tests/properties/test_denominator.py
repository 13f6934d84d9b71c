"""The gradient does not change with how a batch is cut, packed, padded or ordered."""

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
from thinkrl.algorithms.mismatch import ImportanceCorrection
from thinkrl.algorithms.objective import ClippedObjective
from thinkrl.learning import branch_attention, scorer
from thinkrl.learning.learner import Example
from thinkrl.learning.scorer import Scorer
from thinkrl.rollouts.store import Group, Rollouts
from thinkrl.sampling.sampler import SamplingSpec

LIMIT = 1e-5

OBJECTIVES = {
    "grpo": ClippedObjective(aggregation="sequence", kl=KLLoss(0.04)),
    "dapo": ClippedObjective(clip_high=0.28, aggregation="token"),
    "dr_grpo": ClippedObjective(aggregation="constant", constant_length=12),
    "gspo": ClippedObjective(clip_low=0.1, clip_high=0.1, ratio="sequence", aggregation="sequence"),
    "dual clip, entropy, k2": ClippedObjective(
        dual_clip=1.5, entropy_bonus=0.1, kl=KLLoss(0.1, "k2"), aggregation="token"
    ),
    "responses weighed by importance": ClippedObjective(
        mismatch=ImportanceCorrection("sequence", cap=1.2), aggregation="token"
    ),
    "tokens masked by importance": ClippedObjective(
        mismatch=ImportanceCorrection("token", "mask", cap=100.0), aggregation="sequence"
    ),
}

BATCHINGS = {
    "one row a micro-batch": {"micro_batch_tokens": 1},
    "two rows a micro-batch": {"row_tokens": 30, "micro_batch_tokens": 60},
    "groups split over rows": {"row_tokens": 20, "micro_batch_tokens": 40},
    "everything in one row": {"row_tokens": 4096, "micro_batch_tokens": 4096},
    "logits in chunks of 3": {"logits_chunk_tokens": 3},
    "no shared prompts, one response a micro-batch": {"share_prompts": False, "micro_batch_tokens": 1},
    "no shared prompts, padded": {"share_prompts": False, "micro_batch_tokens": 64},
    "layers recomputed": {"gradient_checkpointing": True},
}


def noisy_old(rollouts: Rollouts):
    """Old log-probabilities near the policy's own, so that some ratios are clipped and some are not."""
    own = open_learner(tiny_policy()).logprobs(rollouts, SamplingSpec())
    noise = np.random.default_rng(5).normal(scale=0.3, size=own.values.shape).astype(np.float32)
    return own.with_values(own.values + noise)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_gradient_does_not_depend_on_batching(name):
    rollouts = make_rollouts(given=True)
    advantages = random_advantages(rollouts, excluded=[2])
    old = noisy_old(rollouts)
    reference, report = update_gradients(
        rollouts, advantages, OBJECTIVES[name], old_logprobs=old, share_prompts=False, micro_batch_tokens=10_000
    )
    assert 0 < report.metrics["clip/low"] + report.metrics["clip/high"] < 1
    for batching, settings in BATCHINGS.items():
        other, other_report = update_gradients(rollouts, advantages, OBJECTIVES[name], old_logprobs=old, **settings)
        assert relative_difference(other, reference) < LIMIT, batching
        assert other_report.loss == pytest.approx(report.loss, rel=1e-5, abs=1e-7), batching
        assert other_report.metrics == pytest.approx(report.metrics, rel=1e-4, abs=1e-6), batching


def dense_mask(monkeypatch):
    monkeypatch.setattr(Scorer, "joins", False)
    monkeypatch.setattr(Scorer, "sharing_pays", lambda *_: True)


def by_branch(monkeypatch):
    monkeypatch.setattr(scorer, "writes_out", lambda _: False)


def in_small_tiles(monkeypatch):
    by_branch(monkeypatch)
    monkeypatch.setattr(branch_attention, "TILE", 3)
    monkeypatch.setattr(branch_attention, "SCORES", 40)


WAYS = {"dense mask": dense_mask, "by branch": by_branch, "tiles": in_small_tiles, "written out": lambda _: None}


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("way", WAYS)
def test_shared_prompts_hold_for_every_family_and_attention(family, attention, way, monkeypatch):
    rollouts, objective = make_rollouts(given=True), OBJECTIVES["dapo"]
    advantages = random_advantages(rollouts)

    def gradient(**settings):
        policy = tiny_policy(family, tie=family == "llama", attn_implementation=attention)
        return update_gradients(rollouts, advantages, objective, policy=policy, **settings)[0]

    plain = gradient(share_prompts=False, micro_batch_tokens=1)
    WAYS[way](monkeypatch)
    assert relative_difference(gradient(row_tokens=40), plain) < LIMIT
    everything = {"row_tokens": 30, "micro_batch_tokens": 60, "logits_chunk_tokens": 7, "gradient_checkpointing": True}
    assert relative_difference(gradient(**everything), plain) < LIMIT


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_gradient_does_not_depend_on_the_order_of_rows(name):
    rollouts = make_rollouts(given=True)
    advantages, old = random_advantages(rollouts), noisy_old(rollouts)
    order = np.random.default_rng(3).permutation(len(rollouts))
    a, _ = update_gradients(rollouts, advantages, OBJECTIVES[name], old_logprobs=old, row_tokens=40)
    b, _ = update_gradients(
        rollouts.select(order), advantages.take(order), OBJECTIVES[name], old_logprobs=old.take(order), row_tokens=40
    )
    assert relative_difference(a, b) < LIMIT


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_excluded_response_is_as_if_it_were_not_there(name):
    rollouts = make_rollouts(given=True)
    old = noisy_old(rollouts)
    excluded = [0, 3]
    rest = np.setdiff1d(np.arange(len(rollouts)), excluded)
    with_it, report = update_gradients(
        rollouts, random_advantages(rollouts, excluded=excluded), OBJECTIVES[name], old_logprobs=old
    )
    without, other = update_gradients(
        rollouts.select(rest), random_advantages(rollouts).take(rest), OBJECTIVES[name], old_logprobs=old.take(rest)
    )
    assert relative_difference(with_it, without) < LIMIT
    assert report.loss == pytest.approx(other.loss, rel=1e-6)


def test_the_gradient_of_two_halves_is_the_count_weighted_mean():
    """Two ranks with uneven token counts: sums over counts, not a mean of means."""
    rollouts, objective = make_rollouts((2, 5)), OBJECTIVES["dapo"]
    advantages = random_advantages(rollouts)
    whole, _ = update_gradients(rollouts, advantages, objective)
    halves = [np.array([0, 1]), np.array([2, 3, 4, 5, 6])]
    parts = [update_gradients(rollouts.select(h), advantages.take(h), objective)[0] for h in halves]
    counts = [float(rollouts.sampled_counts[h].sum()) for h in halves]
    assert counts[0] != counts[1]
    combined = {n: (parts[0][n] * counts[0] + parts[1][n] * counts[1]) / sum(counts) for n in whole}
    assert relative_difference(combined, whole) < LIMIT


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_batch_without_a_valid_token_changes_nothing_but_the_version(name):
    rollouts = make_rollouts((2,))
    policy = tiny_policy()
    learner = open_learner(policy, with_reference=True)
    before = {n: p.clone() for n, p in policy.module.named_parameters()}
    report = learner.update(rollouts, random_advantages(rollouts, excluded=[0, 1]), OBJECTIVES[name], SamplingSpec())
    assert (report.loss, report.gradient_norm, report.version, learner.version) == (0.0, 0.0, 1, 1)
    assert all(np.isfinite(value) for value in report.metrics.values())
    assert all(torch.equal(p, before[n]) for n, p in policy.module.named_parameters())


def test_supervised_gradients_do_not_depend_on_batching():
    rng = np.random.default_rng(0)
    examples = [
        Example(*(rng.integers(0, 40, n).astype(np.int32) for n in (rng.integers(1, 8), rng.integers(0, 12))))
        for _ in range(9)
    ]

    def gradient(**settings):
        learner = open_learner(tiny_policy(), **settings)
        return learner.supervise(examples), gradients(learner)

    report, reference = gradient(share_prompts=False, micro_batch_tokens=10_000)
    for settings in BATCHINGS.values():
        other_report, other = gradient(**settings)
        assert relative_difference(other, reference) < LIMIT
        assert other_report.loss == pytest.approx(report.loss, rel=1e-6)


@pytest.mark.parametrize("excess", [1, 7])
def test_prompts_repeated_over_rows_count_once(excess):
    """The longest prompt does not fit beside two responses, so its row repeats; the gradient must not."""
    rollouts = make_rollouts((6,), seed=4)
    longest = int(rollouts.token_ids.lengths.max())
    prompt = np.arange(20, dtype=np.int32)
    group = Group("g0", rollouts.groups[0].prompt, prompt)
    rollouts = Rollouts.from_responses([group], list(rollouts))
    advantages, objective = random_advantages(rollouts), OBJECTIVES["grpo"]
    a, _ = update_gradients(rollouts, advantages, objective, row_tokens=20 + longest + excess)
    b, _ = update_gradients(rollouts, advantages, objective, share_prompts=False)
    assert relative_difference(a, b) < LIMIT


class Computed:
    """An objective that asks for entropies it does not read, so that every response is computed."""

    needs_reference = False
    needs_entropy = True

    def __init__(self, inner: ClippedObjective) -> None:
        self.inner = inner

    def __call__(self, inputs):
        return self.inner(inputs)


@pytest.mark.parametrize("name", ["dapo", "dr_grpo", "gspo"])
@pytest.mark.parametrize("flat", [[0], [1, 3, 4], "all"], ids=str)
def test_responses_without_advantage_are_counted_but_not_computed(name, flat):
    rollouts = make_rollouts(given=True)
    rows = list(range(len(rollouts))) if flat == "all" else flat
    advantages = random_advantages(rollouts, excluded=[2])
    values = advantages.values.values.copy()
    values[np.isin(rollouts.token_ids.row_ids, rows) & rollouts.sampled] = 0.0
    advantages = replace(advantages, values=advantages.values.with_values(values))
    fast, fast_report = update_gradients(rollouts, advantages, OBJECTIVES[name])
    whole, whole_report = update_gradients(rollouts, advantages, Computed(OBJECTIVES[name]))
    if flat == "all":
        assert all(torch.all(gradient == 0) for gradient in whole.values())
        assert all(torch.all(gradient == 0) for gradient in fast.values())
    else:
        assert relative_difference(fast, whole) < LIMIT
    assert fast_report.loss == pytest.approx(whole_report.loss, rel=1e-5, abs=1e-9)
