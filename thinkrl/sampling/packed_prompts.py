"""Several prompts read in one pass: no padding in the products, and their common beginning read once for all."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from thinkrl.sampling.shared_prompts import Prefill

_PASS_TOKENS = 2048
"""Tokens of one pass, counted as attention sees them: the number of prompts times the longest."""


class PackedPrompts:
    """What n prompts have of their own behind a common beginning of c tokens, one after the other, t tokens in all.

    Attention sees them as a padded table [n, longest]. Token i of a prompt attends to the beginning and to the
    prompt's tokens up to i, which hides what stands behind shorter prompts as well.
    """

    def __init__(self, prompts: Sequence[Tensor], beginning: Prefill | None) -> None:
        self._beginning = beginning
        self._begun = 0 if beginning is None else beginning.tokens
        self._lengths = [len(prompt) for prompt in prompts]
        self._longest = max(self._lengths)
        device = prompts[0].device
        self.token_ids = torch.cat(list(prompts))
        """int64 [t]."""
        inside = torch.cat([torch.arange(length, device=device) for length in self._lengths])
        self.positions = inside + self._begun
        """int64 [t]."""
        starts = torch.arange(len(prompts), device=device) * self._longest
        self._places = inside + starts.repeat_interleave(torch.tensor(self._lengths, device=device))
        self.last = torch.tensor(self._lengths, device=device).cumsum(0) - 1
        """Where each prompt's last token stands, int64 [n]."""
        seen = torch.ones((self._longest, self._begun + self._longest), dtype=torch.bool, device=device)
        self._mask = seen.tril(self._begun)
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attention of the next layer: queries [t, heads, head_dim], keys and values [t, kv_heads, head_dim] to
        [t, heads * head_dim]. The keys and values are kept for `prefills`."""
        layer = len(self._keys)
        keys, values = self._table(keys), self._table(values)
        if self._beginning is not None:
            keys, values = (
                torch.cat([before[layer].expand(len(new), -1, -1, -1), new], dim=2)
                for before, new in ((self._beginning.keys, keys), (self._beginning.values, values))
            )
        self._keys.append(keys)
        self._values.append(values)
        shared = queries.shape[1] // keys.shape[1]
        mixed = functional.scaled_dot_product_attention(
            self._table(queries),
            keys.repeat_interleave(shared, 1),
            values.repeat_interleave(shared, 1),
            attn_mask=self._mask if self._begun else None,
            is_causal=not self._begun,
        )
        return mixed.transpose(1, 2).flatten(2).flatten(0, 1).index_select(0, self._places)

    def prefills(self, logits: Tensor) -> list[Prefill]:
        """The prompts as read, once every layer has attended; `logits` are those after the last tokens, [n, v]."""
        return [
            Prefill(
                logits[i : i + 1],
                # Copies, so that a prompt's memory does not wait for the others that were read with it.
                tuple(keys[i, :, : self._begun + length].clone() for keys in self._keys),
                tuple(values[i, :, : self._begun + length].clone() for values in self._values),
            )
            for i, length in enumerate(self._lengths)
        ]

    def _table(self, tokens: Tensor) -> Tensor:
        """[t, heads, d] to [n, heads, longest, d], zeros behind shorter prompts."""
        heads, size = tokens.shape[1:]
        table = tokens.new_zeros((len(self._lengths) * self._longest, heads, size))
        table.index_copy_(0, self._places, tokens)
        return table.view(-1, self._longest, heads, size).transpose(1, 2)


def passes(lengths: Sequence[int]) -> list[range]:
    """Consecutive prompts that are read together: as many as fit in a pass, at least one."""
    parts: list[range] = []
    start = 0
    for end in range(1, len(lengths) + 1):
        if end == len(lengths) or (end + 1 - start) * max(lengths[start : end + 1]) > _PASS_TOKENS:
            parts.append(range(start, end))
            start = end
    return parts


def common_beginning(prompts: Sequence[Tensor]) -> Tensor:
    """What all of several prompts begin with, leaving each at least one token of its own; empty for one prompt."""
    first = prompts[0]
    if len(prompts) < 2:
        return first[:0]
    length = min(map(len, prompts)) - 1
    for other in prompts[1:]:
        differing = (first[:length] != other[:length]).nonzero()
        length = int(differing[0]) if len(differing) else length
    return first[:length]
