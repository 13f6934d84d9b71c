"""Log-probabilities and entropies of chosen tokens, without ever holding all logits.

Logits are made for the positions that predict a sampled token only, a chunk at a time, and made again
in the backward pass (kept when one chunk holds them all). Their gradient takes their place, so that one
table of chunk x vocabulary entries is all that exists at any time: 1,024 rows of a vocabulary of 152,000
are 0.3 GB in bfloat16. Softmax is taken in float32 whatever the weights are, a few rows at a time.
"""

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from thinkrl.kernels.learn import LearnKernels, learn_kernels
from thinkrl.sampling.distribution import kept_tokens
from thinkrl.sampling.sampler import SamplingSpec

BLOCK_TOKENS = 32
"""Rows of logits that are turned to float32 at a time: a block of a 50,000-word vocabulary is 6 MB, which stays
in a processor's cache through the passes of a softmax."""
BLOCK_WORDS = 8192
"""Rows of the head whose gradient from one of several chunks exists at a time, before it is added to the sum."""


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
    compiled: bool = True,
) -> TokenScores:
    """Scores `targets` under the distribution that `spec` makes of the logits.

    Args:
        hidden: last hidden states that predict the targets, [m, h].
        head_weight, head_bias: the output projection, [v, h] and [v].
        targets: token ids, int64 [m].
        spec: temperature and truncation. Temperature 0 raises ValueError: it leaves no distribution.
        chunk_tokens: at most this many rows of logits exist at a time.
        with_entropy: whether entropies are wanted (and carry gradient).
        compiled: uses kernels in C where there are any and nothing is truncated.
    """
    if spec.temperature == 0:
        raise ValueError("temperature must be above 0 to learn from samples, got 0 (greedy decoding has no gradient)")
    kernels = learn_kernels(hidden) if compiled and not truncates(spec, len(head_weight)) else None
    scores = cast(
        "tuple[Tensor, Tensor]",
        _TokenScores.apply(hidden, head_weight, head_bias, targets, spec, chunk_tokens, with_entropy, kernels),  # type: ignore[no-untyped-call]
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
        kernels: LearnKernels | None,
    ) -> tuple[Tensor, Tensor]:
        chunks = _slices(len(targets), chunk_tokens)
        logprobs, normalisers, entropies = hidden.new_zeros((3, len(targets)), dtype=_wide(hidden.dtype)).unbind()
        logits = None
        for chunk in chunks:
            del logits  # before the next chunk is made, so that there is one at a time
            logits = torch.nn.functional.linear(hidden[chunk], weight, bias)
            if kernels is not None:
                found = kernels.scores(logits, targets[chunk], spec.temperature, with_entropy=with_entropy)
                logprobs[chunk], normalisers[chunk] = found[:2]
                if found[2] is not None:
                    entropies[chunk] = found[2]
                continue
            for block in _slices(len(logits), BLOCK_TOKENS):
                rows = slice(chunk.start + block.start, chunk.start + block.stop)
                scaled = processed_logits(logits[block], targets[rows], spec)
                normalisers[rows] = scaled.logsumexp(dim=-1)
                logprobs[rows] = scaled.gather(1, targets[rows, None]).squeeze(1) - normalisers[rows]
                if with_entropy:
                    p = (scaled - normalisers[rows, None]).exp_()
                    entropies[rows] = normalisers[rows] - p.mul_(_finite(scaled)).sum(dim=-1)
        ctx.save_for_backward(hidden, weight, bias, targets, normalisers, entropies)
        ctx.kept = logits if len(chunks) == 1 and any(ctx.needs_input_grad) else None
        ctx.spec, ctx.chunk_tokens, ctx.with_entropy, ctx.kernels = spec, chunk_tokens, with_entropy, kernels
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, normalisers, entropies = ctx.saved_tensors
        chunks = _slices(len(targets), ctx.chunk_tokens)
        grad_hidden = torch.zeros_like(hidden)
        grad_weight, grad_bias = _HeadGradient(weight, len(chunks)), None
        if bias is not None:
            grad_bias = torch.zeros_like(bias, dtype=_wide(weight.dtype))
        for chunk in chunks:
            # Once the kept logits are overwritten, another backward pass has to make them again.
            table, ctx.kept = ctx.kept, None
            if table is None:
                table = torch.nn.functional.linear(hidden[chunk], weight, bias)
            entropy = (entropies[chunk], grads[1][chunk]) if ctx.with_entropy else None
            given = targets[chunk], normalisers[chunk], grads[0][chunk], entropy
            _to_gradients(table, *given, spec=ctx.spec, kernels=ctx.kernels)
            grad_hidden[chunk] = table @ weight
            if grad_bias is not None:
                grad_bias += table.sum(dim=0, dtype=grad_bias.dtype)
            if ctx.needs_input_grad[1]:
                grad_weight.add(table, hidden[chunk])
            del table
        if grad_bias is not None:
            grad_bias = grad_bias.to(weight.dtype)
        return grad_hidden, grad_weight.total(), grad_bias, None, None, None, None, None


class _HeadGradient:
    """Sums grad^T hidden over `chunks` chunks, in float32 when there are several, so that rounding does not grow
    with their number."""

    def __init__(self, weight: Tensor, chunks: int) -> None:
        self._weight, self._several = weight, chunks > 1
        self._sum: Tensor | None = None

    def add(self, grad: Tensor, hidden: Tensor) -> None:
        """Adds a chunk: grad [c, v], hidden [c, h]."""
        if not self._several:
            self._sum = grad.T @ hidden
            return
        if self._sum is None:
            self._sum = torch.zeros_like(self._weight, dtype=_wide(self._weight.dtype))
        for words in _slices(len(self._weight), BLOCK_WORDS):
            self._sum[words].add_(grad[:, words].T @ hidden)

    def total(self) -> Tensor | None:
        """The sum in the precision of the weight, [v, h]; None when nothing was added."""
        return None if self._sum is None else self._sum.to(self._weight.dtype)


def truncates(spec: SamplingSpec, vocabulary: int) -> bool:
    """Whether `spec` may drop a token of `vocabulary`."""
    return 0 < spec.top_k < vocabulary or spec.top_p < 1 or spec.min_p > 0


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


def _to_gradients(
    logits: Tensor,
    targets: Tensor,
    normalisers: Tensor,
    grad_logprobs: Tensor,
    entropy: tuple[Tensor, Tensor] | None,
    *,
    spec: SamplingSpec,
    kernels: LearnKernels | None,
) -> None:
    """Puts the gradient of logits [c, v] in their place; `entropy` holds entropies and their gradients."""
    if kernels is not None:
        kernels.scores_to_gradients(logits, targets, spec.temperature, normalisers, grad_logprobs, entropy)
        return
    for block in _slices(len(logits), BLOCK_TOKENS):
        scaled = processed_logits(logits[block], targets[block], spec)
        part = None if entropy is None else (entropy[0][block], entropy[1][block])
        wide = _grad_logits(scaled, targets[block], normalisers[block], grad_logprobs[block], part)
        logits[block] = wide if spec.temperature == 1 else wide.div_(spec.temperature)


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
