"""Keys and values of a running batch, tightly packed so that batched products read them in place."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_QUANTUM = 64
"""Positions are added in steps of this many, so that growing costs little and padding stays small."""


@dataclass(frozen=True, eq=False)
class Prefill:
    """A prompt that has been read: logits after its last token [1, vocabulary], its keys and values.

    `keys` and `values` hold one tensor per layer, [kv_heads, tokens, head_dim].
    """

    logits: Tensor
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]


class KeyValueCache:
    """One pair of tensors per layer, [rows * kv_heads, capacity, head_dim], contiguous; `count` rows are in use.

    On a processor, bfloat16 batched products over a slice of longer rows would first copy it, so the
    capacity follows the longest row in use instead of being set once. Unused positions hold finite
    numbers at all times: they are masked out by probability 0, which would not silence a NaN.
    """

    def __init__(self, layers: int, rows: int, kv_heads: int, head_dim: int, like: Tensor) -> None:
        self._shape = (rows, kv_heads, head_dim)
        self._like = like
        self._lengths: list[int] = []
        self.keys = [self._empty(0) for _ in range(layers)]
        self.values = [self._empty(0) for _ in range(layers)]

    @property
    def count(self) -> int:
        """Rows in use."""
        return len(self._lengths)

    @property
    def capacity(self) -> int:
        """Positions each row has room for."""
        return self.keys[0].shape[1]

    def lengths(self) -> Tensor:
        """Positions filled in each row in use, int64 [count]."""
        return torch.tensor(self._lengths, device=self._like.device)

    def join(self, prefill: Prefill, copies: int) -> None:
        """Appends `copies` rows that start with the prompt."""
        first, length = self.count, prefill.keys[0].shape[1]
        self._lengths += [length] * copies
        self._fit()
        for own, given in ((self.keys, prefill.keys), (self.values, prefill.values)):
            for tensor, prompt in zip(own, given, strict=True):
                self._rows(tensor)[first : self.count, :, :length] = prompt

    def keep(self, rows: Sequence[int]) -> None:
        """Leaves only `rows`, in that order. Row `rows[i]` moves to i, so each must be i or no longer needed at i."""
        moves = [(source, target) for target, source in enumerate(rows) if source != target]
        if any(source < len(rows) for source, _ in moves):
            raise ValueError("rows that move must come from behind the rows that stay")
        if moves:
            sources, targets = (torch.tensor(side, device=self._like.device) for side in zip(*moves, strict=True))
            for tensor in (*self.keys, *self.values):
                self._rows(tensor)[targets] = self._rows(tensor)[sources]
        self._lengths = [self._lengths[row] for row in rows]

    def advance(self) -> Tensor:
        """Makes room for one more position in every row in use and returns its index, int64 [count]."""
        position = self.lengths()
        self._lengths = [length + 1 for length in self._lengths]
        self._fit()
        return position

    def _fit(self) -> None:
        needed = -(-max(self._lengths, default=0) // _QUANTUM) * _QUANTUM
        if self.capacity < needed or self.capacity > needed + 2 * _QUANTUM:
            for tensors in (self.keys, self.values):
                for layer, tensor in enumerate(tensors):
                    tensors[layer] = self._resized(tensor, needed)

    def _resized(self, tensor: Tensor, capacity: int) -> Tensor:
        grown = self._empty(capacity)
        shared = min(capacity, tensor.shape[1])
        used = self.count * self._shape[1]
        grown[:used, :shared] = tensor[:used, :shared]
        return grown

    def _empty(self, capacity: int) -> Tensor:
        rows, kv_heads, head_dim = self._shape
        return self._like.new_zeros((rows * kv_heads, capacity, head_dim))

    def _rows(self, tensor: Tensor) -> Tensor:
        rows, kv_heads, head_dim = self._shape
        return tensor.view(rows, kv_heads, tensor.shape[1], head_dim)
