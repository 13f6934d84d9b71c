"""Log-probabilities and entropies of chosen tokens, without ever holding all logits.

Logits are made for the positions that predict a sampled token only, a chunk at a time, and made again
in the backward pass (kept when one chunk holds them all). Softmax is taken in float32 whatever the
weights are.
"""

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from thinkrl.sampling.distribution import kept_tokens
from thinkrl.sampling.sampler import SamplingSpec

BLOCK_TOKENS = 32
"""Rows of logits that are turned to float32 at a time: a block of a 50,000-word vocabulary is 6 MB, which stays
in a processor's cache through the passes of a softmax."""


class TokenScores(NamedTuple):
    """Log-probability of each target and entropy (nats) of its distribution, float32 [m]."""

    logprobs: Tensor
    entropies: Tensor | None


def token_scores(
    hidden: Tensor,
    head_weight: Tensor,
    head_bias: Tensor | None,
    targets: Tensor,
    spec: SamplingSpec,
    *,
    chunk_tokens: int,
    with_entropy: bool,
) -> TokenScores:
    """Scores `targets` under the distribution that `spec` makes of the logits.

    Args:
        hidden: last hidden states that predict the targets, [m, h].
        head_weight, head_bias: the output projection, [v, h] and [v].
        targets: token ids, int64 [m].
        spec: temperature and truncation. Temperature 0 raises ValueError: it leaves no distribution.
        chunk_tokens: at most this many rows of logits exist at a time.
        with_entropy: whether entropies are wanted (and carry gradient).
    """
    if spec.temperature == 0:
        raise ValueError("temperature must be above 0 to learn from samples, got 0 (greedy decoding has no gradient)")
    scores = cast(
        "tuple[Tensor, Tensor]",
        _TokenScores.apply(hidden, head_weight, head_bias, targets, spec, chunk_tokens, with_entropy),  # type: ignore[no-untyped-call]
    )
    return TokenScores(scores[0], scores[1] if with_entropy else None)


class _TokenScores(torch.autograd.Function):
    """With z the processed logits, p = softmax(z) and n = lse(z): log p_o = z_o - n, H = n - sum_j p_j z_j,
    d log p_o / d z_j = [j = o] - p_j, d H / d z_j = -p_j (log p_j + H)."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        spec: SamplingSpec,
        chunk_tokens: int,
        with_entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        chunks = _slices(len(targets), chunk_tokens)
        logprobs, normalisers, entropies = hidden.new_zeros((3, len(targets)), dtype=_wide(hidden.dtype)).unbind()
        logits = None
        for chunk in chunks:
            logits = torch.nn.functional.linear(hidden[chunk], weight, bias)
            for block in _slices(len(logits), BLOCK_TOKENS):
                rows = slice(chunk.start + block.start, chunk.start + block.stop)
                scaled = processed_logits(logits[block], targets[rows], spec)
                normalisers[rows] = scaled.logsumexp(dim=-1)
                logprobs[rows] = scaled.gather(1, targets[rows, None]).squeeze(1) - normalisers[rows]
                if with_entropy:
                    p = (scaled - normalisers[rows, None]).exp_()
                    entropies[rows] = normalisers[rows] - p.mul_(_finite(scaled)).sum(dim=-1)
        kept = logits if len(chunks) == 1 else None
        ctx.save_for_backward(hidden, weight, bias, targets, kept, normalisers, entropies)
        ctx.spec, ctx.chunk_tokens, ctx.with_entropy = spec, chunk_tokens, with_entropy
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, kept, normalisers, entropies = ctx.saved_tensors
        chunks = _slices(len(targets), ctx.chunk_tokens)
        grad_hidden = torch.zeros_like(hidden)
        # Several chunks are added up in float32, so that rounding does not grow with their number.
        grad_weight = None if len(chunks) == 1 else torch.zeros_like(weight, dtype=_wide(weight.dtype))
        grad_bias = None if bias is None else torch.zeros_like(bias, dtype=_wide(weight.dtype))
        for chunk in chunks:
            logits = torch.nn.functional.linear(hidden[chunk], weight, bias) if kept is None else kept
            grad = torch.empty_like(logits)
            for block in _slices(len(logits), BLOCK_TOKENS):
                rows = slice(chunk.start + block.start, chunk.start + block.stop)
                scaled = processed_logits(logits[block], targets[rows], ctx.spec)
                entropy = (entropies[rows], grads[1][rows]) if ctx.with_entropy else None
                wide = _grad_logits(scaled, targets[rows], normalisers[rows], grads[0][rows], entropy)
                grad[block] = wide if ctx.spec.temperature == 1 else wide.div_(ctx.spec.temperature)
            grad_hidden[chunk] = grad @ weight
            if grad_bias is not None:
                grad_bias += grad.sum(dim=0, dtype=grad_bias.dtype)
            if ctx.needs_input_grad[1]:
                product = grad.T @ hidden[chunk]
                grad_weight = product if grad_weight is None else grad_weight.add_(product)
        if grad_weight is not None:
            grad_weight = grad_weight.to(weight.dtype) if ctx.needs_input_grad[1] else None
        if grad_bias is not None:
            grad_bias = grad_bias.to(weight.dtype)
        return grad_hidden, grad_weight, grad_bias, None, None, None, None


def processed_logits(logits: Tensor, targets: Tensor, spec: SamplingSpec) -> Tensor:
    """Float32 logits [m, v] after temperature and truncation, -inf where a token is dropped.

    A target is never dropped: it was drawn, so the sampler had kept it, and only rounding at the
    boundary can say otherwise here.
    """
    scaled = logits.to(_wide(logits.dtype))
    if spec.temperature != 1:
        scaled = scaled / spec.temperature
    kept = kept_tokens(scaled, spec)
    if kept is None:
        return scaled
    return scaled.masked_fill(~kept.scatter_(1, targets[:, None], True), -torch.inf)


def _grad_logits(
    scaled: Tensor,
    targets: Tensor,
    normalisers: Tensor,
    grad_logprobs: Tensor,
    entropy: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """Gradient with respect to the processed logits, [m, v]; `entropy` holds entropies and their gradients."""
    log_p = scaled - normalisers[:, None]
    if entropy is None:
        grad = log_p.exp_().mul_(-grad_logprobs[:, None])
    else:
        entropies, grad_entropies = entropy
        grad = log_p.exp()
        slope = _finite(log_p).add_(entropies[:, None]).mul_(grad_entropies[:, None]).add_(grad_logprobs[:, None])
        grad.mul_(slope.neg_())
    return grad.scatter_add_(1, targets[:, None], grad_logprobs[:, None])


def _finite(values: Tensor) -> Tensor:
    """0 in place of -inf, where a probability of 0 would make 0 * -inf."""
    return values.masked_fill(values == -torch.inf, 0.0)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _slices(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]
