"""The gradient of a preference loss in two passes is that of the loss written out over padded pairs, in one."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_policy import gradients, make_rollouts, open_learner, relative_difference, tiny_policy

from thinkrl.algorithms.preference import PairLikelihood, PreferenceLoss, response_logprobs
from thinkrl.rollouts.store import Rollouts
from thinkrl.sampling.sampler import SamplingSpec

SPEC = SamplingSpec()
LOSSES = {
    "dpo": PreferenceLoss(beta=0.3),
    "cdpo": PreferenceLoss(beta=0.3, label_smoothing=0.2),
    "rpo": PreferenceLoss(beta=0.3, nll=0.5),
    "ipo": PreferenceLoss(kind="ipo", beta=0.3),
    "hinge": PreferenceLoss(kind="hinge", beta=0.3),
    "simpo": PreferenceLoss(beta=2.0, target_margin=1.0, length_normalised=True, reference=False),
}


def pairs() -> Rollouts:
    """Four pairs to four prompts; some responses hold given tokens."""
    return make_rollouts((2, 2, 2, 2), given=True)


def padded(policy, rollouts):
    """Log-probability of each response and its sampled tokens, from one right-padded batch with a plain mask."""
    rows = [
        np.concatenate([rollouts.groups[rollouts.group_index[row]].prompt_ids, response.token_ids])
        for row, response in enumerate(rollouts)
    ]
    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    loss_mask = torch.zeros(len(rows), width)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)] = torch.from_numpy(tokens.astype(np.int64))
        mask[row, : len(tokens)] = 1
        loss_mask[row, len(tokens) - len(rollouts.token_ids[row]) : len(tokens)] = torch.from_numpy(
            rollouts.origins[row].astype(np.float32)
        )
    logits = policy.module(ids, attention_mask=mask).logits[:, :-1].float()
    logprobs = logits.log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
    return (logprobs * loss_mask[:, 1:]).sum(1), loss_mask[:, 1:].sum(1)


def written_out(loss, policy, start, rollouts):
    sums, counts = padded(policy, rollouts)
    scores = sums / counts if loss.length_normalised else sums
    if loss.reference:
        scores = scores - padded(start, rollouts)[0].detach()
    d = scores[0::2] - scores[1::2]
    h, e = loss.beta * d - loss.target_margin, loss.label_smoothing
    values = {
        "sigmoid": -(1 - e) * F.logsigmoid(h) - e * F.logsigmoid(-h),
        "ipo": (d - 1 / (2 * loss.beta)) ** 2,
        "hinge": F.relu(1 - h),
    }[loss.kind]
    return (values - loss.nll * sums[0::2] / counts[0::2]).mean()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    "settings", [{}, {"row_tokens": 16, "micro_batch_tokens": 16}, {"share_prompts": False}], ids=str
)
def test_gradient_and_loss_equal_the_padded_ones(name, settings):
    loss, rollouts = LOSSES[name], pairs()
    policy, start = tiny_policy(seed=3), tiny_policy(seed=4)
    reference = response_logprobs(rollouts, open_learner(start).logprobs(rollouts, SPEC)).reshape(-1, 2)
    expected = written_out(loss, policy, start, rollouts)
    parameters = dict(policy.module.named_parameters())
    grads = torch.autograd.grad(expected, list(parameters.values()))

    learner = open_learner(policy, **settings)
    logprobs = learner.logprobs(rollouts, SPEC)
    weighed = loss.weigh(rollouts, logprobs, reference)
    report = learner.update(replace(rollouts, logprobs=logprobs), weighed.advantages, PairLikelihood(), SPEC)
    assert weighed.loss == pytest.approx(expected.item(), rel=1e-5)
    assert relative_difference(gradients(learner), dict(zip(parameters, grads, strict=True))) < 1e-5
    assert report.metrics["mismatch/max_abs"] < 1e-4, "both passes read the same weights"


def test_the_start_needs_no_second_model():
    """Log-probabilities before the first step are those of a frozen copy after it."""
    rollouts = pairs()
    learner = open_learner(tiny_policy(), with_reference=True)
    before = learner.logprobs(rollouts, SPEC)
    weighed = LOSSES["dpo"].weigh(rollouts, before, response_logprobs(rollouts, before).reshape(-1, 2))
    assert weighed.loss == pytest.approx(np.log(2.0))
    assert weighed.metrics["preference/margin"] == 0.0
    learner.update(replace(rollouts, logprobs=before), weighed.advantages, PairLikelihood(), SPEC)
    after = learner.reference_logprobs(rollouts, SPEC)
    assert np.array_equal(after.values, before.values, equal_nan=True)
    moved = LOSSES["dpo"].weigh(
        rollouts, learner.logprobs(rollouts, SPEC), response_logprobs(rollouts, after).reshape(-1, 2)
    )
    assert moved.loss < weighed.loss
    assert moved.metrics["preference/accuracy"] == 1.0


def test_what_is_no_pair_is_refused():
    rollouts = make_rollouts((2, 1))
    with pytest.raises(ValueError, match="rollouts must be pairs"):
        LOSSES["dpo"].weigh(rollouts, rollouts.logprobs, None)
    with pytest.raises(ValueError, match="reference must be given"):
        LOSSES["dpo"].weigh(pairs(), pairs().logprobs, None)
