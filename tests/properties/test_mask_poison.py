"""Nothing that is written at a token which was not sampled, or in a response that is left out, is ever read."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_policy import make_rollouts, open_learner, random_advantages, tiny_policy, update_gradients

from thinkrl.algorithms.advantages import GroupAdvantage
from thinkrl.algorithms.kl import KLLoss, KLReward
from thinkrl.algorithms.mismatch import ImportanceCorrection
from thinkrl.algorithms.objective import ClippedObjective
from thinkrl.algorithms.types import Advantages
from thinkrl.rollouts.store import Group, Rollouts
from thinkrl.sampling.sampler import SamplingSpec

OBJECTIVE = ClippedObjective(
    kl=KLLoss(0.1), entropy_bonus=0.1, aggregation="sequence", mismatch=ImportanceCorrection("sequence")
)
POISONS = [np.nan, 1e30, -1e30, np.inf]


def poisoned(column, where, poison):
    values = column.values.copy()
    values[where] = poison
    return column.with_values(values)


@pytest.mark.parametrize("poison", POISONS)
def test_values_at_given_tokens_are_never_read(poison):
    rollouts = make_rollouts(given=True)
    given = ~rollouts.sampled
    assert given.any()
    advantages = random_advantages(rollouts)
    weights = advantages.values.with_values(np.linspace(0.5, 1.5, len(given)))
    clean = Advantages(poisoned(advantages.values, given, 0.0), advantages.kept, weights)
    old = rollouts.logprobs
    a, report = update_gradients(rollouts, clean, OBJECTIVE, old_logprobs=poisoned(old, given, 0.0))

    dirty = Advantages(poisoned(clean.values, given, poison), clean.kept, poisoned(weights, given, poison))
    bad = replace(
        rollouts,
        logprobs=poisoned(rollouts.logprobs, given, poison),
        entropies=poisoned(rollouts.entropies, given, poison),
    )
    b, other = update_gradients(bad, dirty, OBJECTIVE, old_logprobs=poisoned(old, given, poison))
    assert all(torch.equal(a[n], b[n]) for n in a)
    assert (report.loss, report.metrics, report.gradient_norm) == (other.loss, other.metrics, other.gradient_norm)


@pytest.mark.parametrize("poison", POISONS)
def test_values_in_excluded_responses_are_never_read(poison):
    rollouts = make_rollouts(given=True)
    excluded = [1, 4]
    there = np.isin(rollouts.token_ids.row_ids, excluded)
    advantages = random_advantages(rollouts, excluded=excluded)
    old = rollouts.logprobs
    a, report = update_gradients(rollouts, advantages, OBJECTIVE, old_logprobs=old)
    dirty = replace(advantages, values=poisoned(advantages.values, there, poison))
    bad = replace(rollouts, logprobs=poisoned(rollouts.logprobs, there, poison))
    b, other = update_gradients(bad, dirty, OBJECTIVE, old_logprobs=poisoned(old, there, poison))
    assert all(torch.equal(a[n], b[n]) for n in a)
    assert (report.loss, report.metrics) == (other.loss, other.metrics)


@pytest.mark.parametrize("poison", POISONS)
def test_advantages_never_read_given_tokens(poison):
    rollouts = make_rollouts(given=True)
    given = ~rollouts.sampled
    totals = np.random.default_rng(0).normal(size=len(rollouts))
    rewards = rollouts.token_ids.with_values(np.random.default_rng(1).normal(size=len(given)))
    a = GroupAdvantage().advantages(totals, rollouts, rewards).values.values
    b = GroupAdvantage().advantages(totals, rollouts, poisoned(rewards, given, poison)).values.values
    assert np.array_equal(a[~given], b[~given])
    assert np.isnan(b[given]).all()

    reference = rollouts.logprobs.with_values(rollouts.logprobs.values - 0.5)
    kl = KLReward(0.1)
    c = kl.token_rewards(rollouts, rollouts.logprobs, reference).values
    d = kl.token_rewards(rollouts, poisoned(rollouts.logprobs, given, poison), poisoned(reference, given, poison))
    assert np.array_equal(c, d.values)
    assert not c[given].any()


def test_loss_falls_on_sampled_tokens_alone():
    """Changing a given token in the middle changes what is predicted after it, but not the number of loss tokens;
    changing given tokens after the last sampled one changes nothing."""
    rollouts = make_rollouts((4,), given=True)
    advantages = random_advantages(rollouts)
    a, _ = update_gradients(rollouts, advantages, OBJECTIVE)
    ids = rollouts.token_ids.values.copy()
    tail = np.concatenate(
        [rollouts.token_ids.offsets[row] + np.arange(10, 12) for row in (1, 3)]  # given, behind the last sampled token
    )
    ids[tail] = (ids[tail] + 7) % 40
    b, _ = update_gradients(replace(rollouts, token_ids=rollouts.token_ids.with_values(ids)), advantages, OBJECTIVE)
    assert all(torch.equal(a[n], b[n]) for n in a)
    logprobs = open_learner(tiny_policy()).logprobs(rollouts, SamplingSpec()).values
    assert np.array_equal(np.isnan(logprobs), ~rollouts.sampled)


@pytest.mark.parametrize("stop", [2, 3])
def test_stop_ids_and_padding_ids_are_tokens_like_any_other(stop):
    """Ids 2 and 3 both end responses, 2 is also the padding id, and both stand inside prompts."""
    base = make_rollouts((3, 3))
    responses = []
    for response in base:
        ids = response.token_ids.copy()
        ids[-1] = stop
        responses.append(replace(response, token_ids=ids))
    groups = [Group(g.group_id, g.prompt, np.concatenate([[2, 3], g.prompt_ids]).astype(np.int32)) for g in base.groups]
    rollouts = Rollouts.from_responses(groups, responses)
    advantages = random_advantages(rollouts)
    objective = ClippedObjective()
    gradients = []
    for settings in ({"pad_token_id": None, "eos_token_id": None}, {"pad_token_id": 2, "eos_token_id": [2, 3]}):
        policy = tiny_policy(tie=False, **settings)
        # A padding id starts out as zeros; the two models must start alike.
        policy.module.load_state_dict(tiny_policy(tie=False).module.state_dict())
        gradients.append(update_gradients(rollouts, advantages, objective, policy=policy, row_tokens=40)[0])
    assert all(torch.equal(gradients[0][n], gradients[1][n]) for n in gradients[0])
    assert gradients[1]["model.embed_tokens.weight"][2].abs().sum() > 0
    assert gradients[1]["lm_head.weight"][stop].abs().sum() > 0
