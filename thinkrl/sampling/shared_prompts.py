"""Prompts that several rows continue: their keys and values once, and all their rows' attention in one product."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Prefill:
    """A prompt that has been read: logits after its last token [1, vocabulary], its keys and values.

    `keys` and `values` hold one tensor per layer, [kv_heads, tokens, head_dim].
    """

    logits: Tensor
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @property
    def tokens(self) -> int:
        """Length of the prompt."""
        return self.keys[0].shape[1]


class PromptTable:
    """Keys and values of g prompts side by side, [g * kv_heads, longest prompt, head_dim] per layer.

    What stands behind a shorter prompt is zero, and hidden by `mask` [g * kv_heads, 1, longest prompt].
    """

    def __init__(self, prompts: Sequence[Prefill]) -> None:
        like = prompts[0].keys[0]
        self.prompts = tuple(prompts)
        self.kv_heads: int = like.shape[0]
        self.lengths = torch.tensor([prompt.tokens for prompt in prompts], device=like.device)
        self.keys = [_stacked(layer) for layer in zip(*(prompt.keys for prompt in prompts), strict=True)]
        self.values = [_stacked(layer) for layer in zip(*(prompt.values for prompt in prompts), strict=True)]
        positions = torch.arange(self.keys[0].shape[1], device=like.device)
        self.mask = hiding(positions >= self.lengths[:, None], like).repeat_interleave(self.kv_heads, 0)[:, None]


class SharedAttention:
    """Attention of b rows to the prompts of a table, each row to its own.

    The rows are seated in a table of g prompts by n seats, n being the largest number of rows of a prompt;
    empty seats hold row 0, and nothing is read from them.
    """

    def __init__(self, table: PromptTable, prompt_of: Sequence[int]) -> None:
        self.table = table
        device = table.lengths.device
        members: list[list[int]] = [[] for _ in table.prompts]
        places = []
        for row, prompt in enumerate(prompt_of):
            places.append((prompt, len(members[prompt])))
            members[prompt].append(row)
        self._seats = max(map(len, members))
        rows_at = [row for rows in members for row in (*rows, *[0] * (self._seats - len(rows)))]
        self._rows_at = torch.tensor(rows_at, device=device)
        self._place_of = torch.tensor([prompt * self._seats + seat for prompt, seat in places], device=device)
        self.prompt_of = torch.tensor(list(prompt_of), device=device)
        """Number of each row's prompt, int64 [b]."""
        self.prompt_lengths = table.lengths[self.prompt_of]
        """Length of each row's prompt, int64 [b]."""

    def scores(self, layer: int, queries: Tensor, scale: float) -> Tensor:
        """Scores of [b * kv_heads, q, head_dim] over each row's prompt, [b * kv_heads, q, longest prompt]."""
        keys = self.table.keys[layer].transpose(1, 2)
        return self._to_rows(torch.baddbmm(self.table.mask, self._to_table(queries), keys, alpha=scale))

    def mix(self, layer: int, probabilities: Tensor) -> Tensor:
        """Values of each row's prompt by `probabilities` [b * kv_heads, q, longest prompt], [b * kv_heads, q, d]."""
        return self._to_rows(torch.bmm(self._to_table(probabilities), self.table.values[layer]))

    def _to_table(self, rows: Tensor) -> Tensor:
        """[b * kv_heads, q, d] to [g * kv_heads, n * q, d]."""
        kv_heads, prompts = self.table.kv_heads, len(self.table.prompts)
        queries, width = rows.shape[1:]
        picked = rows.reshape(-1, kv_heads * queries * width).index_select(0, self._rows_at)
        split = picked.view(prompts, self._seats, kv_heads, queries, width)
        return split.transpose(1, 2).reshape(prompts * kv_heads, self._seats * queries, width)

    def _to_rows(self, table: Tensor) -> Tensor:
        """[g * kv_heads, n * q, d] to [b * kv_heads, q, d]."""
        kv_heads, prompts, width = self.table.kv_heads, len(self.table.prompts), table.shape[-1]
        split = table.view(prompts, kv_heads, self._seats, -1, width).transpose(1, 2)
        queries = split.shape[3]
        rows = split.reshape(prompts * self._seats, -1).index_select(0, self._place_of)
        return rows.view(-1, queries, width)


def hiding(hidden: Tensor, like: Tensor) -> Tensor:
    """An additive mask, minus infinity where `hidden` is true, of the precision of `like`."""
    return torch.zeros_like(hidden, dtype=like.dtype).masked_fill_(hidden, -torch.inf)


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    """Keys or values of prompts [kv_heads, tokens, d], zeros behind the shorter ones, [g * kv_heads, longest, d]."""
    longest = max(tensor.shape[1] for tensor in tensors)
    padded = tensors[0].new_zeros((len(tensors), tensors[0].shape[0], longest, tensors[0].shape[2]))
    for place, tensor in enumerate(tensors):
        padded[place, :, : tensor.shape[1]] = tensor
    return padded.flatten(0, 1)
