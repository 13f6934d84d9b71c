"""No table of all tokens by all words is ever made: not in the forward pass, not in the backward pass."""

import pytest
import torch
from live_memory import LiveMemory
from tiny_policy import make_rollouts, open_learner, random_advantages, tiny_policy

from thinkrl.algorithms.kl import KLLoss
from thinkrl.algorithms.objective import ClippedObjective
from thinkrl.learning import logprobs
from thinkrl.learning.logprobs import BLOCK_TOKENS, token_scores
from thinkrl.sampling.sampler import SamplingSpec

M, H, V = 200, 4, 1000
SPECS = [SamplingSpec(), SamplingSpec(temperature=0.7), SamplingSpec(temperature=1.2, top_k=9, top_p=0.8, min_p=0.01)]


def scored(memory, chunk, spec=SPECS[0], *, with_entropy=False, dtype=torch.bfloat16, tokens=M):
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, H, generator=generator).to(dtype).requires_grad_() for n in (tokens, V))
    targets = torch.randint(0, V, (tokens,), generator=generator)
    with memory:
        scores = token_scores(hidden, weight, None, targets, spec, chunk_tokens=chunk, with_entropy=with_entropy)
        (scores.logprobs.sum() + (scores.entropies.sum() if with_entropy else 0)).backward()
    return memory


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("with_entropy", [False, True])
@pytest.mark.parametrize("chunk", [32, 50, 200])
def test_no_tensor_exceeds_a_chunk_by_the_vocabulary(dtype, spec, with_entropy, chunk):
    memory = scored(LiveMemory(), chunk, spec, with_entropy=with_entropy, dtype=dtype)
    assert memory.largest == chunk * V


@pytest.mark.parametrize("with_entropy", [False, True])
@pytest.mark.parametrize("chunk", [64, 100, 200])
def test_one_table_of_logits_is_alive_at_a_time(with_entropy, chunk):
    """Beside it stand a few blocks of its rows in float32."""
    memory = scored(LiveMemory(smallest=H * V), chunk, with_entropy=with_entropy)
    assert chunk * V <= memory.peak <= (chunk + 6 * BLOCK_TOKENS) * V


def test_memory_does_not_grow_with_tokens_times_vocabulary():
    peaks = [scored(LiveMemory(smallest=H * V), 32, tokens=tokens).peak for tokens in (64, 512)]
    assert peaks[0] == peaks[1]


def test_a_gradient_of_the_head_is_summed_without_a_copy_of_its_size(monkeypatch):
    """The sum, and its copy in the head's own precision, are all there is of the head's size."""
    monkeypatch.setattr(logprobs, "BLOCK_WORDS", 100)
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 64, generator=generator).bfloat16().requires_grad_() for n in (8, V))
    targets = torch.randint(0, V, (8,), generator=generator)
    with LiveMemory(smallest=8 * V) as memory:
        scores = token_scores(hidden, weight, None, targets, SPECS[0], chunk_tokens=2, with_entropy=False)
        scores.logprobs.sum().backward()
    assert memory.peak == 2 * 64 * V


@pytest.mark.parametrize("entropy_bonus", [0.0, 0.1])
@pytest.mark.parametrize("chunk", [40, 64])
def test_an_update_makes_nothing_larger_than_a_chunk_by_the_vocabulary(entropy_bonus, chunk):
    """Forward, reference, backward, clipping, optimizer and the copy into the module; the head is 32 by V."""
    rollouts = make_rollouts((6, 6, 6))
    assert rollouts.sampled.sum() > chunk
    learner = open_learner(tiny_policy(vocab_size=V), with_reference=True, logits_chunk_tokens=chunk)
    objective = ClippedObjective(kl=KLLoss(0.1), entropy_bonus=entropy_bonus)
    with LiveMemory() as memory:
        learner.update(rollouts, random_advantages(rollouts), objective, SamplingSpec())
    assert memory.largest == chunk * V


def test_logits_that_were_overwritten_are_made_again_for_a_second_backward_pass():
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, H, generator=generator, dtype=torch.float64).requires_grad_() for n in (9, V))
    targets = torch.randint(0, V, (9,), generator=generator)
    scores = token_scores(hidden, weight, None, targets, SPECS[1], chunk_tokens=9, with_entropy=False)
    first = torch.autograd.grad(scores.logprobs.sum(), (hidden, weight), retain_graph=True)
    second = torch.autograd.grad(scores.logprobs.sum(), (hidden, weight))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
