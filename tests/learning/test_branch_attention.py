import numpy as np
import pytest
import torch
from tiny_policy import make_rollouts, tiny_policy
from torch.nn.functional import scaled_dot_product_attention

from thinkrl.learning import branch_attention as module
from thinkrl.learning.branch_attention import branch_attention, branch_buckets
from thinkrl.learning.packing import pack, rollout_paths
from thinkrl.learning.scorer import Scorer
from thinkrl.sampling.sampler import SamplingSpec


def packed(sizes=(4, 3, 5), row_tokens=60):
    rollouts = make_rollouts(sizes, given=True)
    rows = pack(rollout_paths(rollouts, np.arange(len(rollouts))), row_tokens, share=True)
    return rows, max(len(row) for row in rows)


def visible(rows, length):
    table = torch.eye(length, dtype=torch.bool).repeat(len(rows), 1, 1)
    for index, row in enumerate(rows):
        table[index, : len(row), : len(row)] = torch.from_numpy(row.visible())
    return table[:, None]


def tensors(rows, length, heads=6, groups=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(len(rows), n, length, 8, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for n in (heads, groups, groups)
    ]


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("scaling", [None, 0.7])
def test_values_and_gradients_equal_attention_with_the_dense_mask(groups, scaling):
    rows, length = packed()
    assert len({len(row) for row in rows}) > 1  # some row is padded
    q, k, v = tensors(rows, length, groups=groups)
    real = torch.zeros(len(rows), length, 1, 1, dtype=torch.float64)
    for index, row in enumerate(rows):
        real[index, : len(row)] = 1
    weights = torch.linspace(-1, 1, q.numel(), dtype=torch.float64).view(len(rows), length, 6, 8) * real

    expected = scaled_dot_product_attention(
        q, k, v, attn_mask=visible(rows, length), scale=scaling, enable_gqa=True
    ).transpose(1, 2)
    expected_gradients = torch.autograd.grad((weights * expected).sum(), (q, k, v))
    output, _ = branch_attention(
        torch.nn.Identity(), q, k, v, None, buckets=branch_buckets(rows, length), scaling=scaling
    )
    gradients = torch.autograd.grad((weights * output).sum(), (q, k, v))
    assert torch.allclose(output * real, expected * real, atol=1e-12)
    assert not (output * (1 - real)).any()
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        assert torch.allclose(gradient, other, atol=1e-12)


def test_half_precision_tensors_are_multiplied_in_float32():
    rows, length = packed()
    exact = tensors(rows, length)
    half = [x.detach().bfloat16() for x in exact]
    buckets = branch_buckets(rows, length)
    output, _ = branch_attention(torch.nn.Identity(), *half, None, buckets=buckets)
    wide, _ = branch_attention(torch.nn.Identity(), *(x.double() for x in half), None, buckets=buckets)
    assert output.dtype == torch.bfloat16
    assert (output.double() - wide).abs().max() <= wide.abs().max() * 2**-8  # the rounding of the output alone


def test_branches_of_similar_length_share_a_bucket():
    rows, length = packed()
    buckets = branch_buckets(rows, length)
    covered = torch.cat([bucket.queries[bucket.real] for bucket in buckets])
    assert len(covered) == len(covered.unique()) == sum(len(row) for row in rows)
    for bucket in buckets:
        sizes = bucket.real.sum(dim=1)
        assert sizes.max() < 2 * sizes.min()


def test_long_branches_go_back_to_the_dense_mask(monkeypatch):
    rows, length = packed()
    assert branch_buckets(rows, length) is not None
    monkeypatch.setattr(module, "LONGEST_BRANCH", 5)
    assert branch_buckets(rows, length) is None


def test_the_model_keeps_its_own_attention():
    policy = tiny_policy()
    rows, _ = packed()
    ids = torch.arange(6)[None]
    with torch.no_grad():
        before = policy.module(ids).logits
        Scorer(policy.module, 64, branches=True)(rows, SamplingSpec())
        assert policy.module.config._attn_implementation == "sdpa"
        assert torch.equal(policy.module(ids).logits, before)
