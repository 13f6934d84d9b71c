"""The body of the Llama family of models for the learner, written out: few passes over memory, little kept.

Covers what `sampling/block_decoder.py` covers for sampling: Llama, Mistral without a window, Qwen2 (bias on
queries, keys and values) and Qwen3 (norms on queries and keys). Each block computes, with n(.) root-mean-square
normalisation and a(.) attention along the branches of a row,

    h <- h + O a(rope(Q n(h)), rope(K n(h)), V n(h))
    h <- h + D (silu(G n(h)) * U n(h))

Norm, rotation and gate have their gradients written out: autograd would keep every intermediate of them in
float32, which is more than all that the matrix products need. In float32 values and gradients equal those of the
module; in bfloat16 they differ by rounding.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from thinkrl.kernels.learn import LearnKernels, learn_kernels
from thinkrl.learning.branch_attention import Bucket, attend
from thinkrl.sampling.block_decoder import of_the_family


def writes_out(module: PreTrainedModel) -> bool:
    """Whether `BlockBody` computes what `module` computes: a known family, whose weights are whole. Linear layers may
    be adapted, since they are called as they are; the embedding is read, and must be a plain one."""
    whole = not any(hasattr(parameter, "ds_id") for parameter in module.parameters())  # DeepSpeed's mark of a part
    base: Any = module.base_model
    return whole and of_the_family(module) and type(base.embed_tokens) is torch.nn.Embedding


class BlockBody:
    """Reads the weights of a module at every call, as parameters that get gradients.

    checkpointing: keeps the input of each block alone, and computes the block again in the backward pass.
    compiled: uses kernels in C for what stands between the products, where there are any.
    """

    def __init__(self, module: PreTrainedModel, *, checkpointing: bool = False, compiled: bool = True) -> None:
        if not writes_out(module):
            raise ValueError(f"{type(module).__name__} with this configuration is not of the Llama block family")
        config, base = cast("Any", module.config), cast("Any", module.base_model)
        self._base = base
        self._head_dim: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self._checkpointing = checkpointing
        self._kernels = learn_kernels(base.embed_tokens.weight) if compiled else None

    def __call__(self, ids: Tensor, positions: Tensor, buckets: Sequence[Bucket]) -> Tensor:
        """Last hidden states [l, h] of tokens [l] at `positions` [l], which attend as `buckets` say."""
        hidden = functional.embedding(ids, self._base.embed_tokens.weight)
        # The module's own tables, which hold cos and sin twice over.
        cos, sin = (table[0, :, None] for table in self._base.rotary_emb(hidden[None], positions[None]))
        for layer in self._base.layers:
            if self._checkpointing and torch.is_grad_enabled():
                hidden = cast("Tensor", checkpoint(self._block, layer, hidden, cos, sin, buckets, use_reentrant=False))
            else:
                hidden = self._block(layer, hidden, cos, sin, buckets)
        return self._normal(self._base.norm, hidden)

    def _block(self, layer: Any, hidden: Tensor, cos: Tensor, sin: Tensor, buckets: Sequence[Bucket]) -> Tensor:
        attention, feed = layer.self_attn, layer.mlp
        normal = self._normal(layer.input_layernorm, hidden)
        queries, keys, values = (
            part(normal).view(len(hidden), -1, self._head_dim)
            for part in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        if hasattr(attention, "q_norm"):
            queries, keys = self._normal(attention.q_norm, queries), self._normal(attention.k_norm, keys)
        queries, keys = (_Rotation.apply(part, cos, sin, self._kernels) for part in (queries, keys))  # type: ignore[no-untyped-call]
        mixed = attend(queries, keys, values, buckets, self._head_dim**-0.5, self._kernels)
        hidden = hidden + attention.o_proj(mixed.flatten(1))
        normal = self._normal(layer.post_attention_layernorm, hidden)
        gated = _Gate.apply(feed.gate_proj(normal), feed.up_proj(normal), self._kernels)  # type: ignore[no-untyped-call]
        return hidden + cast("Tensor", feed.down_proj(gated))

    def _normal(self, norm: Any, x: Tensor) -> Tensor:
        return cast("Tensor", _Normal.apply(x, norm.weight, norm.variance_epsilon, self._kernels))  # type: ignore[no-untyped-call]


class _Normal(torch.autograd.Function):
    """y = w u with u = x / r, r = sqrt(mean(x^2) + e), over the last axis of n entries (arXiv 1910.07467).
    dw = sum dy u, dx = (g - u mean(g u)) / r with g = w dy."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float, kernels: LearnKernels | None = None) -> Tensor:
        ctx.kernels = kernels
        if kernels is not None:
            normal, scale = kernels.normal(x, weight, epsilon)
            ctx.save_for_backward(x, weight, scale)
            return normal
        wide = x.to(_wide(x))
        scale = torch.linalg.vecdot(wide, wide).div_(x.shape[-1]).add_(epsilon).rsqrt_().unsqueeze(-1)
        ctx.save_for_backward(x, weight, scale)
        unit: Tensor = (wide * scale).to(x.dtype)
        return unit.mul_(weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        if ctx.kernels is not None:
            gradients = ctx.kernels.normal_gradients(x, weight, scale, grads[0])
            return gradients[0], gradients[1].to(weight.dtype), None, None
        unit, grad = x.to(_wide(x)) * scale, grads[0].to(_wide(x))
        product = grad * unit
        grad_weight = product.flatten(0, -2).sum(dim=0).to(weight.dtype) if ctx.needs_input_grad[1] else None
        mean = (product @ weight.to(product.dtype)).div_(x.shape[-1]).unsqueeze(-1)
        grad_x = torch.addcmul(grad * weight.to(grad.dtype), unit, mean, value=-1).mul_(scale)
        return grad_x.to(x.dtype), grad_weight, None, None


class _Rotation(torch.autograd.Function):
    """(a, b) -> (a cos - b sin, b cos + a sin), halves of the last axis (arXiv 2104.09864); back by the inverse."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, kernels: LearnKernels | None = None) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.kernels = kernels
        return _turned(x, cos, sin, 1, kernels)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return _turned(grads[0], cos, sin, -1, ctx.kernels), None, None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor, direction: int, kernels: LearnKernels | None) -> Tensor:
    if kernels is not None:
        return kernels.rotated(x, cos, sin, direction)
    half = x.shape[-1] // 2
    turned = x * cos
    turned[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-direction)
    turned[..., half:].addcmul_(x[..., :half], sin[..., half:], value=direction)
    return turned


class _Gate(torch.autograd.Function):
    """y = silu(g) u. du = dy silu(g), dg = dy u silu'(g); silu(g) is made again rather than kept."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, kernels: LearnKernels | None = None) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.kernels = kernels
        if kernels is not None:
            return kernels.gate(gate, up)
        return functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        if ctx.kernels is not None:
            return (*ctx.kernels.gate_gradients(gate, up, grads[0]), None)
        grad_gate = torch.ops.aten.silu_backward(grads[0] * up, gate)
        return grad_gate, functional.silu(gate).mul_(grads[0]), None


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
