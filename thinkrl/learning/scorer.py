"""The forward pass: rows of tokens in, log-probabilities of their sampled tokens out."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from thinkrl.learning.branch_attention import IMPLEMENTATION, branch_buckets
from thinkrl.learning.logprobs import token_scores
from thinkrl.learning.packing import Row
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

    chunk_tokens: bounds the logits that exist at a time. branches: computes attention branch by branch
    on a processor, where rows allow; else a dense mask says what each token sees.
    """

    module: PreTrainedModel
    chunk_tokens: int
    branches: bool = False

    def __post_init__(self) -> None:
        config = self.module.config
        for name in _LOGIT_TRANSFORMS:
            if getattr(config, name, None) not in (None, 1, 1.0):
                raise ValueError(f"models with {name} are not supported by this learner, got {getattr(config, name)}")

    def __call__(self, rows: Sequence[Row], spec: SamplingSpec, *, with_entropy: bool = False) -> Scored:
        """One forward pass over `rows`, padded to the longest."""
        device = next(self.module.parameters()).device
        length = max(len(row) for row in rows)
        ids = np.zeros((len(rows), length), dtype=np.int64)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = row.token_ids
        hidden = self._hidden(rows, torch.from_numpy(ids).to(device))
        sources = np.concatenate([index * length + row.sources for index, row in enumerate(rows)])
        starts = np.cumsum([0, *(len(row.sources) for row in rows)])
        predictions = np.concatenate([start + row.predictions for start, row in zip(starts, rows, strict=False)])
        targets = np.concatenate([row.targets for row in rows])
        head = self.module.get_output_embeddings()  # type: ignore[no-untyped-call]
        scores = token_scores(
            hidden.flatten(0, 1).index_select(0, torch.from_numpy(sources).to(device)),
            head.weight,
            getattr(head, "bias", None),
            torch.from_numpy(targets).to(device),
            spec,
            chunk_tokens=self.chunk_tokens,
            with_entropy=with_entropy,
        )
        spread = torch.from_numpy(predictions).to(device)
        return Scored(
            logprobs=scores.logprobs.index_select(0, spread),
            entropies=None if scores.entropies is None else scores.entropies.index_select(0, spread),
            columns=np.concatenate([row.columns for row in rows]),
        )

    def _hidden(self, rows: Sequence[Row], ids: Tensor) -> Tensor:
        """Last hidden states, [b, l, h]."""
        model, length = self.module.base_model, ids.shape[1]
        if all(row.plain for row in rows):
            return _last(model(ids, use_cache=False))
        positions = _positions(rows, length).to(ids.device)
        buckets = branch_buckets(rows, length) if self.branches and ids.device.type == "cpu" else None
        if buckets is None:
            mask = _mask(rows, length, self.module.dtype).to(ids.device)
            return _last(model(ids, position_ids=positions, attention_mask=mask, use_cache=False))
        with _implementation(self.module, IMPLEMENTATION):
            return _last(model(ids, position_ids=positions, buckets=buckets, use_cache=False))


ScoreRows = Callable[[Sequence[Row], SamplingSpec], Scored]
"""Scores rows without a gradient: a frozen `Scorer`, or one that stands in for it."""


@contextmanager
def _implementation(module: PreTrainedModel, name: str) -> Iterator[None]:
    """Lets transformers look up attention under `name`."""
    before = module.config._attn_implementation
    module.config._attn_implementation = name
    try:
        yield
    finally:
        module.config._attn_implementation = before


def _last(outputs: Any) -> Tensor:
    return cast("Tensor", outputs.last_hidden_state)


def check_shareable(module: PreTrainedModel) -> None:
    """Raises ValueError for a model whose attention is more than the mask that shared prompts pass to it."""
    kinds = set(getattr(module.config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        raise ValueError(f"share_prompts must be false for models with {sorted(kinds - {'full_attention'})} layers")
    if module.config._attn_implementation not in ("sdpa", "eager"):
        raise ValueError(
            "share_prompts must be false unless attention is 'sdpa' or 'eager',"
            f" got '{module.config._attn_implementation}'"
        )


def _positions(rows: Sequence[Row], length: int) -> Tensor:
    """Position ids, int64 [b, l]."""
    positions = np.zeros((len(rows), length), dtype=np.int64)
    for index, row in enumerate(rows):
        positions[index, : len(row)] = row.position_ids
    return torch.from_numpy(positions)


def _mask(rows: Sequence[Row], length: int, dtype: torch.dtype) -> Tensor:
    """Additive attention mask [b, 1, l, l]. Padding attends to itself, so that its softmax is defined;
    nothing attends to padding."""
    visible = np.broadcast_to(np.eye(length, dtype=np.bool_), (len(rows), length, length)).copy()
    for index, row in enumerate(rows):
        visible[index, : len(row), : len(row)] = row.visible()
    hidden = torch.from_numpy(~visible)[:, None]
    return torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, torch.finfo(dtype).min)
