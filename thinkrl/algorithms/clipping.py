"""The clipped surrogate of PPO and its variants."""

from typing import NamedTuple

import torch


class Surrogate(NamedTuple):
    """Per-token objective (to be maximised) and where a clip took the gradient away; all [t]."""

    values: torch.Tensor
    clipped_low: torch.Tensor
    clipped_high: torch.Tensor


def clipped_surrogate(
    ratio: torch.Tensor,
    advantages: torch.Tensor,
    clip_low: float | None,
    clip_high: float | None,
    dual_clip: float | None = None,
) -> Surrogate:
    """min(r A, clip(r, 1 - low, 1 + high) A), and at least c A where A < 0.

    PPO (arXiv 1707.06347, eq. 7); separate bounds: DAPO (arXiv 2503.14476, eq. 8); the floor c:
    dual-clip PPO (arXiv 1912.09729, eq. 5). A bound of None does not clip.
    """
    lower = None if clip_low is None else 1 - clip_low
    upper = None if clip_high is None else 1 + clip_high
    values = ratio * advantages
    never = torch.zeros_like(ratio, dtype=torch.bool)
    low = never if lower is None else (ratio < lower) & (advantages < 0)
    high = never if upper is None else (ratio > upper) & (advantages > 0)
    if lower is not None or upper is not None:
        values = torch.minimum(values, ratio.clamp(lower, upper) * advantages)
    if dual_clip is not None:
        values = torch.where(advantages < 0, torch.maximum(values, dual_clip * advantages), values)
    return Surrogate(values, low, high)
