"""Checksums of weights: which weights does a sampler hold?"""

from collections.abc import Iterable
from hashlib import blake2b

import torch
from torch import Tensor

_SAMPLED = 64
_SUMMED_AT_ONCE = 1 << 20
"""Values that are widened to 64 bits at a time: torch copies what it widens, and embeddings are large."""
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def weights_checksum(named: Iterable[tuple[str, Tensor]]) -> str:
    """Hexadecimal checksum of named tensors, the same for equal bits on every machine and device.

    Covers each name, dtype and shape, the sum of all bit patterns read as whole numbers, and an evenly
    spread sample of the values themselves. A change of any single value changes it; so does nearly any
    other change (one escapes only if it leaves the sample alone and its bit patterns cancel exactly).
    It does not withstand an adversary.
    """
    digest = blake2b(digest_size=16)
    for name, tensor in named:
        bits = _bits(tensor)
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}:{_sum(bits)};".encode())
        digest.update(_sample(bits))
    return digest.hexdigest()


def weights_probe(named: Iterable[tuple[str, Tensor]]) -> str:
    """The sampled part of the checksum alone: a few milliseconds, and enough to notice an optimizer step."""
    digest = blake2b(digest_size=16)
    for name, tensor in named:
        digest.update(name.encode())
        digest.update(_sample(_bits(tensor)))
    return digest.hexdigest()


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().reshape(-1).view(_INTEGERS[tensor.element_size()])


def _sum(bits: Tensor) -> int:
    starts = range(0, len(bits), _SUMMED_AT_ONCE)
    parts = [bits[start : start + _SUMMED_AT_ONCE].sum(dtype=torch.int64) for start in starts]
    return int(torch.stack(parts).sum()) if parts else 0


def _sample(bits: Tensor) -> bytes:
    stride = max(1, bits.numel() // _SAMPLED)
    return bits[::stride].cpu().numpy().tobytes()
