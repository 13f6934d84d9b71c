import math

import numpy as np
import pytest
import torch

from thinkrl.algorithms.aggregation import aggregate
from thinkrl.algorithms.clipping import clipped_surrogate
from thinkrl.algorithms.kl import KLLoss
from thinkrl.algorithms.objective import ClippedObjective
from thinkrl.algorithms.ratio import LOG_RATIO_LIMIT, importance_ratio
from thinkrl.algorithms.types import LossInputs


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def inputs_of(logprobs, old, advantages, ids, **extra):
    return LossInputs(
        logprobs=logprobs if isinstance(logprobs, torch.Tensor) else tensor(logprobs),
        old_logprobs=tensor(old),
        advantages=tensor(advantages),
        weights=extra.pop("weights", torch.ones(len(ids), dtype=torch.float64)),
        response_ids=torch.tensor(ids),
        response_count=max(ids) + 1,
        **extra,
    )


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected", "low", "high"),
    [
        (1.5, 2.0, 2.56, False, True),  # above 1 + 0.28 with A > 0: 1.28 * 2
        (1.5, -2.0, -3.0, False, False),  # above with A < 0: the minimum keeps the ratio
        (0.5, 2.0, 1.0, False, False),  # below with A > 0: the minimum keeps the ratio
        (0.5, -2.0, -1.6, True, False),  # below 1 - 0.2 with A < 0: 0.8 * -2
        (1.1, 2.0, 2.2, False, False),
        (4.0, -2.0, -6.0, False, False),  # dual clip: at least 3 * -2
        (4.0, 2.0, 2.56, False, True),  # dual clip leaves positive advantages alone
        (4.0, 0.0, 0.0, False, False),
    ],
)
def test_clipping_by_hand(ratio, advantage, expected, low, high):
    values, clipped_low, clipped_high = clipped_surrogate(tensor([ratio]), tensor([advantage]), 0.2, 0.28, 3.0)
    assert values.item() == pytest.approx(expected, abs=1e-12)
    assert (clipped_low.item(), clipped_high.item()) == (low, high)


@pytest.mark.parametrize("advantage", [-2.0, 2.0])
def test_a_clipped_token_has_no_gradient_and_is_counted(advantage):
    ratio = tensor([0.5, 0.9, 1.1, 1.5]).requires_grad_()
    values, low, high = clipped_surrogate(ratio, tensor([advantage] * 4), 0.2, 0.2)
    (gradient,) = torch.autograd.grad(values.sum(), ratio)
    assert torch.equal(gradient == 0, low | high)


def test_without_bounds_the_surrogate_is_the_plain_product():
    values, low, high = clipped_surrogate(tensor([0.1, 9.0]), tensor([-1.0, 2.0]), None, None)
    assert values.tolist() == [-0.1, 18.0]
    assert not (low | high).any()


def test_one_bound_alone():
    values, _, _ = clipped_surrogate(tensor([0.1, 9.0]), tensor([-1.0, 2.0]), None, 0.5)
    assert values.tolist() == [-0.1, 3.0]


def test_sequence_ratio_by_hand():
    """Response 0 has token ratios 1.2 and 0.9, so s = sqrt(1.08) = 1.0392304845; response 1 has one of 0.5."""
    old = tensor([-1.0, -2.0, -0.5])
    new = old + torch.log(tensor([1.2, 0.9, 0.5]))
    ratio = importance_ratio(new, old, torch.tensor([0, 0, 1]), 2, "sequence")
    assert ratio.tolist() == pytest.approx([1.0392304845, 1.0392304845, 0.5], abs=1e-9)
    assert importance_ratio(new, old, torch.tensor([0, 0, 1]), 2, "token").tolist() == pytest.approx([1.2, 0.9, 0.5])


def test_the_gradient_of_the_sequence_ratio_is_that_of_gspo():
    """Equation 5 of the paper differentiated as it stands: (1/s) sum_i min(s_i A_i, clip(s_i) A_i)."""
    generator = torch.Generator().manual_seed(0)
    ids, lengths = torch.tensor([0, 0, 0, 1, 2, 2]), tensor([3, 1, 2])
    old = -torch.rand(6, generator=generator, dtype=torch.float64)
    new = (old + 0.2 * torch.randn(6, generator=generator, dtype=torch.float64)).requires_grad_()
    advantages = tensor([1.0, -0.7, 0.4])

    s = torch.exp(torch.zeros(3, dtype=torch.float64).index_add(0, ids, new - old) / lengths)
    expected = -torch.minimum(s * advantages, s.clamp(0.9, 1.1) * advantages).mean()
    (expected_gradient,) = torch.autograd.grad(expected, new)

    objective = ClippedObjective(clip_low=0.1, clip_high=0.1, ratio="sequence", aggregation="sequence")
    loss = objective(inputs_of(new, old.tolist(), advantages[ids].tolist(), ids.tolist())).loss
    (gradient,) = torch.autograd.grad(loss.total / loss.count, new)
    assert (loss.total / loss.count).item() == pytest.approx(expected.item(), abs=1e-12)
    assert torch.allclose(gradient, expected_gradient, atol=1e-12)


def test_ratios_of_impossible_tokens_stay_finite():
    ratio = importance_ratio(tensor([0.0, -500.0]), tensor([-500.0, 0.0]), torch.tensor([0, 1]), 2, "token")
    assert ratio.tolist() == pytest.approx([math.exp(LOG_RATIO_LIMIT), math.exp(-LOG_RATIO_LIMIT)])
    assert torch.isfinite(ratio.float() * 0.0).all()


@pytest.mark.parametrize(
    ("how", "length", "total", "count"),
    [("token", None, 15.0, 4.0), ("sequence", None, 2.0 + 9.0, 2.0), ("constant", 10, 1.5, 2.0)],
)
def test_aggregations_by_hand(how, length, total, count):
    """Response 0 has losses 1, 2, 3; response 1 has 9."""
    out = aggregate(tensor([1.0, 2.0, 3.0, 9.0]), torch.tensor([0, 0, 0, 1]), 2, how, length)
    assert (out.total.item(), out.count) == (pytest.approx(total), count)


def numpy_loss(objective, logprobs, old, reference, entropies, advantages, weights, ids):
    """The objective once more, token by token from its equation."""
    per_token = np.zeros(len(ids))
    log_ratio = logprobs - old
    for t, i in enumerate(ids):
        if objective.ratio == "sequence":
            log_r = np.mean([log_ratio[u] for u in range(len(ids)) if ids[u] == i])
        else:
            log_r = log_ratio[t]
        r, a = math.exp(log_r), advantages[t]
        gain = min(r * a, min(max(r, 1 - objective.clip_low), 1 + objective.clip_high) * a)
        if objective.dual_clip is not None and a < 0:
            gain = max(gain, objective.dual_clip * a)
        loss = -gain - objective.entropy_bonus * entropies[t]
        if objective.kl is not None:
            d = logprobs[t] - reference[t]
            loss += objective.kl.coefficient * {"k2": d * d / 2, "k3": math.exp(-d) - 1 + d}[objective.kl.estimator]
        per_token[t] = weights[t] * loss
    responses = sorted(set(ids))
    if objective.aggregation == "token":
        return per_token.sum() / len(ids)
    lengths = {i: ids.count(i) if objective.aggregation == "sequence" else objective.constant_length for i in responses}
    return sum(per_token[t] / lengths[i] for t, i in enumerate(ids)) / len(responses)


@pytest.mark.parametrize("ratio", ["token", "sequence"])
@pytest.mark.parametrize(("aggregation", "length"), [("token", None), ("sequence", None), ("constant", 7)])
@pytest.mark.parametrize("kl", [None, KLLoss(0.3, "k2"), KLLoss(0.3, "k3")])
@pytest.mark.parametrize(("dual_clip", "entropy_bonus"), [(None, 0.0), (1.3, 0.05)])
def test_against_an_independent_implementation(ratio, aggregation, length, kl, dual_clip, entropy_bonus):
    rng = np.random.default_rng(7)
    ids = [0] * 5 + [1] + [2] * 4
    logprobs, reference = -3 * rng.random(10), -3 * rng.random(10)
    old = logprobs + rng.normal(scale=0.4, size=10)
    advantages, weights, entropies = rng.normal(size=10), rng.random(10), rng.random(10)
    objective = ClippedObjective(
        clip_low=0.2, clip_high=0.28, dual_clip=dual_clip, ratio=ratio, aggregation=aggregation,
        constant_length=length, kl=kl, entropy_bonus=entropy_bonus,
    )  # fmt: skip
    inputs = inputs_of(
        logprobs.tolist(), old, advantages, ids, weights=tensor(weights),
        reference_logprobs=tensor(reference), entropies=tensor(entropies),
    )  # fmt: skip
    loss = objective(inputs).loss
    expected = numpy_loss(objective, logprobs, old, reference, entropies, advantages, weights, ids)
    assert loss.total.item() / loss.count == pytest.approx(expected, abs=1e-10)


def test_on_policy_the_gradient_is_reinforce():
    logprobs = tensor([-1.0, -2.0, -0.3]).requires_grad_()
    objective = ClippedObjective(clip_low=None, clip_high=None, aggregation="constant", constant_length=1)
    loss = objective(inputs_of(logprobs, logprobs.tolist(), [2.0, 2.0, -1.0], [0, 0, 1])).loss
    (gradient,) = torch.autograd.grad(loss.total, logprobs)
    assert gradient.tolist() == [-2.0, -2.0, 1.0]


def test_metrics_by_hand():
    """Ratios 1.5 (clipped above), 0.5 (clipped below), 1.0."""
    old = [-1.0, -1.0, -1.0]
    new = [-1 + math.log(1.5), -1 + math.log(0.5), -1.0]
    objective = ClippedObjective(kl=KLLoss(1.0, "k2"), entropy_bonus=0.5)
    out = objective(
        inputs_of(new, old, [1.0, -1.0, 1.0], [0, 0, 1], reference_logprobs=tensor(old), entropies=tensor([1.0, 2, 3]))
    )
    means = {name: (m.total / m.count).item() for name, m in out.metrics.items()}
    assert means == pytest.approx(
        {
            "ratio": 1.0,
            "clip/low": 1 / 3,
            "clip/high": 1 / 3,
            # |1.5 - 0.5| and |1|; of these |(1.2 - 1.5) * 1| and 0 are cut
            "clip/raw": 1.0,
            "clip/correction": 0.15,
            # r - 1 - log r: 0.5 - 0.4054651081, -0.5 + 0.6931471806, 0
            "kl/old": (0.0945348919 + 0.1931471806) / 3,
            # (0.4054651081^2 + 0.6931471806^2) / 2
            "kl/reference": (0.0822009769 + 0.2402265070) / 3,
            "entropy": 2.0,
        },
        abs=1e-9,
    )
    assert not any(m.total.requires_grad for m in out.metrics.values())


def test_what_is_not_asked_for_is_not_needed():
    assert not ClippedObjective().needs_reference
    assert not ClippedObjective(kl=KLLoss(0.0)).needs_reference
    assert ClippedObjective(kl=KLLoss(0.1)).needs_reference
    assert not ClippedObjective().needs_entropy
    assert ClippedObjective(entropy_bonus=-0.1).needs_entropy
    inputs = inputs_of([-1.0], [-1.0], [1.0], [0])
    assert ClippedObjective(kl=KLLoss(0.0))(inputs).loss.total.item() == -1.0
    with pytest.raises(ValueError, match="reference_logprobs must be given"):
        ClippedObjective(kl=KLLoss(0.1))(inputs)
    with pytest.raises(ValueError, match="entropies must be given"):
        ClippedObjective(entropy_bonus=0.1)(inputs)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clip_low": 1.5}, "clip_low must be between 0 and 1"),
        ({"clip_high": -0.1}, "clip_high must be 0 or more"),
        ({"dual_clip": 1.0}, "dual_clip must be above 1"),
        ({"aggregation": "constant"}, "constant_length must be given when"),
        ({"constant_length": 5}, "constant_length must be given when"),
        ({"aggregation": "constant", "constant_length": 0}, "constant_length must be at least 1"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ClippedObjective(**settings)


def test_kl_terms_refuse_what_does_nothing():
    with pytest.raises(ValueError, match="zero expected gradient"):
        KLLoss(0.1, "k1")
    with pytest.raises(ValueError, match="coefficient must be 0 or more"):
        KLLoss(-0.1)
