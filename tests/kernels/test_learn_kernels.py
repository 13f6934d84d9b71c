"""The compiled parts of a learner's pass: equal to their equations in float64, and to the plain torch path."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from thinkrl.kernels.learn import learn_kernels
from thinkrl.learning import branch_attention
from thinkrl.learning.block_body import _Gate, _Normal, _Rotation
from thinkrl.learning.branch_attention import attend, branch_buckets
from thinkrl.learning.packing import Path, pack

pytestmark = pytest.mark.skipif(learn_kernels(torch.zeros(1)) is None, reason="there is no C compiler")
FLOAT, HALF = torch.float32, torch.bfloat16


def drawn(*shape, seed=0, dtype=FLOAT):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def with_gradients(function, inputs, weights):
    """Output and gradients of sum(weights * output), for `inputs` that are given anew."""
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    output = function(*inputs)
    return [output.detach(), *torch.autograd.grad((weights.to(output.dtype) * output).sum(), inputs)]


def assert_equal(found, expected, limit=1e-5):
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        assert (ours.double() - theirs).norm() <= limit * theirs.norm()


def assert_as_near(function, plain, exact, inputs, weights):
    """In bfloat16 the kernels are no further from float64 than torch's operations, but for a quarter of chance."""
    wanted = with_gradients(exact, [x.double() for x in inputs], weights)
    for ours, torchs, true in zip(
        with_gradients(function, inputs, weights), with_gradients(plain, inputs, weights), wanted, strict=True
    ):
        assert ours.dtype == HALF
        assert (ours.double() - true).norm() < 1.25 * (torchs.double() - true).norm()


@pytest.mark.parametrize("shape", [(5, 576), (1, 7), (40, 3, 64), (3, 2)])
def test_norm(shape):
    x, weight, weights = drawn(*shape), drawn(shape[-1], seed=1), drawn(*shape, seed=2)
    found = with_gradients(lambda x, w: _Normal.apply(x, w, 1e-5, learn_kernels(x)), (x, weight), weights)
    exact = lambda x, w: functional.rms_norm(x, (shape[-1],), w, 1e-5)  # noqa: E731
    assert_equal(found, with_gradients(exact, (x.double(), weight.double()), weights))
    assert_as_near(
        lambda x, w: _Normal.apply(x, w, 1e-5, learn_kernels(x)),
        lambda x, w: _Normal.apply(x, w, 1e-5),
        exact,
        (x.to(HALF), weight.to(HALF)),
        weights,
    )


@pytest.mark.parametrize(("tokens", "heads", "d"), [(6, 9, 64), (1, 1, 2), (5, 3, 80)])
def test_rotation(tokens, heads, d):
    x, weights = drawn(tokens, heads, d), drawn(tokens, heads, d, seed=2)
    angles = drawn(tokens, 1, d // 2, seed=1).repeat(1, 1, 2)
    cos, sin = angles.cos(), angles.sin()

    def exact(x):
        a, b = x.chunk(2, -1)
        return x * cos.to(x.dtype) + torch.cat([-b, a], -1) * sin.to(x.dtype)

    found = with_gradients(lambda x: _Rotation.apply(x, cos, sin, learn_kernels(x)), (x,), weights)
    assert_equal(found, with_gradients(exact, (x.double(),), weights))
    half = cos.to(HALF), sin.to(HALF)
    cos, sin = (table.double() for table in half)
    assert_as_near(
        lambda x: _Rotation.apply(x, *half, learn_kernels(x)), lambda x: _Rotation.apply(x, *half), exact,
        (x.to(HALF),), weights,
    )  # fmt: skip


@pytest.mark.parametrize("size", [1, 511, 513, 3000])
def test_gate(size):
    gate, up, weights = drawn(size) * 10, drawn(size, seed=1), drawn(size, seed=2)
    if size > 1:
        gate[:4] = torch.tensor([-200.0, 200.0, 0.0, -0.0])  # e^200 is not a float32
    exact = lambda g, u: functional.silu(g) * u  # noqa: E731
    found = with_gradients(lambda g, u: _Gate.apply(g, u, learn_kernels(g)), (gate, up), weights)
    assert_equal(found, with_gradients(exact, (gate.double(), up.double()), weights))
    if size > 500:
        assert_as_near(
            lambda g, u: _Gate.apply(g, u, learn_kernels(g)), _Gate.apply, exact, (gate.to(HALF), up.to(HALF)), weights
        )


@settings(deadline=None, max_examples=30)
@given(
    words=st.sampled_from([1, 2, 511, 512, 1300]),
    temperature=st.sampled_from([0.6, 1.0, 1.7]),
    spread=st.sampled_from([0.1, 3.0, 40.0]),
    with_entropy=st.booleans(),
    dropped=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_scores_of_tokens(words, temperature, spread, with_entropy, dropped, seed):
    logits = drawn(4, words, seed=seed) * spread
    targets = torch.randint(0, words, (4,), generator=torch.Generator().manual_seed(seed))
    if dropped and words > 1:
        logits[0, (targets[0] + 1) % words] = -torch.inf  # a word that cannot come
    a, b = drawn(4, seed=seed + 1), drawn(4, seed=seed + 2)
    wide = logits.double().requires_grad_()
    log_p = (wide / temperature).log_softmax(-1)
    entropy = -(log_p.exp() * log_p.masked_fill(log_p == -torch.inf, 0)).sum(-1)
    expected = log_p.gather(1, targets[:, None])[:, 0]
    total = (a * expected).sum() + ((b * entropy).sum() if with_entropy else 0)
    (gradient,) = torch.autograd.grad(total, wide)

    kernels = learn_kernels(logits)
    logprobs, normalisers, entropies = kernels.scores(logits, targets, temperature, with_entropy=with_entropy)
    scale = 1e-6 * max(1.0, float(logits[logits.isfinite()].abs().max()) / temperature)
    assert torch.allclose(logprobs.double(), expected, atol=4 * scale)
    assert torch.allclose(normalisers.double(), (wide / temperature).logsumexp(-1), atol=4 * scale)
    if entropies is not None:
        assert torch.allclose(entropies.double(), entropy, atol=1e-5)
    kernels.scores_to_gradients(
        logits, targets, temperature, normalisers, a, None if entropies is None else (entropies, b)
    )
    assert (logits - gradient).norm() <= 2e-5 * max(1.0, spread / 3) * (gradient.norm() + a.norm())


def trie(seed, responses=5, prompt=9, longest=23):
    """Rows of prompts with responses of unequal length, some alike for a while."""
    random = np.random.default_rng(seed)
    paths, start = [], 0
    for _ in range(2):
        beginning = random.integers(3, 60, prompt)
        for _ in range(responses):
            own = random.integers(3, 6, int(random.integers(1, longest)))
            read = np.concatenate([beginning, own]).astype(np.int32)
            paths.append(
                Path(read, np.arange(prompt - 1, len(read)), np.full(len(own) + 1, 7, np.int32),
                     start + np.arange(len(own) + 1), read.astype(np.int64))
            )  # fmt: skip
            start += len(own) + 1
    return pack(paths, 90, share=True)


@pytest.mark.parametrize(("heads", "groups", "d"), [(9, 3, 64), (4, 4, 8), (2, 1, 80)])
@pytest.mark.parametrize(("tile", "scores"), [(128, 1 << 17), (4, 1 << 17), (7, 60)])
def test_attention_along_branches(heads, groups, d, tile, scores, monkeypatch):
    monkeypatch.setattr(branch_attention, "TILE", tile)
    monkeypatch.setattr(branch_attention, "SCORES", scores)
    rows = trie(3)
    buckets = branch_buckets(rows)
    assert tile < 128 or any(bucket.real is not None for bucket in buckets), "no tile is padded"
    length = sum(map(len, rows))
    inputs = [drawn(length, n, d, seed=i) for i, n in enumerate((heads, groups, groups))]
    weights = drawn(length, heads, d, seed=9)
    run = lambda q, k, v: attend(q, k, v, buckets, d**-0.5, learn_kernels(q))  # noqa: E731
    plain = lambda q, k, v: attend(q, k, v, buckets, d**-0.5)  # noqa: E731
    assert_equal(with_gradients(run, inputs, weights), with_gradients(plain, [x.double() for x in inputs], weights))
    assert_as_near(run, plain, plain, [x.to(HALF) for x in inputs], weights)


def test_the_number_of_threads_changes_no_bit():
    rows = trie(5)
    buckets, length = branch_buckets(rows), sum(map(len, rows))
    inputs = [drawn(length, n, 64, seed=i, dtype=HALF) for i, n in enumerate((9, 3, 3))]
    logits = drawn(9, 5000, dtype=HALF)
    targets = torch.arange(9)
    found = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            parts = with_gradients(
                lambda q, k, v: attend(q, k, v, buckets, 0.125, learn_kernels(q)), inputs, torch.ones(())
            )
            parts += with_gradients(
                lambda x, w: _Normal.apply(x, w, 1e-5, learn_kernels(x)),
                (drawn(37, 576, dtype=HALF), drawn(576, seed=1, dtype=HALF)), drawn(37, 576, seed=2),
            )  # fmt: skip
            parts += with_gradients(
                lambda g, u: _Gate.apply(g, u, learn_kernels(g)), (inputs[0], inputs[0]), torch.ones(())
            )
            parts += learn_kernels(logits).scores(logits, targets, 1.0, with_entropy=True)
            found.append(parts)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
