import numpy as np
import pytest
import torch
from tiny_policy import make_rollouts, tiny_policy
from torch.nn.functional import scaled_dot_product_attention

from thinkrl.learning import branch_attention as module
from thinkrl.learning.branch_attention import branch_attention, branch_buckets, scores_computed
from thinkrl.learning.packing import pack, rollout_paths
from thinkrl.learning.scorer import Scorer
from thinkrl.sampling.sampler import SamplingSpec


def packed(sizes=(4, 3, 5), row_tokens=60):
    rollouts = make_rollouts(sizes, given=True)
    return pack(rollout_paths(rollouts, np.arange(len(rollouts))), row_tokens, share=True)


def visible(rows):
    """What tokens of rows end to end see of each other."""
    return torch.block_diag(*(torch.from_numpy(row.visible()) for row in rows)).bool()


def tensors(rows, heads=6, groups=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    length = sum(map(len, rows))
    return [
        torch.randn(1, n, length, 8, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for n in (heads, groups, groups)
    ]


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("scaling", [None, 0.7])
@pytest.mark.parametrize(("tile", "scores"), [(128, 1 << 17), (2, 1 << 17), (5, 1), (5, 60)])
def test_values_and_gradients_equal_attention_with_the_dense_mask(groups, scaling, tile, scores, monkeypatch):
    monkeypatch.setattr(module, "TILE", tile)
    monkeypatch.setattr(module, "SCORES", scores)
    rows = packed()
    assert len(rows) > 1
    q, k, v = tensors(rows, groups=groups)
    weights = torch.linspace(-1, 1, q.numel(), dtype=torch.float64).view(1, -1, 6, 8)

    expected = scaled_dot_product_attention(q, k, v, attn_mask=visible(rows), scale=scaling, enable_gqa=True).transpose(
        1, 2
    )
    expected_gradients = torch.autograd.grad((weights * expected).sum(), (q, k, v))
    output, _ = branch_attention(torch.nn.Identity(), q, k, v, None, buckets=branch_buckets(rows), scaling=scaling)
    gradients = torch.autograd.grad((weights * output).sum(), (q, k, v))
    assert torch.allclose(output, expected, atol=1e-12)
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        assert torch.allclose(gradient, other, atol=1e-12)


def test_half_precision_rounds_little_more_than_the_output():
    """Scores are made in float32: their rounding to bfloat16 would show."""
    rows = packed()
    exact = tensors(rows)
    half = [x.detach().bfloat16() for x in exact]
    buckets = branch_buckets(rows)
    output, _ = branch_attention(torch.nn.Identity(), *half, None, buckets=buckets)
    wide, _ = branch_attention(torch.nn.Identity(), *(x.double() for x in half), None, buckets=buckets)
    assert output.dtype == torch.bfloat16
    assert (output.double() - wide).abs().max() <= wide.abs().max() * 2**-8  # the rounding of the output alone


def test_half_precision_gradients_are_as_near_the_exact_ones_as_those_of_torch():
    rows = packed()
    half = [x.detach().bfloat16().requires_grad_() for x in tensors(rows)]
    wide = [x.detach().double().requires_grad_() for x in half]
    buckets = branch_buckets(rows)

    def dense(q, k, v):
        return scaled_dot_product_attention(q, k, v, attn_mask=visible(rows), enable_gqa=True).transpose(1, 2)

    def ours(q, k, v):
        return branch_attention(torch.nn.Identity(), q, k, v, None, buckets=buckets)[0]

    def gradients(attention, parts):
        output = attention(*parts)
        weights = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view_as(output)
        return torch.autograd.grad((weights * output).sum(), parts)

    for found, theirs, exact in zip(gradients(ours, half), gradients(dense, half), gradients(dense, wide), strict=True):
        assert (found.double() - exact).norm() < 1.2 * (theirs.double() - exact).norm() < 0.01 * exact.norm()


@pytest.mark.parametrize("tile", [3, 128])
def test_tiles_of_similar_length_share_a_bucket(tile, monkeypatch):
    monkeypatch.setattr(module, "TILE", tile)
    rows = packed()
    covered = []
    for bucket in branch_buckets(rows):
        real = torch.arange(len(bucket.queries)) if bucket.real is None else bucket.real
        covered.append(bucket.queries[real])
        sizes = torch.bincount(real // len(bucket.later), minlength=bucket.count)
        assert sizes.max() < 2 * sizes.min()
        assert len(bucket.later) <= tile
    together = torch.cat(covered)
    assert together.sort().values.tolist() == list(range(sum(map(len, rows))))


def test_scores_grow_with_what_is_seen_and_not_with_the_square_of_the_row(monkeypatch):
    monkeypatch.setattr(module, "TILE", 4)
    rollouts = make_rollouts((24,), given=True)
    (row,) = pack(rollout_paths(rollouts, np.arange(24)), 4096, share=True)
    seen = int(row.visible().sum())
    assert seen <= scores_computed([row]) <= seen + 4 * len(row)
    assert scores_computed([row, row]) == 2 * scores_computed([row])
    assert scores_computed([row]) < len(row) ** 2 / 4


def test_scores_at_a_time_are_bounded(monkeypatch):
    monkeypatch.setattr(module, "SCORES", 200)
    for bucket in branch_buckets(packed()):
        keys = len(bucket.keys) // bucket.count
        assert bucket.count == 1 or bucket.count * len(bucket.later) * keys <= 200


@pytest.mark.parametrize("written_out", [True, False])
def test_the_model_keeps_its_own_attention(written_out, monkeypatch):
    if not written_out:
        monkeypatch.setattr("thinkrl.learning.scorer.writes_out", lambda _: False)
    policy = tiny_policy()
    rows = packed()
    ids = torch.arange(6)[None]
    with torch.no_grad():
        before = policy.module(ids).logits
        Scorer(policy.module, 64, branches=True)(rows, SamplingSpec())
        assert policy.module.config._attn_implementation == "sdpa"
        assert torch.equal(policy.module(ids).logits, before)
