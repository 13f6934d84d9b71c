"""Expected values and gradients of the KL estimators, summed exactly over a small softmax."""

import numpy as np
import pytest
import torch

from thinkrl.algorithms.kl import KLReward, kl_estimate
from thinkrl.rollouts.prompt import Prompt
from thinkrl.rollouts.store import FinishReason, Group, Response, Rollouts


def distributions(seed=0, size=6):
    generator = torch.Generator().manual_seed(seed)
    theta = torch.randn(size, generator=generator, dtype=torch.float64).requires_grad_()
    reference = torch.randn(size, generator=generator, dtype=torch.float64).log_softmax(0)
    return theta, theta.log_softmax(0), reference


def expected_loss_gradient(estimator):
    """sum_o pi(o) grad k(o), with pi(o) held fixed as it is for samples."""
    theta, logprobs, reference = distributions()
    mean = (logprobs.exp().detach() * kl_estimate(logprobs, reference, estimator)).sum()
    return torch.autograd.grad(mean, theta)[0]


def exact_gradient(direction):
    theta, p, q = distributions()
    divergence = (p.exp() * (p - q)).sum() if direction == "pi||ref" else (q.exp() * (q - p)).sum()
    return torch.autograd.grad(divergence, theta)[0]


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_values_of_k1_and_k3_are_unbiased(estimator):
    _, p, q = distributions()
    mean = (p.exp() * kl_estimate(p, q, estimator)).sum()
    assert mean.item() == pytest.approx((p.exp() * (p - q)).sum().item(), abs=1e-12)


def test_k1_in_the_loss_has_no_expected_gradient():
    assert expected_loss_gradient("k1").abs().max() < 1e-12


def test_k2_in_the_loss_follows_kl_to_the_reference():
    assert torch.allclose(expected_loss_gradient("k2"), exact_gradient("pi||ref"), atol=1e-12)


def test_k3_in_the_loss_follows_kl_from_the_reference():
    assert torch.allclose(expected_loss_gradient("k3"), exact_gradient("ref||pi"), atol=1e-12)
    assert not torch.allclose(expected_loss_gradient("k3"), exact_gradient("pi||ref"), atol=1e-3)


def all_outcomes(logprobs, reference):
    """One response of one token for each outcome."""
    size = len(logprobs)
    one, zero = np.ones(1, dtype=np.uint8), np.zeros(1, dtype=np.int32)
    group = Group("g", Prompt("p", ()), np.array([0], dtype=np.int32))
    rollouts = Rollouts.from_responses(
        [group],
        [
            Response(f"r{o}", "g", "", FinishReason.STOP, np.array([o], dtype=np.int32), one,
                     np.zeros(1, np.float32), np.zeros(1, np.float32), zero, zero)
            for o in range(size)
        ],
    )  # fmt: skip
    column = rollouts.token_ids.with_values
    return rollouts, column(logprobs.detach().numpy()), column(reference.numpy())


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_rewards_and_losses_hold_the_same_estimates(estimator):
    _, p, q = distributions()
    rewards = KLReward(0.7, estimator).token_rewards(*all_outcomes(p, q))
    assert np.allclose(rewards.values, -0.7 * kl_estimate(p, q, estimator).detach().numpy(), atol=1e-12)


def test_k1_in_the_reward_follows_kl_to_the_reference():
    """Policy gradient of the rewards: sum_o pi(o) r(o) grad log pi(o) = -beta grad KL(pi || ref)."""
    theta, p, q = distributions()
    rewards = torch.from_numpy(KLReward(0.7).token_rewards(*all_outcomes(p, q)).values)
    (gradient,) = torch.autograd.grad((p.exp().detach() * rewards * p).sum(), theta)
    assert torch.allclose(gradient, -0.7 * exact_gradient("pi||ref"), atol=1e-12)


def test_a_far_reference_stays_finite():
    estimate = kl_estimate(torch.tensor([-500.0, 0.0]), torch.tensor([0.0, -500.0]), "k3")
    assert torch.isfinite(estimate).all()
    with pytest.raises(ValueError, match="coefficient must be 0 or more"):
        KLReward(-1.0)
