"""Attention over rows of shared beginnings without the part of the table that a mask would throw away.

A dense mask over a row of a prompt and eight responses hides four fifths of the scores that are computed.
Here every segment of a row's trie is cut into tiles of queries; a tile attends to all that stands above it and,
causally, to itself, in batches of small products. What is computed grows with what is visible, not
with the square of the row, so rows may be long and may hold many tries end to end. Meant for processors, whose
fused kernels are slow on short sequences; a dense mask stays the reference, and the way on other devices.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AttentionInterface

from thinkrl.kernels.learn import LearnKernels, Tiles, learn_kernels
from thinkrl.learning.packing import Row

IMPLEMENTATION = "thinkrl_branches"
"""Name under which transformers knows this attention."""
TILE = 128
"""Queries of a tile at most: of the scores of a tile with itself, half are hidden."""
SCORES = 1 << 17
"""Scores of one head that are computed at a time, unless a single tile has more."""

_Tile = tuple[NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True, eq=False)
class Bucket:
    """n tiles of similar length: t queries each, which see p tokens above them and, causally, the t own ones.

    queries: int64 [n t], keys: int64 [n (p + t)], indices of tokens among all tokens of the batch (0 for padding).
    real: where `queries` is no padding, int64, or None where there is none. hidden: float32 [n, 1, 1, 1, p], -inf
    where a key above is padding, or None where there is none. later: float32 [t, t], -inf above the diagonal.
    own, above: int64 [n], real queries of each tile, and keys above it.
    """

    count: int
    queries: Tensor
    keys: Tensor
    real: Tensor | None
    hidden: Tensor | None
    later: Tensor
    own: Tensor
    above: Tensor

    @cached_property
    def query_tiles(self) -> Tiles:
        """The queries, as kernels take them."""
        return Tiles(self.queries, None if self.real is None else self.own, self.count)

    @cached_property
    def key_tiles(self) -> Tiles:
        """The keys; what is padding is some token, which no query sees."""
        return Tiles(self.keys, None, self.count)


def branch_buckets(rows: Sequence[Row]) -> list[Bucket]:
    """The tiles of `rows`, which stand end to end, in buckets by length."""
    by_size: dict[tuple[int, int], list[_Tile]] = {}
    start = 0
    for row in rows:
        for above, own in _tiles(row, start):
            by_size.setdefault((len(own).bit_length(), len(above).bit_length()), []).append((above, own))
        start += len(row)
    buckets = []
    for _, tiles in sorted(by_size.items()):
        each = max(len(own) for _, own in tiles) * max(len(above) + len(own) for above, own in tiles)
        size = max(1, SCORES // each)
        buckets += [_bucket(tiles[i : i + size]) for i in range(0, len(tiles), size)]
    return buckets


def scores_computed(rows: Sequence[Row]) -> int:
    """Pairs of a query and a key for which a score is computed, padding of buckets left out."""
    return sum(len(own) * (len(above) + len(own)) for row in rows for above, own in _tiles(row, 0))


def _tiles(row: Row, start: int) -> list[_Tile]:
    """For each tile, the tokens above it and its own, when the row's first token is number `start`."""
    bounds = np.searchsorted(row.segment, np.arange(len(row.parents) + 1))
    tiles = []
    for segment, seen in enumerate(row.above()):
        above = np.flatnonzero(seen[row.segment[: bounds[segment]]]) + start
        own = np.arange(bounds[segment], bounds[segment + 1]) + start
        for cut in range(0, len(own), TILE):
            tiles.append((np.concatenate([above, own[:cut]]), own[cut : cut + TILE]))
    return tiles


def _bucket(tiles: Sequence[_Tile]) -> Bucket:
    p = max(len(above) for above, _ in tiles)
    t = max(len(own) for _, own in tiles)
    queries = np.zeros((len(tiles), t), dtype=np.int64)
    keys = np.zeros((len(tiles), p + t), dtype=np.int64)
    real = np.zeros((len(tiles), t), dtype=np.bool_)
    padding = np.ones((len(tiles), p), dtype=np.bool_)
    for i, (above, own) in enumerate(tiles):
        queries[i, : len(own)] = keys[i, p : p + len(own)] = own
        keys[i, : len(above)] = above
        real[i, : len(own)] = True
        padding[i, : len(above)] = False
    hidden = torch.zeros(padding.shape).masked_fill_(torch.from_numpy(padding), -torch.inf)
    return Bucket(
        count=len(tiles),
        queries=torch.from_numpy(queries.reshape(-1)),
        keys=torch.from_numpy(keys.reshape(-1)),
        real=None if real.all() else torch.from_numpy(np.flatnonzero(real)),
        hidden=hidden[:, None, None, None] if padding.any() else None,
        later=torch.full((t, t), -torch.inf).triu_(1),
        own=torch.tensor([len(own) for _, own in tiles]),
        above=torch.tensor([len(above) for above, _ in tiles]),
    )


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
    """An attention function as transformers calls it: query [1, h, l, d], key, value [1, g, l, d] to [1, l, h, d]."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (query, key, value))
    return attend(q, k, v, buckets, scale)[None], None


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    buckets: Sequence[Bucket],
    scale: float,
    kernels: LearnKernels | None = None,
) -> Tensor:
    """Attention of l tokens as `buckets` say: query [l, h, d], key and value [l, g, d] to [l, h, d].

    kernels: compute what stands between the products, where there are any."""
    if kernels is not None:
        return cast("Tensor", _CompiledAttention.apply(query, key, value, buckets, scale, kernels))  # type: ignore[no-untyped-call]
    return cast("Tensor", _BranchAttention.apply(query, key, value, buckets, scale))  # type: ignore[no-untyped-call]


AttentionInterface.register(IMPLEMENTATION, branch_attention)


class _BranchAttention(torch.autograd.Function):
    """P = softmax(s Q K^T), O = P V; probabilities are made again in the backward pass rather than kept.
    dV = P^T dO, dS = P (dO s V^T - s rowsum(dO O)), dQ = dS K, dK = dS^T Q.

    Scores and dO V^T are made and kept in float32; P and dS enter the other products in the precision of the
    model, as in fused kernels.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, buckets: Sequence[Bucket], scale: float) -> Tensor:
        output = torch.empty_like(query, memory_format=torch.contiguous_format)
        for bucket in buckets:
            q, k, v = _queries(query, bucket, key.shape[1]), _keys(key, bucket), _keys(value, bucket)
            p = _probabilities(q, k, bucket, scale).to(query.dtype)
            _put_queries(output, torch.bmm(p, v), bucket)
        ctx.save_for_backward(query, key, value, output)
        ctx.buckets, ctx.scale = buckets, scale
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output = ctx.saved_tensors
        groups, narrow = key.shape[1], query.dtype
        grad_query = torch.empty_like(query, memory_format=torch.contiguous_format)
        grad_key, grad_value = (torch.zeros(x.shape, dtype=_wide(x).dtype, device=x.device) for x in (key, value))
        products = torch.linalg.vecdot(_wide(grads[0]), _wide(output)).mul_(ctx.scale).unsqueeze(-1)
        for bucket in ctx.buckets:
            q, k, v = _queries(query, bucket, groups), _keys(key, bucket), _keys(value, bucket)
            grad_o = _queries(grads[0], bucket, groups, padding_zero=True)
            of_o = _queries(products, bucket, groups, padding_zero=True)
            p = _probabilities(q, k, bucket, ctx.scale)
            _add_keys(grad_value, torch.bmm(p.to(narrow).transpose(1, 2), grad_o), bucket)
            grad_s = torch.bmm(_wide(grad_o), (_wide(v) * ctx.scale).transpose(1, 2)).sub_(of_o).mul_(p).to(narrow)
            _add_keys(grad_key, torch.bmm(grad_s.transpose(1, 2), q), bucket)
            _put_queries(grad_query, torch.bmm(grad_s, k), bucket)
        return grad_query, grad_key.to(narrow), grad_value.to(narrow), None, None


class _CompiledAttention(torch.autograd.Function):
    """The same by kernels: a pass each to gather a tile's rows, to weigh them, and to put them back."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, buckets: Sequence[Bucket], scale: float, k: LearnKernels
    ) -> Tensor:
        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        output, groups = torch.empty_like(query), key.shape[1]
        for bucket in buckets:
            queries, keys = bucket.query_tiles, bucket.key_tiles
            scores = torch.bmm(
                k.gather_wide(query, queries, groups, scale), k.gather_wide(key, keys, groups).transpose(1, 2)
            )
            p = k.probabilities(scores, bucket.above, queries.size)
            k.scatter(torch.bmm(p, k.gather(value, keys, groups)), queries, output)
        ctx.save_for_backward(query, key, value, output)
        ctx.buckets, ctx.scale, ctx.kernels = buckets, scale, k
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output = ctx.saved_tensors
        k: LearnKernels = ctx.kernels
        grad, groups, scale = grads[0].contiguous(), key.shape[1], ctx.scale
        grad_query = torch.empty_like(query)
        grad_key, grad_value = (torch.zeros(x.shape, dtype=_wide(x).dtype) for x in (key, value))
        products, wide = k.row_products(grad, output, scale), learn_kernels(grad_key)
        if wide is None:
            raise RuntimeError("kernels are there for every precision or for none")
        for bucket in ctx.buckets:
            queries, keys = bucket.query_tiles, bucket.key_tiles
            scores = torch.bmm(
                k.gather_wide(query, queries, groups, scale), k.gather_wide(key, keys, groups).transpose(1, 2)
            )
            grad_p = torch.bmm(
                k.gather_wide(grad, queries, groups), k.gather_wide(value, keys, groups, scale).transpose(1, 2)
            )
            p, grad_s = k.score_gradients(
                scores, grad_p, wide.gather(products, queries, groups), bucket.above, queries.size
            )
            k.add_rows(torch.bmm(p.transpose(1, 2), k.gather(grad, queries, groups)), keys, grad_value)
            k.add_rows(torch.bmm(grad_s.transpose(1, 2), k.gather(query, queries, groups)), keys, grad_key)
            k.scatter(torch.bmm(grad_s, k.gather(key, keys, groups)), queries, grad_query)
        return grad_query, grad_key.to(key.dtype), grad_value.to(value.dtype), None, None, None


def _probabilities(q: Tensor, k: Tensor, bucket: Bucket, scale: float) -> Tensor:
    """Attention of each query, float32 [n g, r t, p + t]."""
    scores = torch.bmm(_wide(q) * scale, _wide(k).transpose(1, 2))
    t = len(bucket.later)
    table = scores.view(bucket.count, len(q) // bucket.count, -1, t, k.shape[1])
    if bucket.hidden is not None:
        table[..., :-t].add_(bucket.hidden)
    table[..., -t:].add_(bucket.later)
    return scores.softmax(dim=-1)


def _wide(tokens: Tensor) -> Tensor:
    return tokens.to(torch.promote_types(tokens.dtype, torch.float32))


def _queries(tokens: Tensor, bucket: Bucket, groups: int, *, padding_zero: bool = False) -> Tensor:
    """[tokens, h, d] -> [n g, r t, d], the r heads of a key head side by side."""
    taken = tokens.flatten(1).index_select(0, bucket.queries)
    if padding_zero and bucket.real is not None:
        taken = torch.zeros_like(taken).index_copy_(0, bucket.real, taken.index_select(0, bucket.real))
    split = taken.view(bucket.count, len(bucket.later), groups, -1, tokens.shape[-1]).permute(0, 2, 3, 1, 4)
    return split.reshape(bucket.count * groups, -1, tokens.shape[-1])


def _put_queries(tokens: Tensor, rows: Tensor, bucket: Bucket) -> None:
    """[n g, r t, d] into [tokens, h, d], the inverse of `_queries`."""
    parts = rows.view(bucket.count, tokens.shape[1], len(bucket.later), -1).transpose(1, 2).to(tokens.dtype)
    flat, places = parts.reshape(len(bucket.queries), -1), bucket.queries
    if bucket.real is not None:
        flat, places = flat.index_select(0, bucket.real), places.index_select(0, bucket.real)
    tokens.view(len(tokens), -1).index_copy_(0, places, flat)


def _keys(tokens: Tensor, bucket: Bucket) -> Tensor:
    """[tokens, g, d] -> [n g, p + t, d]."""
    taken = tokens.flatten(1).index_select(0, bucket.keys).view(bucket.count, -1, *tokens.shape[1:])
    return taken.transpose(1, 2).reshape(-1, taken.shape[1], taken.shape[3])


def _add_keys(sums: Tensor, rows: Tensor, bucket: Bucket) -> None:
    """Adds [n g, p + t, d] to the tokens that the keys came from; padding adds 0 to token 0."""
    back = rows.view(bucket.count, sums.shape[1], *rows.shape[1:]).transpose(1, 2).reshape(len(bucket.keys), -1)
    sums.view(len(sums), -1).index_add_(0, bucket.keys, back.to(sums.dtype))
