"""The distribution a specification defines, and exact draws from it.

Everything is computed in float32, whatever the model's precision. Truncation keeps whole levels of
probability: tokens as likely as the last one kept are kept too, so the kept set does not depend on
the order of a sort, and a learner finds the same set from the same logits.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from thinkrl.sampling.sampler import SamplingSpec

_BLOCK = 256
_ROWS = 8
"""Rows drawn at a time on a processor, so that the passes over the vocabulary stay inside its cache."""
_NUCLEI = (64, 512, 8192)
"""Sizes of set tried for top-p before the whole vocabulary is sorted."""


@dataclass(frozen=True, eq=False)
class Draws:
    """One token per row: ids int64 [b], log-probabilities and entropies (nats) float32 [b]."""

    token_ids: Tensor
    logprobs: Tensor
    entropies: Tensor


def kept_tokens(scaled: Tensor, spec: SamplingSpec) -> Tensor | None:
    """Which tokens `spec` keeps, bool like `scaled` [..., vocabulary] (logits over temperature); None keeps all.

    Top-k comes first, then top-p on what is left and renormalised, then min-p. The most likely token
    is always kept.
    """
    keep: Tensor | None = None
    if 0 < spec.top_k < scaled.shape[-1]:
        keep = scaled >= scaled.topk(spec.top_k, dim=-1).values[..., -1:]
    if spec.top_p < 1:
        probabilities = (scaled if keep is None else scaled.masked_fill(~keep, -torch.inf)).softmax(-1)
        nucleus = probabilities >= _nucleus_threshold(probabilities, spec.top_p)
        keep = nucleus if keep is None else keep & nucleus
    if spec.min_p > 0:
        likely = scaled >= scaled.amax(-1, keepdim=True) + torch.log(torch.tensor(spec.min_p)).item()
        keep = likely if keep is None else keep & likely
    return keep


def processed_logprobs(logits: Tensor, spec: SamplingSpec) -> Tensor:
    """Log-probabilities float32 of the distribution `spec` makes of `logits` [..., vocabulary]; -inf if dropped.

    Raises ValueError at temperature 0, where there is no distribution to speak of.
    """
    if spec.temperature == 0:
        raise ValueError("temperature must be above 0 for log-probabilities, got 0")
    scaled = logits.float() / spec.temperature
    keep = kept_tokens(scaled, spec)
    return (scaled if keep is None else scaled.masked_fill(~keep, -torch.inf)).log_softmax(-1)


def draw(logits: Tensor, uniforms: Tensor, spec: SamplingSpec, counts: Sequence[int] | None = None) -> Draws:
    """Tokens from the rows of `logits` [r, vocabulary] by inverse CDF at `uniforms` [b] (float64, in [0, 1)).

    counts: how many tokens each row gives, in order, b in all; one each if it is None. A row's distribution
    is computed once, however many tokens it gives.
    At temperature 0 the most likely token is taken, with log-probability and entropy 0.
    Raises FloatingPointError when a row of logits is not finite.
    """
    counts = [1] * len(logits) if counts is None else list(counts)
    size = _ROWS if logits.device.type == "cpu" else len(logits)
    parts, begun = [], 0
    for start in range(0, len(logits), size):
        rows = counts[start : start + size]
        ended = begun + sum(rows)
        parts.append(_draw_rows(logits[start : start + size], uniforms[begun:ended], rows, spec))
        begun = ended
    columns = (torch.cat(column) for column in zip(*parts, strict=True))
    return Draws(*columns)


def _draw_rows(
    logits: Tensor, uniforms: Tensor, counts: Sequence[int], spec: SamplingSpec
) -> tuple[Tensor, Tensor, Tensor]:
    row_of = torch.arange(len(logits)).repeat_interleave(torch.tensor(counts)).to(logits.device)
    scaled = logits.float()
    if spec.temperature == 0:
        _require_finite(scaled.sum(-1))
        zeros = scaled.new_zeros(len(row_of))
        return scaled.argmax(-1)[row_of], zeros, zeros
    if spec.temperature != 1:
        scaled = scaled / spec.temperature
    keep = kept_tokens(scaled, spec)
    probabilities = (scaled if keep is None else scaled.masked_fill(~keep, -torch.inf)).softmax(-1)
    # The most likely token is always kept, and its probability is 1 over the sum.
    log_total = scaled.amax(-1) - probabilities.amax(-1).log()
    # Dropped tokens have probability 0 and a finite logit, so they add nothing here.
    entropies = log_total - torch.linalg.vecdot(probabilities, scaled)
    _require_finite(entropies)
    token_ids = _inverse_cdf(probabilities, uniforms, row_of)
    logprobs = scaled[row_of, token_ids] - log_total[row_of]
    return token_ids, logprobs, entropies.clamp_(min=0)[row_of]


def _inverse_cdf(probabilities: Tensor, uniforms: Tensor, row_of: Tensor) -> Tensor:
    """For each uniform [b], the first index of its row (int64 [b]) whose cumulative probability exceeds it times
    the total, int64 [b].

    The sum runs over blocks, then inside one block, in float64: cheap, and exact enough that a token
    of probability 0 is never returned.
    """
    rows, vocabulary = probabilities.shape
    short = -vocabulary % _BLOCK
    padded = functional.pad(probabilities, (0, short)) if short else probabilities
    blocks = padded.view(rows, -1, _BLOCK)
    block, rest = _first_above(blocks.sum(-1)[row_of], uniforms.double(), relative=True)
    inside, _ = _first_above(blocks[row_of, block], rest, relative=False)
    return block * _BLOCK + inside


def _first_above(masses: Tensor, targets: Tensor, *, relative: bool) -> tuple[Tensor, Tensor]:
    """First index where the running sum of `masses` [b, n] exceeds the target, and what the target has left there."""
    cumulative = masses.double().cumsum(-1)
    total = cumulative[:, -1]
    # Below the total even after rounding, so the index found is one where the sum rises.
    targets = torch.minimum(targets * total if relative else targets, torch.nextafter(total, total.new_zeros(())))
    index = torch.searchsorted(cumulative, targets[:, None], right=True)
    before = functional.pad(cumulative, (1, 0)).gather(-1, index)[:, 0]
    return index[:, 0], (targets - before).clamp_(min=0)


def _nucleus_threshold(probabilities: Tensor, top_p: float) -> Tensor:
    """Probability of the last token in the smallest set of most likely tokens whose mass reaches `top_p`, [..., 1].

    The few most likely tokens nearly always hold that mass; only rows where they do not are sorted further.
    """
    rows = probabilities.reshape(-1, probabilities.shape[-1])
    threshold = rows.new_empty(len(rows))
    left = torch.arange(len(rows), device=rows.device)
    for count in (*(size for size in _NUCLEI if size < rows.shape[-1]), rows.shape[-1]):
        ordered = rows[left].topk(count, dim=-1).values
        before = ordered.double().cumsum(-1) - ordered
        inside = (before < top_p).sum(-1, keepdim=True).clamp(min=1)
        threshold[left] = ordered.gather(-1, inside - 1)[:, 0]
        left = left[inside[:, 0] == count]  # the set may go on behind the tokens looked at
        if not len(left):
            break
    return threshold.view(*probabilities.shape[:-1], 1)


def _require_finite(values: Tensor) -> None:
    if not bool(torch.isfinite(values).all()):
        raise FloatingPointError("the model's logits are not finite; the weights have diverged")
