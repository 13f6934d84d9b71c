"""Tiny modules of each block family, drawn at random, with weights large enough to make attention matter."""

from typing import Any

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from thinkrl.models.policy import Policy, build_policy
from thinkrl.models.tiny import tiny_tokenizer

SIZES: dict[str, Any] = {
    "vocab_size": 260,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.15,
}
LLAMA3_ROTARY = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FAMILIES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "llama-tied": (LlamaConfig, LlamaForCausalLM, {"tie_word_embeddings": True}),
    "llama-untied": (LlamaConfig, LlamaForCausalLM, {"tie_word_embeddings": False}),
    "llama-biased": (LlamaConfig, LlamaForCausalLM, {"attention_bias": True, "mlp_bias": True}),
    "llama3-rotary": (LlamaConfig, LlamaForCausalLM, {"rope_parameters": LLAMA3_ROTARY}),
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": None}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {"tie_word_embeddings": True}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 16, "tie_word_embeddings": False}),
}


def tiny_module(family: str, **changes: Any) -> PreTrainedModel:
    config_class, module_class, fields = FAMILIES[family]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        module = module_class(config_class(**(SIZES | fields | changes)))
        for name, parameter in module.named_parameters():
            if "norm" in name or "bias" in name:  # ones and zeros would hide a norm or a bias that is left out
                parameter.data += 0.3 * torch.randn_like(parameter)
    return module.train(False)


def tiny_policy(family: str = "llama-tied", *, dtype: torch.dtype = torch.float32, **changes: Any) -> Policy:
    tokenizer = tiny_tokenizer("byte")
    return build_policy(
        tiny_module(family, **changes),
        tokenizer,
        name=family,
        stop_ids=frozenset({tokenizer.eos_token_id}),
        dtype=dtype,
        for_training=False,
    )
