"""A from-scratch model of one to three million parameters: whole recipes in seconds on a processor."""

import string
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from thinkrl.models.device import Device
from thinkrl.models.policy import Policy, build_policy
from thinkrl.models.pretrained import TORCH_DTYPES, Dtype, load_folder

PAD, UNKNOWN, TURN_START, TURN_END = "<|pad|>", "<|unk|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Turns between start and end marks. Nothing is trimmed or dropped, so n turns are a prefix of n + 1."""


@dataclass(frozen=True)
class TinyModel:
    """A Llama (arXiv 2302.13971) drawn at random, with a vocabulary of single bytes or characters."""

    hidden: int = 192
    """Width of the residual stream."""
    intermediate: int = 512
    """Width inside the gated feed-forward block."""
    layers: int = 4
    """Transformer blocks."""
    heads: int = 6
    """Query heads; must divide `hidden`."""
    kv_heads: int = 2
    """Key and value heads; must divide `heads`."""
    tokenizer: Literal["byte", "character"] = "byte"
    """`byte` writes any text; `character` knows printable ASCII and newlines, all else is one unknown token."""
    added_tokens: tuple[str, ...] = ("<think>", "</think>", "<answer>", "</answer>")
    """Strings that are one token each, and stay visible in decoded text."""
    paired_digits: bool = False
    """Two digits in a row are one token, from the left, where the tokenizer is of characters."""
    max_positions: int = 2048
    """Longest sequence, prompt and response together."""
    dtype: Dtype = "float32"
    """Precision of sampling and of the forward pass."""
    init_seed: int | None = None
    """Fixes the initial weights; none takes the seed of the run."""
    device: Device = "auto"
    """Where the model computes: `cuda`, `cpu`, or `auto`, the GPU when there is one."""

    def __post_init__(self) -> None:
        for name in ("hidden", "intermediate", "layers", "heads", "kv_heads", "max_positions"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.hidden % (2 * self.heads):
            raise ValueError(f"hidden must be an even multiple of heads ({self.heads}), got {self.hidden}")
        if self.paired_digits and self.tokenizer != "character":
            raise ValueError(f"paired_digits must be false with tokenizer {self.tokenizer}, got true")
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads must divide heads ({self.heads}), got {self.kv_heads}")

    def load(self, weights: Path | None = None, *, for_training: bool = False, seed: int = 0) -> Policy:
        """Draws the weights from `init_seed` (else `seed`), or loads the folder `weights` an earlier stage saved."""
        if weights is not None:
            return load_folder(
                weights,
                name=str(weights),
                dtype=self.dtype,
                stop_tokens=(),
                for_training=for_training,
                device=self.device,
            )
        tokenizer = self.load_tokenizer()
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            max_position_embeddings=self.max_positions,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed if self.init_seed is None else self.init_seed)
            module = LlamaForCausalLM(config)  # type: ignore[no-untyped-call]
        return build_policy(
            module,
            tokenizer,
            name="tiny",
            stop_ids=frozenset({int(tokenizer.eos_token_id)}),
            dtype=TORCH_DTYPES[self.dtype],
            for_training=for_training,
            device=self.device,
        )

    def load_tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer alone."""
        return tiny_tokenizer(self.tokenizer, self.added_tokens, self.paired_digits)


def tiny_tokenizer(
    kind: Literal["byte", "character"], added_tokens: tuple[str, ...] = (), paired_digits: bool = False
) -> PreTrainedTokenizerFast:
    """A tokenizer of single bytes or characters, with chat marks, padding apart from the end token, and a template.

    Bytes decode to exactly the text that was encoded. paired_digits: of characters, two digits in a row are a token.
    """
    special = (PAD, TURN_START, TURN_END) if kind == "byte" else (PAD, TURN_START, TURN_END, UNKNOWN)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet()) if kind == "byte" else ["\n", *string.printable[:95]]
    pairs = [f"{number:02}" for number in range(100)] if paired_digits else []
    vocabulary = {token: index for index, token in enumerate((*special, *added_tokens, *alphabet, *pairs))}
    tokenizer: Tokenizer
    if kind == "byte":
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.decoder = decoders.ByteLevel()
    else:
        tokenizer = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token=UNKNOWN))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(
            Regex(r"\d\d|[\s\S]" if pairs else r"[\s\S]"), behavior="isolated"
        )
        tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in added_tokens])
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=TURN_END,
        unk_token=UNKNOWN if kind == "character" else None,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast
