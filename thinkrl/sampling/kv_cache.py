"""Keys and values of a running batch: each prompt's once for all its rows, each row's own behind it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from thinkrl.kernels.decode import Histories
from thinkrl.sampling.shared_prompts import Prefill, PromptTable, SharedAttention, hiding

_QUANTUM = 64
"""Positions are added in steps of this many, so that growing costs little and padding stays small."""


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
        self._table: PromptTable | None = None
        self._shared: SharedAttention | None = None
        self._keys = [self._empty(0) for _ in range(layers)]
        self._values = [self._empty(0) for _ in range(layers)]
        self._own_mask = like.new_zeros(())
        self._places: Tensor | None = None
        self._own = like.new_zeros(0, dtype=torch.int64)

    @property
    def count(self) -> int:
        """Rows in use."""
        return len(self._lengths)

    def join(self, prefill: Prefill, copies: int) -> None:
        """Appends `copies` rows that continue the prompt."""
        if self.count + copies > self._shape[0]:
            raise ValueError(f"{self._shape[0]} rows are set aside, got {self.count + copies}")
        place = next((place for place, prompt in enumerate(self._prompts) if prompt is prefill), None)
        if place is None:
            place = len(self._prompts)
            self._prompts.append(prefill)
            self._table = None
        self._prompt_of += [place] * copies
        self._lengths += [0] * copies
        self._shared = None
        self._fit()

    def arrange(self, sources: Sequence[int]) -> None:
        """Row i then continues what row `sources[i]` held; rows may be named several times, or not at all."""
        if len(sources) > self._shape[0]:
            raise ValueError(f"{self._shape[0]} rows are set aside, got {len(sources)}")
        moves = [(source, target) for target, source in enumerate(sources) if source != target]
        if moves:
            old, new = (torch.tensor(side, device=self._like.device) for side in zip(*moves, strict=True))
            for tensor in (*self._keys, *self._values):
                rows = tensor.view(self._shape[0], -1)
                rows.index_copy_(0, new, rows.index_select(0, old))
        self._lengths = [self._lengths[row] for row in sources]
        prompt_of = [self._prompt_of[row] for row in sources]
        left = sorted(set(prompt_of))
        if len(left) < len(self._prompts):
            self._prompts = [self._prompts[place] for place in left]
            self._table = None
        self._prompt_of = [left.index(place) for place in prompt_of]
        self._shared = None

    def advance(self) -> Tensor:
        """Makes room for one more position in every row in use and returns its index, int64 [count]."""
        device = self._like.device
        self._own = own = torch.tensor(self._lengths, device=device)
        self._lengths = [length + 1 for length in self._lengths]
        self._fit()
        self._places = None
        if self._table is None:
            self._table = PromptTable(self._prompts)
        if self._shared is None:
            self._shared = SharedAttention(self._table, self._prompt_of)
        return own + self._shared.prompt_lengths

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
        """Adds the position that `advance` made room for, and attends from it.

        queries [b, heads, head_dim], keys and values [b, kv_heads, head_dim] to [b, heads * head_dim].
        """
        sharing = self._sharing()
        if self._places is None:
            self._places = self._lay_out()
        head_dim, used = self._shape[2], self.count * self._shape[1]
        for stored, new in ((self._keys[layer], keys), (self._values[layer], values)):
            stored.view(-1, head_dim).index_copy_(0, self._places, new.reshape(used, head_dim))
        grouped = queries.reshape(used, -1, head_dim)
        own = torch.baddbmm(self._own_mask, grouped, self._keys[layer][:used].transpose(1, 2), alpha=scale)
        shared = sharing.scores(layer, grouped, scale)
        probabilities = torch.cat([shared, own], dim=-1).softmax(-1)
        mixed = torch.bmm(probabilities[..., shared.shape[-1] :], self._values[layer][:used])
        return (mixed + sharing.mix(layer, probabilities[..., : shared.shape[-1]])).view(self.count, -1)

    def histories(self, layer: int) -> Histories:
        """What the rows have read in `layer`, with room for the position that `advance` made room for."""
        sharing = self._sharing()
        table = sharing.table
        return Histories(
            table.keys[layer], table.values[layer], table.lengths, sharing.prompt_of,
            self._keys[layer], self._values[layer], self._own,
        )  # fmt: skip

    def _sharing(self) -> SharedAttention:
        if self._shared is None:
            raise RuntimeError("advance must come before attention")
        return self._shared

    def _lay_out(self) -> Tensor:
        """Masks what rows do not have yet, and returns where their new position is stored."""
        own, capacity, (_, kv_heads, _) = self._own, self._keys[0].shape[1], self._shape
        mask = hiding(torch.arange(capacity, device=own.device) > own[:, None], self._like)
        self._own_mask = mask.repeat_interleave(kv_heads, 0)[:, None]
        rows = torch.arange(self.count * kv_heads, device=own.device)
        return rows * capacity + own.repeat_interleave(kv_heads)

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
