"""What a vision-language model needs of rows beside their tokens: the images, once each, and where tokens stand.

A prompt with images stands once in a row, however many responses continue it, so its images pass through the
vision tower once. Families whose position ids have three axes (time, height, width; Qwen2-VL, arXiv 2409.12191) give
the axes of a prompt by a function of their own; a response goes on from the end of its prompt alike on all three.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from thinkrl.learning.packing import Row
from thinkrl.rollouts.store import Group


def image_inputs(rows: Sequence[Row], device: torch.device) -> dict[str, Tensor]:
    """The inputs of all images of `rows`, in the order of their placeholders, under the names the model takes."""
    parts: dict[str, list[NDArray[Any]]] = {}
    for row in rows:
        for group in row.groups:
            for name, values in group.inputs.items():
                parts.setdefault(name, []).append(values)
    return {name: torch.from_numpy(np.concatenate(values)).to(device) for name, values in parts.items()}


def axis_positions(module: PreTrainedModel, row: Row) -> NDArray[np.int64]:
    """Position ids of a row's tokens on each axis, [3, l], or [1, l] for a model whose positions are plain."""
    if not hasattr(module.base_model, "get_rope_index"):
        return row.position_ids[None]
    positions = np.repeat(row.position_ids[None], 3, axis=0)
    for number, group in enumerate(row.groups):
        own = np.flatnonzero(row.shown == number)
        depths = row.position_ids[own]
        axes, shift = _prompt_axes(module, group)
        inside = depths < axes.shape[1]
        positions[:, own[inside]] = axes[:, depths[inside]]
        positions[:, own[~inside]] = depths[~inside] + shift
    return positions


def _prompt_axes(module: PreTrainedModel, group: Group) -> tuple[NDArray[np.int64], int]:
    """Position ids of a prompt's tokens, [3, p], and what is added to the index of a token after it."""
    ids = torch.from_numpy(group.prompt_ids.astype(np.int64))[None]
    kinds = (ids == module.config.image_token_id).int()
    grids = torch.from_numpy(np.asarray(group.inputs["image_grid_thw"], dtype=np.int64))
    model: Any = module.base_model
    axes, shift = model.get_rope_index(ids, mm_token_type_ids=kinds, image_grid_thw=grids)
    return axes[:, 0].numpy(), int(shift[0])
