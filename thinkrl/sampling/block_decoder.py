"""A decode step for the Llama family of blocks, written out: no per-layer module calls, no cache concatenation.

Covers Llama, Mistral without a window, Qwen2 (bias on queries, keys and values) and Qwen3 (norms on
queries and keys). Each computes, with n(.) root-mean-square normalisation:

    h <- h + O attention(rope(Q n(h)), rope(K n(h)), V n(h))
    h <- h + D (silu(G n(h)) * U n(h))

Queries, keys and values are one product here, as are G and U. In float32 the logits equal the
module's own; in bfloat16 they differ by rounding, as two batch sizes of the same module do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaForCausalLM, MistralForCausalLM, PreTrainedModel, Qwen2ForCausalLM, Qwen3ForCausalLM

from thinkrl.sampling.kv_cache import KeyValueCache, Prefill
from thinkrl.sampling.linear import Linear, frozen_linear

_FAMILIES = (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)
_FIXED_ROTARY = ("default", "linear", "llama3", "yarn")


@dataclass(frozen=True, eq=False)
class _Block:
    """One block: linear layers laid out for speed (copies), norms that are the module's own."""

    input_norm: Tensor
    qkv: Linear
    query_norm: Tensor | None
    key_norm: Tensor | None
    out: Linear
    feed_norm: Tensor
    gate_up: Linear
    down: Linear


def of_the_family(module: PreTrainedModel) -> bool:
    """Whether the blocks of `module` compute what stands above, whatever computes their linear layers."""
    config: Any = module.config
    if type(module) not in _FAMILIES or config.hidden_act != "silu":
        return False
    if any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ()):
        return False
    if type(module) is MistralForCausalLM and config.sliding_window is not None:
        return False
    return config.rope_parameters["rope_type"] in _FIXED_ROTARY


def supports(module: PreTrainedModel) -> bool:
    """Whether `BlockDecoder` computes what `module` computes: known family, plain linear layers, full attention."""
    linear = [part for name, part in module.named_modules() if name.endswith("_proj")]
    return of_the_family(module) and all(type(part) is torch.nn.Linear for part in linear)


class BlockDecoder:
    """Decodes a ragged batch; rows join and leave at any step. Same duties as `Decoder` describes."""

    def __init__(self, module: PreTrainedModel) -> None:
        if not supports(module):
            raise ValueError(f"{type(module).__name__} with this configuration is not of the Llama block family")
        config: Any = module.config
        self._module: Any = module
        self._heads: int = config.num_attention_heads
        self._kv_heads: int = config.num_key_value_heads
        self._head_dim: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self._eps: float = config.rms_norm_eps
        self._cache: KeyValueCache | None = None
        self.refresh()

    @torch.inference_mode()
    def refresh(self) -> None:
        """Joins the current weights anew, and computes the rotary tables as the module does."""
        base = self._module.model
        self._blocks = [_block(layer) for layer in base.layers]
        self._embedding: Tensor = base.embed_tokens.weight
        self._final_norm: Tensor = base.norm.weight
        self._head = frozen_linear(self._module.lm_head.weight, self._module.lm_head.bias)
        positions = torch.arange(self._module.config.max_position_embeddings, device=self._embedding.device)
        cos, sin = base.rotary_emb(self._embedding[:1, None], positions[None])
        self._cos, self._sin = cos[0], sin[0]

    def begin(self, rows: int) -> None:
        """Starts an empty batch of at most `rows` rows."""
        self._cache = KeyValueCache(len(self._blocks), rows, self._kv_heads, self._head_dim, self._embedding)

    def end(self) -> None:
        """Drops the batch and its cache."""
        self._cache = None

    def join(self, prefilled: Prefill, copies: int) -> None:
        """Appends `copies` rows that continue the prompt."""
        self._running().join(prefilled, copies)

    def keep(self, rows: Sequence[int]) -> None:
        """Leaves only `rows`, in that order; rows that move come from behind those that stay."""
        self._running().keep(rows)

    def prefill(self, prompt: Tensor) -> Prefill:
        """Reads one prompt, int64 [p]."""
        cos, sin = self._cos[: len(prompt), None], self._sin[: len(prompt), None]
        shared = self._heads // self._kv_heads
        hidden = functional.embedding(prompt, self._embedding)
        all_keys, all_values = [], []
        for block in self._blocks:
            queries, keys, values = (part.transpose(0, 1) for part in self._project(block, hidden, cos, sin))
            mixed = functional.scaled_dot_product_attention(
                queries[None],
                keys.repeat_interleave(shared, 0)[None],
                values.repeat_interleave(shared, 0)[None],
                is_causal=True,
            )
            hidden = self._close(block, hidden, mixed[0].transpose(0, 1).flatten(1))
            all_keys.append(keys)
            all_values.append(values)
        return Prefill(self._logits(hidden[-1:]), tuple(all_keys), tuple(all_values))

    def step(self, token_ids: Tensor) -> Tensor:
        """Appends one token to each row, int64 [b]; returns the logits that follow, [b, vocabulary]."""
        cache = self._running()
        positions = cache.advance()
        cos, sin = self._cos[positions, None], self._sin[positions, None]
        hidden = functional.embedding(token_ids, self._embedding)
        for layer, block in enumerate(self._blocks):
            queries, keys, values = self._project(block, hidden, cos, sin)
            mixed = cache.attend(layer, queries, keys, values, self._head_dim**-0.5)
            hidden = self._close(block, hidden, mixed)
        return self._logits(hidden)

    def _project(self, block: _Block, hidden: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries [..., heads, head_dim], rotated keys and plain values [..., kv_heads, head_dim]."""
        normal = functional.rms_norm(hidden, hidden.shape[-1:], block.input_norm, self._eps)
        joined = block.qkv(normal).view(*hidden.shape[:-1], -1, self._head_dim)
        queries_keys, values = torch.split(joined, [self._heads + self._kv_heads, self._kv_heads], dim=-2)
        if block.query_norm is not None and block.key_norm is not None:
            queries, keys = torch.split(queries_keys, [self._heads, self._kv_heads], dim=-2)
            size = (self._head_dim,)
            queries = functional.rms_norm(queries, size, block.query_norm, self._eps)
            keys = functional.rms_norm(keys, size, block.key_norm, self._eps)
            queries_keys = torch.cat([queries, keys], dim=-2)
        left, right = queries_keys.chunk(2, dim=-1)
        rotated = queries_keys * cos + torch.cat([-right, left], dim=-1) * sin
        queries, keys = torch.split(rotated, [self._heads, self._kv_heads], dim=-2)
        return queries, keys, values

    def _close(self, block: _Block, hidden: Tensor, mixed: Tensor) -> Tensor:
        """The rest of a block after attention."""
        hidden = hidden + block.out(mixed)
        normal = functional.rms_norm(hidden, hidden.shape[-1:], block.feed_norm, self._eps)
        gate, up = block.gate_up(normal).chunk(2, dim=-1)
        return hidden + block.down(functional.silu(gate) * up)

    def _logits(self, hidden: Tensor) -> Tensor:
        normal = functional.rms_norm(hidden, hidden.shape[-1:], self._final_norm, self._eps)
        return self._head(normal)

    def _running(self) -> KeyValueCache:
        if self._cache is None:
            raise RuntimeError("no batch is under way")
        return self._cache


def _block(layer: Any) -> _Block:
    attention, feed = layer.self_attn, layer.mlp
    norms = [getattr(attention, name, None) for name in ("q_norm", "k_norm")]
    query_norm, key_norm = (None if norm is None else norm.weight for norm in norms)
    return _Block(
        input_norm=layer.input_layernorm.weight,
        qkv=_joined(attention.q_proj, attention.k_proj, attention.v_proj),
        query_norm=query_norm,
        key_norm=key_norm,
        out=_joined(attention.o_proj),
        feed_norm=layer.post_attention_layernorm.weight,
        gate_up=_joined(feed.gate_proj, feed.up_proj),
        down=_joined(feed.down_proj),
    )


def _joined(*parts: torch.nn.Linear) -> Linear:
    """Several linear layers of one input as a single product."""
    biases = [part.bias.detach() for part in parts if part.bias is not None]
    if biases and len(biases) != len(parts):
        raise ValueError("linear layers of one input must all have a bias or none")
    return frozen_linear(torch.cat([part.weight.detach() for part in parts]), torch.cat(biases) if biases else None)
