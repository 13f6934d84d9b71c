"""Attention over rows of shared beginnings without the part of the table that the mask would throw away.

A dense mask over a row of a prompt and eight responses hides four fifths of the scores that are computed.
Here every branch (a segment of the row's trie) attends to what it continues and to itself in a batch of
small products, in float32. Meant for processors, whose fused kernels are slow on short sequences; the
dense mask stays the reference, and the way on other devices and for long branches.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AttentionInterface

from thinkrl.learning.packing import Row

IMPLEMENTATION = "thinkrl_branches"
"""Name under which transformers knows this attention."""
LONGEST_BRANCH = 512
"""Longer branches would hold too many scores at once: t * (p + t) float32 values a head."""


@dataclass(frozen=True, eq=False)
class Bucket:
    """n branches of similar length: t queries each, which see p tokens above them and the t own ones.

    queries: int64 [n, t], keys: int64 [n, p + t], indices of tokens among all tokens of the batch (0 for padding).
    real: bool [n, t], where `queries` is no padding. hidden: bool [n, 1, 1, t, p + t], what is not attended to.
    """

    queries: Tensor
    keys: Tensor
    real: Tensor
    hidden: Tensor


def branch_buckets(rows: Sequence[Row], length: int) -> list[Bucket] | None:
    """The branches of `rows` padded to `length`, in buckets by length; None when a branch is too long."""
    branches: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    for number, row in enumerate(rows):
        bounds = np.searchsorted(row.segment, np.arange(len(row.parents) + 1))
        for segment, above in enumerate(row.above()):
            before = np.flatnonzero(above[row.segment[: bounds[segment]]])
            own = np.arange(bounds[segment], bounds[segment + 1])
            branches.append((number * length + before, number * length + own))
    if max(len(own) for _, own in branches) > LONGEST_BRANCH:
        return None
    by_size: dict[int, list[tuple[NDArray[np.int64], NDArray[np.int64]]]] = {}
    for prompt, own in branches:
        by_size.setdefault(len(own).bit_length(), []).append((prompt, own))
    return [_bucket(members) for _, members in sorted(by_size.items())]


def _bucket(branches: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]) -> Bucket:
    p = max(len(prompt) for prompt, _ in branches)
    t = max(len(own) for _, own in branches)
    queries = np.zeros((len(branches), t), dtype=np.int64)
    keys = np.zeros((len(branches), p + t), dtype=np.int64)
    real = np.zeros((len(branches), t), dtype=np.bool_)
    seen = np.zeros((len(branches), t, p + t), dtype=np.bool_)
    seen[:, :, p:] = np.tri(t, dtype=np.bool_)  # padding at the end sees itself, so its softmax is defined
    for i, (prompt, own) in enumerate(branches):
        queries[i, : len(own)] = keys[i, p : p + len(own)] = own
        keys[i, : len(prompt)] = prompt
        real[i, : len(own)] = True
        seen[i, :, : len(prompt)] = True
    hidden = torch.from_numpy(~seen)[:, None, None]
    return Bucket(torch.from_numpy(queries), torch.from_numpy(keys), torch.from_numpy(real), hidden)


def branch_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    buckets: Sequence[Bucket],
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """An attention function as transformers calls it: query [b, h, l, d], key and value [b, g, l, d] to [b, l, h, d].

    Tokens that are in no bucket are padding; their output is 0.
    """
    b, h, length, d = query.shape
    flat = (x.transpose(1, 2).reshape(b * length, x.shape[1], d) for x in (query, key, value))
    scale = d**-0.5 if scaling is None else scaling
    output = cast("Tensor", _BranchAttention.apply(*flat, buckets, scale))  # type: ignore[no-untyped-call]
    return output.view(b, length, h, d), None


AttentionInterface.register(IMPLEMENTATION, branch_attention)


class _BranchAttention(torch.autograd.Function):
    """P = softmax(s Q K^T), O = P V; probabilities are made again in the backward pass rather than kept.
    dV = P^T dO, dS = P (dO V^T - rowsum(dO O)), dQ = s dS K, dK = s dS^T Q."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, buckets: Sequence[Bucket], scale: float) -> Tensor:
        output = torch.zeros_like(query)
        groups = key.shape[1]
        for bucket in buckets:
            q, k, v = _queries(query, bucket, groups), _keys(key, bucket), _keys(value, bucket)
            o = _tokens(torch.bmm(_probabilities(q, k, bucket, scale), v), bucket, query.shape[1])
            output[bucket.queries[bucket.real]] = o[bucket.real].to(output.dtype)
        ctx.save_for_backward(query, key, value, output)
        ctx.buckets, ctx.scale = buckets, scale
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output = ctx.saved_tensors
        groups, heads = key.shape[1], query.shape[1]
        wide = torch.promote_types(query.dtype, torch.float32)
        grad_query = torch.zeros_like(query)
        grad_key, grad_value = (torch.zeros_like(key, dtype=wide) for _ in range(2))
        for bucket in ctx.buckets:
            q, k, v = _queries(query, bucket, groups), _keys(key, bucket), _keys(value, bucket)
            o, grad_o = _queries(output, bucket, groups), _queries(grads[0], bucket, groups, fill=bucket.real)
            p = _probabilities(q, k, bucket, ctx.scale)
            _add_keys(grad_value, torch.bmm(p.transpose(1, 2), grad_o), bucket)
            grad_p = torch.bmm(grad_o, v.transpose(1, 2)).sub_((grad_o * o).sum(dim=-1, keepdim=True))
            grad_s = grad_p.mul_(p).mul_(ctx.scale)
            _add_keys(grad_key, torch.bmm(grad_s.transpose(1, 2), q), bucket)
            grad_q = _tokens(torch.bmm(grad_s, k), bucket, heads)
            grad_query[bucket.queries[bucket.real]] = grad_q[bucket.real].to(grad_query.dtype)
        return grad_query, grad_key.to(key.dtype), grad_value.to(value.dtype), None, None


def _probabilities(q: Tensor, k: Tensor, bucket: Bucket, scale: float) -> Tensor:
    """Attention of each query, [n g, r t, p + t]."""
    n, t = bucket.queries.shape
    scores = torch.bmm(q, k.transpose(1, 2)).mul_(scale)
    scores.view(n, len(q) // n, -1, t, k.shape[1]).masked_fill_(bucket.hidden, -torch.inf)
    return scores.softmax(dim=-1)


def _queries(tokens: Tensor, bucket: Bucket, groups: int, fill: Tensor | None = None) -> Tensor:
    """[tokens, h, d] -> [n g, r t, d] in float32, the r heads of a key head side by side; 0 where not `fill`."""
    n, t = bucket.queries.shape
    taken = tokens[bucket.queries]
    if fill is not None:
        taken = taken.masked_fill_(~fill[:, :, None, None], 0)
    split = taken.view(n, t, groups, -1, tokens.shape[-1]).permute(0, 2, 3, 1, 4)
    return split.to(torch.promote_types(tokens.dtype, torch.float32)).reshape(n * groups, -1, tokens.shape[-1])


def _tokens(rows: Tensor, bucket: Bucket, heads: int) -> Tensor:
    """[n g, r t, d] -> [n, t, h, d], the inverse of `_queries`."""
    n, t = bucket.queries.shape
    return rows.view(n, heads, t, -1).transpose(1, 2)


def _keys(tokens: Tensor, bucket: Bucket) -> Tensor:
    """[tokens, g, d] -> [n g, p + t, d] in float32."""
    taken = tokens[bucket.keys].transpose(1, 2)
    return taken.to(torch.promote_types(tokens.dtype, torch.float32)).reshape(-1, taken.shape[2], taken.shape[3])


def _add_keys(sums: Tensor, rows: Tensor, bucket: Bucket) -> None:
    """Adds [n g, p + t, d] to the tokens that the keys came from; padding adds 0 to token 0."""
    n, s = bucket.keys.shape
    back = rows.view(n, sums.shape[1], s, -1).transpose(1, 2).reshape(n * s, *sums.shape[1:])
    sums.index_add_(0, bucket.keys.flatten(), back)
