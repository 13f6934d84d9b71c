"""A decode step for the Llama family of blocks, written out: no per-layer module calls, no cache concatenation.

Covers Llama, Mistral without a window, Qwen2 (bias on queries, keys and values) and Qwen3 (norms on
queries and keys). In float32 the logits equal the module's own; in bfloat16 they differ by rounding, as two
batch sizes of the same module do.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaForCausalLM, MistralForCausalLM, PreTrainedModel, Qwen2ForCausalLM, Qwen3ForCausalLM

from thinkrl.kernels.decode import decode_kernels
from thinkrl.sampling.blocks import block_of
from thinkrl.sampling.kv_cache import KeyValueCache
from thinkrl.sampling.linear import FrozenLinear
from thinkrl.sampling.packed_prompts import PackedPrompts, passes
from thinkrl.sampling.shared_prompts import Prefill

_FAMILIES = (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)
_FIXED_ROTARY = ("default", "linear", "llama3", "yarn")


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

    def __init__(self, module: PreTrainedModel, *, compiled: bool = True) -> None:
        if not supports(module):
            raise ValueError(f"{type(module).__name__} with this configuration is not of the Llama block family")
        self._module: Any = module
        self._kernels = decode_kernels(module.model.embed_tokens.weight) if compiled else None
        self._cache: KeyValueCache | None = None
        self._beginning: Prefill | None = None
        self.refresh()

    @torch.inference_mode()
    def refresh(self) -> None:
        """Joins the current weights anew, and computes the rotary tables as the module does."""
        base = self._module.model
        self._blocks = [block_of(layer, self._module.config, self._kernels) for layer in base.layers]
        self._embedding: Tensor = base.embed_tokens.weight
        self._final_norm: Tensor = base.norm.weight
        self._head = FrozenLinear(self._module.lm_head.weight, self._module.lm_head.bias)
        positions = torch.arange(self._module.config.max_position_embeddings, device=self._embedding.device)
        cos, sin = base.rotary_emb(self._embedding[:1, None], positions[None])
        self._cos, self._sin = cos[0], sin[0]

    @torch.inference_mode()
    def begin(self, rows: int, beginning: Tensor) -> None:
        """Starts an empty batch of at most `rows` rows, and reads what all its prompts begin with."""
        block = self._blocks[0]
        self._cache = KeyValueCache(len(self._blocks), rows, block.kv_heads, block.head_dim, self._embedding)
        self._beginning = self._read([beginning], None)[0] if len(beginning) else None

    def end(self) -> None:
        """Drops the batch and its cache."""
        self._cache = None
        self._beginning = None

    def join(self, prefilled: Prefill, copies: int) -> None:
        """Appends `copies` rows that continue the prompt."""
        self._running().join(prefilled, copies)

    def arrange(self, sources: Sequence[int]) -> None:
        """Row i then continues what row `sources[i]` held; rows may be named several times, or not at all."""
        self._running().arrange(sources)

    def prefill(self, prompts: Sequence[Tensor]) -> list[Prefill]:
        """Reads prompts, each int64 [p] and longer than the beginning, several in a pass."""
        begun = 0 if self._beginning is None else self._beginning.tokens
        found: list[Prefill] = []
        for part in passes([len(prompt) - begun for prompt in prompts]):
            found += self._read([prompts[place][begun:] for place in part], self._beginning)
        return found

    def step(self, token_ids: Tensor) -> Tensor:
        """Appends one token to each row, int64 [b]; returns the logits that follow, [b, vocabulary]."""
        cache = self._running()
        positions = cache.advance()
        hidden = functional.embedding(token_ids, self._embedding)
        if self._kernels is not None:
            for layer, block in enumerate(self._blocks):
                hidden = block.decode(hidden, (self._cos, self._sin), cache.histories(layer))
            return self._logits(hidden)
        cos, sin = self._cos[positions, None], self._sin[positions, None]
        for layer, block in enumerate(self._blocks):
            queries, keys, values = block.project(hidden, cos, sin)
            mixed = cache.attend(layer, queries, keys, values, block.head_dim**-0.5)
            hidden = block.close(hidden, mixed)
        return self._logits(hidden)

    def _read(self, prompts: Sequence[Tensor], beginning: Prefill | None) -> list[Prefill]:
        """Prompts in one pass, without what they begin with."""
        packed = PackedPrompts(prompts, beginning)
        cos, sin = self._cos[packed.positions, None], self._sin[packed.positions, None]
        hidden = functional.embedding(packed.token_ids, self._embedding)
        for block in self._blocks:
            hidden = block.close(hidden, packed.attend(*block.project(hidden, cos, sin)))
        return packed.prefills(self._logits(hidden[packed.last]))

    def _logits(self, hidden: Tensor) -> Tensor:
        normal = functional.rms_norm(hidden, hidden.shape[-1:], self._final_norm, self._blocks[0].eps)
        return self._head(normal)

    def _running(self) -> KeyValueCache:
        if self._cache is None:
            raise RuntimeError("no batch is under way")
        return self._cache
