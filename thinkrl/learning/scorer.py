"""The forward pass: rows of tokens in, log-probabilities of their sampled tokens out."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from thinkrl.learning.block_body import BlockBody, writes_out
from thinkrl.learning.branch_attention import IMPLEMENTATION, branch_buckets
from thinkrl.learning.image_rows import axis_positions, image_inputs
from thinkrl.learning.logprobs import token_scores
from thinkrl.learning.packing import Path, Row, pack
from thinkrl.sampling.sampler import SamplingSpec

_LOGIT_TRANSFORMS = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Settings of families whose logits are more than the output projection, which is all that is computed here."""


@dataclass(frozen=True, eq=False)
class Scored:
    """m predictions. logprobs (and entropies, when asked for): float32 [m]; columns: int64 [m]."""

    logprobs: Tensor
    entropies: Tensor | None
    columns: np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True, eq=False)
class Scorer:
    """Scores rows with a causal language model.

    On a processor, with `branches`, the rows of a pass stand end to end without padding and attention is computed
    branch by branch (by a body of our own where the family has one: `BlockBody`). Else rows are padded to the longest,
    and a dense mask says what each token sees, unless all rows are plain.

    chunk_tokens: bounds the logits that exist at a time. checkpointing: the module recomputes its layers.
    compiled: uses kernels in C where there are any.
    """

    module: PreTrainedModel
    chunk_tokens: int
    branches: bool = False
    checkpointing: bool = False
    compiled: bool = True

    def __post_init__(self) -> None:
        config = self.module.config.get_text_config()
        for name in _LOGIT_TRANSFORMS:
            if getattr(config, name, None) not in (None, 1, 1.0):
                raise ValueError(f"models with {name} are not supported by this learner, got {getattr(config, name)}")

    def __call__(self, rows: Sequence[Row], spec: SamplingSpec, *, with_entropy: bool = False) -> Scored:
        """One forward pass over `rows`."""
        hidden = self.hidden(rows)
        device = hidden.device
        firsts = np.cumsum([0, *(len(row.sources) for row in rows)])
        predictions = np.concatenate([first + row.predictions for first, row in zip(firsts, rows, strict=False)])
        targets = np.concatenate([row.targets for row in rows])
        head = self.module.get_output_embeddings()  # type: ignore[no-untyped-call]
        scores = token_scores(
            hidden,
            head.weight,
            getattr(head, "bias", None),
            torch.from_numpy(targets).to(device),
            spec,
            chunk_tokens=self.chunk_tokens,
            with_entropy=with_entropy,
            compiled=self.compiled,
        )
        spread = torch.from_numpy(predictions).to(device)
        return Scored(
            logprobs=scores.logprobs.index_select(0, spread),
            entropies=None if scores.entropies is None else scores.entropies.index_select(0, spread),
            columns=np.concatenate([row.columns for row in rows]),
        )

    def hidden(self, rows: Sequence[Row]) -> Tensor:
        """One forward pass over `rows`: the last hidden states at their sources, one row after the other, [u, h]."""
        device = next(self.module.parameters()).device
        lengths = np.array([len(row) for row in rows])
        starts = np.cumsum(lengths) - lengths if self.joins else np.arange(len(rows)) * lengths.max()
        ids = np.zeros(lengths.sum() if self.joins else len(rows) * lengths.max(), dtype=np.int64)
        placed = [axis_positions(self.module, row) for row in rows]
        positions = np.zeros((len(placed[0]), len(ids)), dtype=np.int64)
        for start, row, axes in zip(starts.tolist(), rows, placed, strict=True):
            ids[start : start + len(row)] = row.token_ids
            positions[:, start : start + len(row)] = axes
        forward = self._joined if self.joins else self._padded
        hidden = forward(rows, torch.from_numpy(ids).to(device), torch.from_numpy(positions).to(device))
        sources = np.concatenate([start + row.sources for start, row in zip(starts, rows, strict=True)])
        return hidden.index_select(0, torch.from_numpy(sources).to(device))

    @cached_property
    def joins(self) -> bool:
        """Whether the rows of a pass stand end to end, so that none is padded."""
        if not self.branches or next(self.module.parameters()).device.type != "cpu":
            return False
        # transformers would run checkpointed layers again with the attention that it usually looks up.
        return self._body is not None or not self.checkpointing

    def sharing_pays(self, paths: Sequence[Path], row_tokens: int) -> bool:
        """Whether equal beginnings are better read once.

        Branch by branch, what is shared costs nothing anywhere. A dense mask makes the scores of all pairs of a row,
        where plain rows have the causal half of their own: then the products of a token's layers that are saved are
        weighed against the pairs that are added, both in floating point operations.
        """
        if self.joins:
            return True
        shared, plain = (pack(paths, row_tokens, share=share) for share in (True, False))
        tokens = sum(map(len, plain)) - sum(map(len, shared))
        pairs = sum(len(row) ** 2 / (2 if row.plain else 1) for row in shared) - sum(len(row) ** 2 / 2 for row in plain)
        config: Any = self.module.config.get_text_config()
        width = config.num_attention_heads * (
            getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        )
        layers = sum(p.numel() for name, p in self.module.named_parameters() if ".layers." in name)
        return bool(tokens * 2 * layers >= pairs * 4 * width * config.num_hidden_layers)

    @cached_property
    def _body(self) -> BlockBody | None:
        if not writes_out(self.module):
            return None
        return BlockBody(self.module, checkpointing=self.checkpointing, compiled=self.compiled)

    def _joined(self, rows: Sequence[Row], ids: Tensor, positions: Tensor) -> Tensor:
        """Last hidden states [tokens, h] of rows end to end; positions: [axes, tokens]."""
        buckets = branch_buckets(rows)
        if self._body is not None:
            return self._body(ids, positions[0], buckets)
        with _implementation(self.module, IMPLEMENTATION):
            return self._run(rows, ids[None], position_ids=_batched(positions, 1), buckets=buckets)

    def _padded(self, rows: Sequence[Row], ids: Tensor, positions: Tensor) -> Tensor:
        """Last hidden states [b l, h] of padded rows; positions: [axes, b l]."""
        ids = ids.view(len(rows), -1)
        mask = None
        if not all(row.plain for row in rows):
            mask = _mask(rows, ids.shape[1], self.module.dtype).to(ids.device)
        elif not any(row.groups for row in rows):
            return self._run(rows, ids)
        return self._run(rows, ids, position_ids=_batched(positions, len(rows)), attention_mask=mask)

    def _run(self, rows: Sequence[Row], ids: Tensor, **settings: Any) -> Tensor:
        images = image_inputs(rows, ids.device)
        outputs = self.module.base_model(ids, use_cache=False, **images, **settings)
        return cast("Tensor", outputs.last_hidden_state).flatten(0, 1)


ScoreRows = Callable[[Sequence[Row], SamplingSpec], Scored]
"""Scores rows without a gradient: a frozen `Scorer`, or one that stands in for it."""


@contextmanager
def _implementation(module: PreTrainedModel, name: str) -> Iterator[None]:
    """Lets transformers look up attention under `name`."""
    config = module.config.get_text_config()  # a vision tower keeps its own
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before


def _batched(positions: Tensor, rows: int) -> Tensor:
    """[axes, b l] as models take position ids: [b, l], or [axes, b, l] where there are several axes."""
    return positions.view(rows, -1) if len(positions) == 1 else positions.view(len(positions), rows, -1)


def check_shareable(module: PreTrainedModel) -> None:
    """Raises ValueError for a model whose attention is more than the mask that shared prompts pass to it."""
    config = module.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        raise ValueError(f"share_prompts must be false for models with {sorted(kinds - {'full_attention'})} layers")
    if config._attn_implementation not in ("sdpa", "eager"):
        raise ValueError(
            f"share_prompts must be false unless attention is 'sdpa' or 'eager', got '{config._attn_implementation}'"
        )


def _mask(rows: Sequence[Row], length: int, dtype: torch.dtype) -> Tensor:
    """Additive attention mask [b, 1, l, l]. Padding attends to itself, so that its softmax is defined;
    nothing attends to padding."""
    visible = np.broadcast_to(np.eye(length, dtype=np.bool_), (len(rows), length, length)).copy()
    for index, row in enumerate(rows):
        visible[index, : len(row), : len(row)] = row.visible()
    hidden = torch.from_numpy(~visible)[:, None]
    return torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, torch.finfo(dtype).min)
