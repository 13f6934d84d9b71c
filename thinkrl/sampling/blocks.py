"""A block of the Llama family, written out: no module calls, products laid out for speed and joined where they can be.

With n(.) root-mean-square normalisation, a block computes

    h <- h + O attention(rope(Q n(h)), rope(K n(h)), V n(h))
    h <- h + D (silu(G n(h)) * U n(h))

Queries, keys and values are one product here; silu, the product with U and the sums happen inside the matrix products.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from thinkrl.kernels.decode import DecodeKernels, Histories
from thinkrl.sampling.linear import FrozenLinear


@dataclass(frozen=True, eq=False)
class Block:
    """One block: linear layers laid out for speed (copies where they are joined or packed), norms that are the
    module's own."""

    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    input_norm: Tensor
    qkv: FrozenLinear
    query_norm: Tensor | None
    key_norm: Tensor | None
    out: FrozenLinear
    feed_norm: Tensor
    gate: FrozenLinear
    up: FrozenLinear
    down: FrozenLinear
    kernels: DecodeKernels | None = None
    """Compute norms and attention of a decode step where the machine has them."""

    def decode(self, hidden: Tensor, tables: tuple[Tensor, Tensor], histories: Histories) -> Tensor:
        """The whole block by the kernels, for one new position of each row: [b, hidden] to [b, hidden].

        tables: cos and sin [positions, head_dim]. histories: what the rows have read; gets the new position.
        """
        if self.kernels is None:
            raise RuntimeError("decode needs kernels, and this block has none")
        joined = self.qkv(self._normal(hidden, self.input_norm))
        norms = None if self.query_norm is None or self.key_norm is None else (self.query_norm, self.key_norm)
        mixed = self.kernels.attend(joined, self.heads, norms, self.eps, tables, histories, self.head_dim**-0.5)
        return self.close(hidden, mixed)

    def project(self, hidden: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What attention needs, from [b, hidden] and rotations [b, 1, head_dim].

        Rotated queries [b, heads, head_dim], rotated keys and plain values [b, kv_heads, head_dim].
        """
        joined = self.qkv(self._normal(hidden, self.input_norm)).view(len(hidden), -1, self.head_dim)
        queries_keys, values = torch.split(joined, [self.heads + self.kv_heads, self.kv_heads], dim=1)
        if self.query_norm is not None and self.key_norm is not None:
            queries, keys = torch.split(queries_keys, [self.heads, self.kv_heads], dim=1)
            queries = functional.rms_norm(queries, (self.head_dim,), self.query_norm, self.eps)
            keys = functional.rms_norm(keys, (self.head_dim,), self.key_norm, self.eps)
            queries_keys = torch.cat([queries, keys], dim=1)
        left, right = queries_keys.chunk(2, dim=-1)
        rotated = queries_keys * cos + torch.cat([-right, left], dim=-1) * sin
        queries, keys = torch.split(rotated, [self.heads, self.kv_heads], dim=1)
        return queries, keys, values

    def close(self, hidden: Tensor, mixed: Tensor) -> Tensor:
        """The rest of the block after attention gave `mixed` [b, heads * head_dim]; [b, hidden]."""
        hidden = self.out.plus(mixed, hidden)
        normal = self._normal(hidden, self.feed_norm)
        return self.down.plus(self.up.times(normal, self.gate.silu(normal)), hidden)

    def _normal(self, hidden: Tensor, weight: Tensor) -> Tensor:
        if self.kernels is not None:
            return self.kernels.rms_norm(hidden, weight, self.eps)
        return functional.rms_norm(hidden, hidden.shape[-1:], weight, self.eps)


def block_of(layer: Any, config: Any, kernels: DecodeKernels | None = None) -> Block:
    """The block that a transformers decoder layer holds now; a change of its weights does not reach it."""
    attention, feed = layer.self_attn, layer.mlp
    norms = [getattr(attention, name, None) for name in ("q_norm", "k_norm")]
    query_norm, key_norm = (None if norm is None else norm.weight for norm in norms)
    return Block(
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        eps=config.rms_norm_eps,
        input_norm=layer.input_layernorm.weight,
        qkv=_joined(attention.q_proj, attention.k_proj, attention.v_proj),
        query_norm=query_norm,
        key_norm=key_norm,
        out=_joined(attention.o_proj),
        feed_norm=layer.post_attention_layernorm.weight,
        gate=_joined(feed.gate_proj),
        up=_joined(feed.up_proj),
        down=_joined(feed.down_proj),
        kernels=kernels,
    )


def _joined(*parts: torch.nn.Linear) -> FrozenLinear:
    """Several linear layers of one input as a single product; a single layer is not copied where it is not laid out
    anew, as on a GPU."""
    biases = [part.bias.detach() for part in parts if part.bias is not None]
    if biases and len(biases) != len(parts):
        raise ValueError("linear layers of one input must all have a bias or none")
    weights = [part.weight.detach() for part in parts]
    if len(parts) == 1:
        return FrozenLinear(weights[0], biases[0] if biases else None)
    return FrozenLinear(torch.cat(weights), torch.cat(biases) if biases else None)
