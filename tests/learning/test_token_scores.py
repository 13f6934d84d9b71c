import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from thinkrl.learning import logprobs as module
from thinkrl.learning.logprobs import processed_logits, token_scores
from thinkrl.sampling.distribution import processed_logprobs
from thinkrl.sampling.sampler import SamplingSpec

SPECS = [
    SamplingSpec(),
    SamplingSpec(temperature=0.6),
    SamplingSpec(temperature=1.3, top_k=7),
    SamplingSpec(top_p=0.7),
    SamplingSpec(temperature=0.8, top_k=15, top_p=0.9, min_p=0.05),
]
M, H, V = 11, 6, 23


def problem(dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden, weight, bias = (
        torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in ((M, H), (V, H), (V,))
    )
    return hidden, weight, bias, torch.randint(0, V, (M,), generator=generator)


def dense(hidden, weight, bias, targets, spec):
    """The whole table of logits at once, differentiated by autograd."""
    scaled = processed_logits(hidden @ weight.T + bias, targets, spec)
    log_p = scaled.log_softmax(-1)
    entropy = -(log_p.exp() * log_p.masked_fill(log_p == -torch.inf, 0)).sum(-1)
    return log_p.gather(1, targets[:, None])[:, 0], entropy


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("chunk", [1, 4, 11, 100])
def test_values_and_gradients_equal_the_dense_computation(spec, chunk, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_TOKENS", 3)
    hidden, weight, bias, targets = problem()
    a = torch.linspace(-1, 2, M, dtype=torch.float64)
    b = torch.linspace(1, -1, M, dtype=torch.float64)
    expected = dense(hidden, weight, bias, targets, spec)
    expected_gradients = torch.autograd.grad((a * expected[0] + b * expected[1]).sum(), (hidden, weight, bias))
    scores = token_scores(hidden, weight, bias, targets, spec, chunk_tokens=chunk, with_entropy=True)
    gradients = torch.autograd.grad((a * scores.logprobs + b * scores.entropies).sum(), (hidden, weight, bias))
    assert torch.allclose(scores.logprobs, expected[0], atol=1e-12)
    assert torch.allclose(scores.entropies, expected[1], atol=1e-12)
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        assert torch.allclose(gradient, other, atol=1e-12)


@pytest.mark.parametrize("spec", SPECS)
def test_sampled_tokens_get_the_samplers_logprobs(spec):
    hidden, weight, bias, _ = problem(torch.float32)
    with torch.no_grad():
        distribution = processed_logprobs(hidden @ weight.T + bias, spec)
        targets = torch.multinomial(distribution.exp(), 1, generator=torch.Generator().manual_seed(0))[:, 0]
        scores = token_scores(hidden, weight, bias, targets, spec, chunk_tokens=4, with_entropy=True)
    assert torch.allclose(scores.logprobs, distribution.gather(1, targets[:, None])[:, 0], atol=1e-5)
    p = distribution.exp()
    assert torch.allclose(scores.entropies, -torch.special.xlogy(p, p).sum(-1), atol=1e-5)


def test_a_target_outside_the_kept_set_is_kept():
    """Rounding may drop at the boundary here what the sampler had kept: the log-probability stays finite."""
    hidden, weight, bias, _ = problem()
    targets = (hidden @ weight.T + bias).argmin(-1)
    spec = SamplingSpec(top_k=2)
    scores = token_scores(hidden, weight, bias, targets, spec, chunk_tokens=4, with_entropy=True)
    (gradient,) = torch.autograd.grad(scores.logprobs.sum(), hidden)
    assert torch.isfinite(scores.logprobs).all()
    assert torch.isfinite(gradient).all()


def test_greedy_decoding_is_refused():
    with pytest.raises(ValueError, match="temperature must be above 0 to learn from samples"):
        token_scores(*problem(), SamplingSpec(temperature=0.0), chunk_tokens=4, with_entropy=False)


@pytest.mark.parametrize("with_entropy", [False, True])
def test_no_predictions(with_entropy):
    hidden, weight, bias, targets = problem()
    scores = token_scores(
        hidden[:0], weight, bias, targets[:0], SamplingSpec(), chunk_tokens=4, with_entropy=with_entropy
    )
    assert scores.logprobs.shape == (0,)
    assert (scores.entropies is not None) is with_entropy


class LargestLogits(TorchDispatchMode):
    """Notes the most rows that any tensor as wide as the vocabulary has."""

    def __init__(self):
        super().__init__()
        self.rows = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            wide = isinstance(leaf, torch.Tensor) and leaf.ndim == 2 and leaf.shape[1] == V
            if wide and leaf.shape[0] != H:  # the transposed weight has H rows
                self.rows = max(self.rows, leaf.shape[0])
        return out


@pytest.mark.parametrize("chunk", [2, 5])
def test_logits_never_exceed_a_chunk_forward_or_backward(chunk):
    hidden, weight, bias, targets = problem()
    with LargestLogits() as seen:
        scores = token_scores(hidden, weight, bias, targets, SPECS[4], chunk_tokens=chunk, with_entropy=True)
        (scores.logprobs.sum() + scores.entropies.sum()).backward()
    assert seen.rows == chunk


def test_chunks_of_a_half_precision_head_add_up_in_float32():
    hidden, weight, bias, targets = problem(torch.bfloat16)
    exact = problem(torch.bfloat16)
    wide = [t.detach().float().requires_grad_() for t in exact[:3]]
    dense(*wide, targets, SamplingSpec())[0].sum().backward()
    token_scores(
        hidden, weight, bias, targets, SamplingSpec(), chunk_tokens=1, with_entropy=False
    ).logprobs.sum().backward()
    assert weight.grad.dtype == torch.bfloat16
    error = (weight.grad.float() - wide[1].grad).norm() / wide[1].grad.norm()
    assert error < 2**-7  # one rounding to bfloat16 of logits, gradients and sum; not one for each chunk
