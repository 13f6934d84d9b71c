"""What a decode step computes between its matrix products, as one call each instead of twenty: a norm, and the
attention of one new position per row. The C is in decode.h.
"""

import ctypes
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from thinkrl.kernels.build import library

TYPES = {torch.bfloat16: "bfloat16", torch.float32: "float32"}
"""Precisions that have kernels, with the end of their names."""


class _Attention(ctypes.Structure):
    """`struct attention` of kernels.c."""

    _fields_: ClassVar = [
        *(
            (name, ctypes.c_void_p)
            for name in (
                "joined", "query_norm", "key_norm", "cos", "sin", "own_keys", "own_values", "own_lengths",
                "prompt_keys", "prompt_values", "prompt_lengths", "prompt_of", "out",
            )
        ),
        *(
            (name, ctypes.c_int64)
            for name in ("rows", "heads", "kv_heads", "head_dim", "capacity", "longest", "threads")
        ),
        *((name, ctypes.c_float) for name in ("scale", "epsilon")),
    ]  # fmt: skip


@dataclass(frozen=True, eq=False)
class Histories:
    """What b rows have read: prompts [g * kv_heads, longest, head_dim] and own positions [>= b * kv_heads, capacity,
    head_dim], keys and values of one layer. own_lengths, prompt_of int64 [b], prompt_lengths int64 [g]."""

    prompt_keys: Tensor
    prompt_values: Tensor
    prompt_lengths: Tensor
    prompt_of: Tensor
    own_keys: Tensor
    own_values: Tensor
    own_lengths: Tensor


class DecodeKernels:
    """The kernels for tensors of one precision on a processor."""

    def __init__(self, loaded: ctypes.CDLL, name: str) -> None:
        self._norm = getattr(loaded, f"rms_norm_{name}")
        self._norm.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_float, ctypes.c_int64, ctypes.c_int64,
                               ctypes.c_void_p]  # fmt: skip
        self._norm.restype = None
        self._attend = getattr(loaded, f"attend_{name}")
        self._attend.argtypes = [ctypes.POINTER(_Attention)]
        self._attend.restype = ctypes.c_int

    def rms_norm(self, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        """x / sqrt(mean(x^2) + epsilon) * weight over the last axis, [b, n] (arXiv 1910.07467)."""
        x = x.contiguous()
        normal = torch.empty_like(x)
        self._norm(x.data_ptr(), weight.data_ptr(), epsilon, x.shape[0], x.shape[1], normal.data_ptr())
        return normal

    def attend(
        self,
        joined: Tensor,
        heads: int,
        norms: tuple[Tensor, Tensor] | None,
        epsilon: float,
        tables: tuple[Tensor, Tensor],
        histories: Histories,
        scale: float,
    ) -> Tensor:
        """Rotates each row's new query and key, writes key and value behind what the row has, and attends.

        Args:
            joined: queries, keys and values [b, (heads + 2 kv_heads) head_dim].
            heads: heads of queries; those of keys divide them.
            norms: weights [head_dim] of norms over queries and over keys, before they are rotated, or None.
            epsilon: of these norms.
            tables: cos and sin [positions, head_dim] (arXiv 2104.09864).
            histories: what the rows have read; its own keys and values get the new position.
            scale: factor of the scores.

        Returns:
            [b, heads * head_dim]. Raises MemoryError without memory for the scores of a row.
        """
        rows, head_dim = len(joined), tables[0].shape[1]
        kv_heads = (joined.shape[1] // head_dim - heads) // 2
        joined = joined.contiguous()
        out = joined.new_empty((rows, heads * head_dim))
        query_norm, key_norm = (None, None) if norms is None else (norms[0].data_ptr(), norms[1].data_ptr())
        given = _Attention(
            joined.data_ptr(), query_norm, key_norm, tables[0].data_ptr(), tables[1].data_ptr(),
            histories.own_keys.data_ptr(), histories.own_values.data_ptr(), histories.own_lengths.data_ptr(),
            histories.prompt_keys.data_ptr(), histories.prompt_values.data_ptr(),
            histories.prompt_lengths.data_ptr(), histories.prompt_of.data_ptr(), out.data_ptr(),
            rows, heads, kv_heads, head_dim, histories.own_keys.shape[1], histories.prompt_keys.shape[1],
            torch.get_num_threads(), scale, epsilon,
        )  # fmt: skip
        if self._attend(ctypes.byref(given)):
            raise MemoryError(f"no memory for the attention of {rows} rows")
        return out


def decode_kernels(like: Tensor) -> DecodeKernels | None:
    """The kernels for the device and precision of `like`; None where the plain torch path has to do."""
    name = TYPES.get(like.dtype)
    if like.device.type != "cpu" or name is None:
        return None
    loaded: Any = library()
    return None if loaded is None else DecodeKernels(loaded, name)
