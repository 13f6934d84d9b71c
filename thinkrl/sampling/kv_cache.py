"""Keys and values of a running batch: each prompt's once for all its rows, each row's own behind it."""

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

    @property
    def tokens(self) -> int:
        """Length of the prompt."""
        return self.keys[0].shape[1]


class KeyValueCache:
    """Attention of b rows, each of which continues one of g prompts.

    A prompt stands once, however many rows continue it, and all its rows attend to it in one product:
    prompts are [g * kv_heads, longest prompt, head_dim] per layer. What rows have of their own is
    [rows * kv_heads, capacity, head_dim]. One softmax runs over both parts of a row.

    On a processor, bfloat16 batched products over a slice of longer rows would first copy it, so the
    capacity follows the longest row in use instead of being set once. Unused positions hold finite
    numbers at all times: they are masked out by probability 0, which would not silence a NaN.
    """

    def __init__(self, layers: int, rows: int, kv_heads: int, head_dim: int, like: Tensor) -> None:
        self._layers = layers
        self._shape = (rows, kv_heads, head_dim)
        self._like = like
        self._lengths: list[int] = []
        self._prompts: list[Prefill] = []
        self._prompt_of: list[int] = []
        self._keys = [self._empty(0) for _ in range(layers)]
        self._values = [self._empty(0) for _ in range(layers)]
        self._sharing: _Sharing | None = None
        self._own_mask = like.new_zeros(())
        self._places = like.new_zeros(())

    @property
    def count(self) -> int:
        """Rows in use."""
        return len(self._lengths)

    def join(self, prefill: Prefill, copies: int) -> None:
        """Appends `copies` rows that continue the prompt."""
        place = next((place for place, prompt in enumerate(self._prompts) if prompt is prefill), None)
        if place is None:
            place = len(self._prompts)
            self._prompts.append(prefill)
        self._prompt_of += [place] * copies
        self._lengths += [0] * copies
        self._sharing = None
        self._fit()

    def keep(self, rows: Sequence[int]) -> None:
        """Leaves only `rows`, in that order. Row `rows[i]` moves to i, so each must be i or no longer needed at i."""
        moves = [(source, target) for target, source in enumerate(rows) if source != target]
        if any(source < len(rows) for source, _ in moves):
            raise ValueError("rows that move must come from behind the rows that stay")
        if moves:
            sources, targets = (torch.tensor(side, device=self._like.device) for side in zip(*moves, strict=True))
            for tensor in (*self._keys, *self._values):
                self._rows(tensor)[targets] = self._rows(tensor)[sources]
        self._lengths = [self._lengths[row] for row in rows]
        prompt_of = [self._prompt_of[row] for row in rows]
        left = sorted(set(prompt_of))
        self._prompts = [self._prompts[place] for place in left]
        self._prompt_of = [left.index(place) for place in prompt_of]
        self._sharing = None

    def advance(self) -> Tensor:
        """Makes room for one more position in every row in use and returns its index, int64 [count]."""
        kv_heads, device = self._shape[1], self._like.device
        own = torch.tensor(self._lengths, device=device)
        self._lengths = [length + 1 for length in self._lengths]
        self._fit()
        capacity = self._keys[0].shape[1]
        self._own_mask = _hidden(torch.arange(capacity, device=device) > own[:, None], self._like)
        self._own_mask = self._own_mask.repeat_interleave(kv_heads, 0)[:, None]
        self._places = torch.arange(self.count * kv_heads, device=device) * capacity + own.repeat_interleave(kv_heads)
        if self._sharing is None:
            self._sharing = _Sharing(self._prompts, self._prompt_of, self._layers, self._like)
        return own + self._sharing.prompt_lengths

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
        """Adds the position that `advance` made room for, and attends from it.

        queries [b, heads, head_dim], keys and values [b, kv_heads, head_dim] to [b, heads * head_dim].
        """
        sharing = self._sharing
        if sharing is None:
            raise RuntimeError("advance must come before attend")
        head_dim, used = self._shape[2], self.count * self._shape[1]
        for stored, new in ((self._keys[layer], keys), (self._values[layer], values)):
            stored.view(-1, head_dim).index_copy_(0, self._places, new.reshape(used, head_dim))
        grouped = queries.reshape(used, -1, head_dim)
        own = torch.baddbmm(self._own_mask, grouped, self._keys[layer][:used].transpose(1, 2), alpha=scale)
        shared = sharing.scores(layer, grouped, scale)
        probabilities = torch.cat([shared, own], dim=-1).softmax(-1)
        mixed = torch.bmm(probabilities[..., shared.shape[-1] :], self._values[layer][:used])
        return (mixed + sharing.mix(layer, probabilities[..., : shared.shape[-1]])).view(self.count, -1)

    def _fit(self) -> None:
        # At least one position, which the next token takes: a table without any would leave nothing to add to.
        needed = max(-(-max(self._lengths, default=0) // _QUANTUM), 1) * _QUANTUM
        capacity = self._keys[0].shape[1]
        if capacity < needed or capacity > needed + 2 * _QUANTUM:
            for tensors in (self._keys, self._values):
                for layer, tensor in enumerate(tensors):
                    tensors[layer] = self._resized(tensor, needed)

    def _resized(self, tensor: Tensor, capacity: int) -> Tensor:
        grown = self._empty(capacity)
        kept = min(capacity, tensor.shape[1])
        used = self.count * self._shape[1]
        grown[:used, :kept] = tensor[:used, :kept]
        return grown

    def _empty(self, capacity: int) -> Tensor:
        rows, kv_heads, head_dim = self._shape
        return self._like.new_zeros((rows * kv_heads, capacity, head_dim))

    def _rows(self, tensor: Tensor) -> Tensor:
        rows, kv_heads, head_dim = self._shape
        return tensor.view(rows, kv_heads, tensor.shape[1], head_dim)


class _Sharing:
    """Which rows continue which prompt, laid out so that all rows of a prompt attend to it in one product.

    slots: int64 [g * n], the row at each place of a table of g prompts by the largest number of rows n (row 0 where
    there is none). places: int64 [b], where each row stands in that table.
    """

    def __init__(self, prompts: Sequence[Prefill], prompt_of: Sequence[int], layers: int, like: Tensor) -> None:
        members: list[list[int]] = [[] for _ in prompts]
        for row, prompt in enumerate(prompt_of):
            members[prompt].append(row)
        self._prompts, self._most = len(prompts), max(map(len, members))
        slots = [rows[i] if i < len(rows) else 0 for rows in members for i in range(self._most)]
        places = [prompt * self._most + members[prompt].index(row) for row, prompt in enumerate(prompt_of)]
        self._slots = torch.tensor(slots, device=like.device)
        self._places = torch.tensor(places, device=like.device)
        lengths = torch.tensor([prompt.tokens for prompt in prompts], device=like.device)
        self.prompt_lengths = lengths[torch.tensor(list(prompt_of), device=like.device)]
        """Length of each row's prompt, int64 [b]."""
        self._kv_heads = prompts[0].keys[0].shape[0]
        self._keys = [_stacked([prompt.keys[layer] for prompt in prompts]) for layer in range(layers)]
        self._values = [_stacked([prompt.values[layer] for prompt in prompts]) for layer in range(layers)]
        hidden = torch.arange(self._keys[0].shape[1], device=like.device) >= lengths[:, None]
        self._mask = _hidden(hidden, like).repeat_interleave(self._kv_heads, 0)[:, None]

    def scores(self, layer: int, grouped: Tensor, scale: float) -> Tensor:
        """Scores of [b * kv_heads, q, head_dim] over each row's prompt, [b * kv_heads, q, longest prompt]."""
        table = self._to_table(grouped)
        return self._to_rows(torch.baddbmm(self._mask, table, self._keys[layer].transpose(1, 2), alpha=scale))

    def mix(self, layer: int, probabilities: Tensor) -> Tensor:
        """Values of each row's prompt by `probabilities` [b * kv_heads, q, longest prompt], [b * kv_heads, q, d]."""
        return self._to_rows(torch.bmm(self._to_table(probabilities), self._values[layer]))

    def _to_table(self, rows: Tensor) -> Tensor:
        """[b * kv_heads, q, d] to [g * kv_heads, n * q, d]."""
        queries, width = rows.shape[1:]
        picked = rows.reshape(-1, self._kv_heads * queries * width).index_select(0, self._slots)
        split = picked.view(self._prompts, self._most, self._kv_heads, queries, width)
        return split.transpose(1, 2).reshape(self._prompts * self._kv_heads, self._most * queries, width)

    def _to_rows(self, table: Tensor) -> Tensor:
        """[g * kv_heads, n * q, d] to [b * kv_heads, q, d]."""
        width = table.shape[-1]
        split = table.view(self._prompts, self._kv_heads, self._most, -1, width).transpose(1, 2)
        queries = split.shape[3]
        rows = split.reshape(self._prompts * self._most, -1).index_select(0, self._places)
        return rows.view(-1, queries, width)


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    """Keys or values of prompts [kv_heads, tokens, d], zeros behind the shorter ones, [g * kv_heads, longest, d]."""
    longest = max(tensor.shape[1] for tensor in tensors)
    padded = tensors[0].new_zeros((len(tensors), tensors[0].shape[0], longest, tensors[0].shape[2]))
    for place, tensor in enumerate(tensors):
        padded[place, :, : tensor.shape[1]] = tensor
    return padded.flatten(0, 1)


def _hidden(hidden: Tensor, like: Tensor) -> Tensor:
    """An additive mask of the precision of `like`."""
    return torch.zeros_like(hidden, dtype=like.dtype).masked_fill_(hidden, -torch.inf)
