"""What the sampler asks of a model, and the plain way to give it: the module's own forward pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache, PreTrainedModel


class Prefilled(Protocol):
    """A prompt that has been read, ready to be continued any number of times."""

    @property
    def logits(self) -> Tensor:
        """Logits after the prompt's last token, [1, vocabulary]."""
        ...


class Decoder(Protocol):
    """Runs a batch of rows forward one token at a time; rows join and leave at any step."""

    def refresh(self) -> None:
        """Takes over the module's current weights."""
        ...

    def begin(self, rows: int, beginning: Tensor) -> None:
        """Starts an empty batch of at most `rows` rows, all of whose prompts start with `beginning` (int64 [c])."""
        ...

    def prefill(self, prompts: Sequence[Tensor]) -> list[Any]:
        """Reads prompts (int64 [p], longer than the beginning) once; returns a `Prefilled` of each for `join`."""
        ...

    def join(self, prefilled: Any, copies: int) -> None:
        """Appends `copies` rows that continue the prompt."""
        ...

    def step(self, token_ids: Tensor) -> Tensor:
        """Appends one token to each row, int64 [b]; returns the logits that follow, [b, vocabulary]."""
        ...

    def arrange(self, sources: Sequence[int]) -> None:
        """Row i then continues what row `sources[i]` held; rows may be named several times, or not at all."""
        ...

    def end(self) -> None:
        """Drops the batch and every cache."""
        ...


@dataclass(frozen=True, eq=False)
class ModulePrefill:
    """A prompt read by the module, with the module's own cache."""

    logits: Tensor
    cache: DynamicCache


class ModuleDecoder:
    """The module's own forward pass over a left-padded batch: any architecture that caches keys and values,
    and the reference that faster paths are tested against."""

    def __init__(self, module: PreTrainedModel) -> None:
        self._module = module
        self.end()

    def refresh(self) -> None:
        """Nothing to take over: the module's weights are read in place."""

    def begin(self, rows: int, beginning: Tensor) -> None:
        """Starts an empty batch; what its prompts have in common is read with each of them."""
        self.end()

    def end(self) -> None:
        """Drops the batch."""
        self._cache = DynamicCache()
        self._mask = torch.zeros((0, 0), dtype=torch.int64, device=self._module.device)

    def prefill(self, prompts: Sequence[Tensor]) -> list[ModulePrefill]:
        """Reads prompts, one after the other."""
        found = []
        for prompt in prompts:
            cache = DynamicCache()
            found.append(ModulePrefill(self._forward(prompt[None], torch.ones_like(prompt)[None], cache), cache))
        return found

    def join(self, prefilled: ModulePrefill, copies: int) -> None:
        """Appends rows; whichever side is shorter, batch or prompt, is padded on the left."""
        length = prefilled.cache.get_seq_length()
        width = max(self._mask.shape[1], length)
        joined = []
        for index, new in enumerate(prefilled.cache.layers):
            pair = []
            for name in ("keys", "values"):
                rows = [_left_padded(getattr(new, name), width).repeat(copies, 1, 1, 1)]
                if len(self._mask):
                    rows.insert(0, _left_padded(getattr(self._cache.layers[index], name), width))
                pair.append(torch.cat(rows))
            joined.append(tuple(pair))
        old = functional.pad(self._mask, (width - self._mask.shape[1], 0))
        fresh = functional.pad(self._mask.new_ones((copies, length)), (width - length, 0))
        self._mask = torch.cat([old, fresh])
        self._cache = DynamicCache(joined)

    def step(self, token_ids: Tensor) -> Tensor:
        """One position more for each row."""
        self._mask = functional.pad(self._mask, (0, 1), value=1)
        return self._forward(token_ids[:, None], self._mask, self._cache)

    def arrange(self, sources: Sequence[int]) -> None:
        """Row i then continues what row `sources[i]` held; an empty batch ends."""
        if not sources:
            self.end()
            return
        index = torch.tensor(list(sources), device=self._mask.device)
        self._cache.batch_select_indices(index)
        self._mask = self._mask[index]

    def _forward(self, ids: Tensor, mask: Tensor, cache: DynamicCache) -> Tensor:
        output = self._module(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits[:, -1]
        return logits


def _left_padded(rows: Tensor, width: int) -> Tensor:
    """Keys or values [b, kv_heads, tokens, head_dim] with zeros in front, [b, kv_heads, width, head_dim]."""
    return functional.pad(rows, (0, 0, width - rows.shape[2], 0))
