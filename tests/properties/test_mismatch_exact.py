"""The correction for a sampler that is not quite the learner, summed exactly over every response of two tokens."""

import itertools

import pytest
import torch

from thinkrl.algorithms.mismatch import ImportanceCorrection
from thinkrl.algorithms.objective import ClippedObjective
from thinkrl.algorithms.types import LossInputs

SIZE = 4
RESPONSES = list(itertools.product(range(SIZE), repeat=2))


def policies(seed=3, apart=0.7):
    """Learner parameters [2, size] (one softmax per position), and the sampler's log-probabilities."""
    generator = torch.Generator().manual_seed(seed)
    theta = torch.randn(2, SIZE, generator=generator, dtype=torch.float64)
    sampler = (theta + apart * torch.randn(2, SIZE, generator=generator, dtype=torch.float64)).log_softmax(-1)
    return theta.requires_grad_(), sampler


def advantages(by_token):
    generator = torch.Generator().manual_seed(8)
    table = torch.randn(len(RESPONSES), 2, generator=generator, dtype=torch.float64)
    return table if by_token else table[:, :1].expand(-1, 2)


def expected_gradient(correction, by_token=False, drawn_from_learner=False, apart=0.7):
    """sum_o q(o) grad loss(o): the expectation of the objective's gradient for samples from q."""
    theta, sampler = policies(apart=apart)
    ids = torch.tensor(RESPONSES)
    positions = torch.arange(2).expand_as(ids)
    logprobs = theta.log_softmax(-1)[positions, ids]
    sampled = sampler[positions, ids]
    chance = (logprobs.detach() if drawn_from_learner else sampled).sum(-1).exp()
    objective = ClippedObjective(clip_low=None, clip_high=None, aggregation="token", mismatch=correction)
    total = torch.zeros((), dtype=torch.float64)
    for row in range(len(RESPONSES)):
        inputs = LossInputs(
            logprobs=logprobs[row],
            old_logprobs=logprobs[row].detach(),
            advantages=advantages(by_token)[row],
            weights=torch.ones(2, dtype=torch.float64),
            response_ids=torch.zeros(2, dtype=torch.int64),
            response_count=1,
            sampler_logprobs=sampled[row],
        )
        total = total + chance[row] * objective(inputs).loss.total
    return torch.autograd.grad(total, theta)[0]


@pytest.mark.parametrize("by_token", [False, True])
@pytest.mark.parametrize("mode", ["clip", "mask"])
def test_uncut_sequence_weights_give_the_on_policy_gradient(mode, by_token):
    correction = ImportanceCorrection(level="sequence", mode=mode, cap=1e6)
    corrected = expected_gradient(correction, by_token)
    on_policy = expected_gradient(None, by_token, drawn_from_learner=True)
    assert torch.allclose(corrected, on_policy, atol=1e-12)
    assert not torch.allclose(expected_gradient(None, by_token), on_policy, atol=1e-2)


def test_uncut_token_weights_give_it_where_an_advantage_depends_on_its_own_token_alone():
    """Token weights leave the earlier tokens as the sampler drew them: exact only when those do not matter."""
    theta, sampler = policies()
    by_token = torch.randn(2, SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    correction = ImportanceCorrection(level="token", cap=1e6)
    loss = torch.zeros((), dtype=torch.float64)
    logprobs = theta.log_softmax(-1)
    for position, token in itertools.product(range(2), range(SIZE)):
        one = logprobs[position, token][None]
        weights = correction.weights(one, sampler[position, token][None], torch.zeros(1, dtype=torch.int64), 1)
        loss = loss - sampler[position, token].exp() * weights.values[0] * by_token[position, token] * one[0]
    exact = -(logprobs.exp() * by_token).sum()
    corrected, on_policy = (torch.autograd.grad(value, theta, retain_graph=True)[0] for value in (loss, exact))
    assert torch.allclose(corrected, on_policy, atol=1e-12)


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_a_cap_lies_between_no_correction_and_all_of_it(level):
    """Truncation costs bias, and less of it the higher the cap is."""
    on_policy = expected_gradient(ImportanceCorrection(level=level, cap=1e6))
    errors = [
        (expected_gradient(ImportanceCorrection(level=level, cap=cap)) - on_policy).norm().item()
        for cap in (1.0, 1.5, 3.0, 1e6)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 1e-2
    assert errors[-1] == 0


def test_without_a_mismatch_nothing_changes():
    plain = expected_gradient(None, apart=0.0)
    for level, mode in itertools.product(("token", "sequence"), ("clip", "mask")):
        corrected = expected_gradient(ImportanceCorrection(level=level, mode=mode, cap=1.0), apart=0.0)
        assert torch.allclose(corrected, plain, atol=1e-12)


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("level", "mode", "expected", "cut"),
    [
        # Ratios 4, 1/2 | 1.5, 1.2; products 2 and 1.8.
        ("token", "clip", [1.9, 0.5, 1.5, 1.2], [True, False, False, False]),
        ("token", "mask", [0.0, 0.0, 1.5, 1.2], [True, True, False, False]),
        ("sequence", "clip", [1.9, 1.9, 1.8, 1.8], [True, True, False, False]),
        ("sequence", "mask", [0.0, 0.0, 1.8, 1.8], [True, True, False, False]),
    ],
)
def test_weights_by_hand(level, mode, expected, cut):
    learner = tensor([0.4, 0.1, 0.3, 0.6]).log().requires_grad_()
    sampler = tensor([0.1, 0.2, 0.2, 0.5]).log()
    weights = ImportanceCorrection(level=level, mode=mode, cap=1.9).weights(
        learner, sampler, torch.tensor([0, 0, 1, 1]), 2
    )
    assert weights.values.tolist() == pytest.approx(expected)
    assert weights.cut.tolist() == cut
    assert not weights.values.requires_grad


def test_a_floor_of_its_own():
    correction = ImportanceCorrection(mode="mask", cap=2.0, floor=0.3)
    weights = correction.weights(tensor([0.4, 0.1]).log(), tensor([1.0, 0.5]).log(), torch.tensor([0, 1]), 2)
    assert weights.values.tolist() == pytest.approx([0.4, 0.0])


@pytest.mark.parametrize("sampler", [-1e4, 1e4])
def test_far_apart_stays_finite(sampler):
    for level, mode in itertools.product(("token", "sequence"), ("clip", "mask")):
        weights = ImportanceCorrection(level=level, mode=mode).weights(
            tensor([0.0, 0.0]), tensor([sampler, 0.0]), torch.tensor([0, 0]), 1
        )
        assert torch.isfinite(weights.values).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cap": 0.5}, r"^cap must be at least 1"),
        ({"cap": float("nan")}, r"^cap must be at least 1"),
        ({"floor": 0.5}, r"^floor must be null when mode is 'clip'"),
        ({"mode": "mask", "floor": 1.5}, r"^floor must be between 0 and 1"),
    ],
)
def test_bad_settings_name_the_field(settings, message):
    with pytest.raises(ValueError, match=message):
        ImportanceCorrection(**settings)
