"""What a learner computes between its matrix products, as one pass over memory each. The C is in learn.h; tests hold
each to its equation and to the plain torch path."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from thinkrl.kernels.build import library
from thinkrl.kernels.decode import TYPES

_NORM_BLOCKS = 16
"""As in kernels.c."""
_POINTER, _COUNT, _NUMBER = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "normal_forward": (_POINTER, _POINTER, _NUMBER, _COUNT, _COUNT, _COUNT, _POINTER, _POINTER),
    "normal_backward": (*[_POINTER] * 4, *[_COUNT] * 3, *[_POINTER] * 3),
    "rotate_tokens": (*[_POINTER] * 3, _NUMBER, *[_COUNT] * 4, _POINTER),
    "gate_forward": (_POINTER, _POINTER, _COUNT, _COUNT, _POINTER),
    "gate_backward": (*[_POINTER] * 3, _COUNT, _COUNT, _POINTER, _POINTER),
    "score_tokens": (_POINTER, _POINTER, _COUNT, _COUNT, _NUMBER, _COUNT, *[_POINTER] * 3),
    "score_tokens_backward": (*[_POINTER] * 6, _COUNT, _COUNT, _NUMBER, _COUNT),
    "gather": (*[_POINTER] * 3, *[_COUNT] * 6, _POINTER),
    "gather_wide": (*[_POINTER] * 3, *[_COUNT] * 5, _NUMBER, _COUNT, _POINTER),
    "scatter": (*[_POINTER] * 3, *[_COUNT] * 5, _POINTER),
    "add_rows": (_POINTER, _POINTER, *[_COUNT] * 5, _POINTER),
    "softmax": (_POINTER, _POINTER, *[_COUNT] * 5, _POINTER),
    "softmax_backward": (*[_POINTER] * 4, *[_COUNT] * 5, _POINTER, _POINTER),
    "row_products": (_POINTER, _POINTER, _NUMBER, *[_COUNT] * 3, _POINTER),
}


@dataclass(frozen=True, eq=False)
class Tiles:
    """n tiles of t tokens of a batch of l: places int64 [n t] (any token where a tile is padded), and how many of its
    own a tile has, int64 [n], or None where all have t."""

    places: Tensor
    lengths: Tensor | None
    count: int

    @property
    def size(self) -> int:
        """Tokens of a tile, t."""
        return len(self.places) // self.count


class LearnKernels:
    """The kernels for tensors of one precision on a processor, for `learning/`. Shapes are those of learn.h."""

    def __init__(self, loaded: ctypes.CDLL, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._functions: dict[str, Callable[..., None]] = {}
        for function, arguments in _ARGUMENTS.items():
            found = getattr(loaded, f"{function}_{TYPES[dtype]}")
            found.argtypes, found.restype = arguments, None
            self._functions[function] = found

    def normal(self, x: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        """x scale weight and scale = 1 / sqrt(mean(x^2) + epsilon), over the last axis: like x, and float32 [...]."""
        x = x.contiguous()
        normal, scale = torch.empty_like(x), _wide(x.shape[:-1])
        rows, n = scale.numel(), x.shape[-1]
        self._call("normal_forward", x, weight, epsilon, rows, n, torch.get_num_threads(), normal, scale)
        return normal, scale

    def normal_gradients(self, x: Tensor, weight: Tensor, scale: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of `normal` with respect to x and, float32, to the weight."""
        x, grad, n = x.contiguous(), grad.contiguous(), x.shape[-1]
        grad_x, grad_weight, sums = torch.empty_like(x), _wide((n,)), _wide((_NORM_BLOCKS, n))
        threads = torch.get_num_threads()
        self._call(
            "normal_backward", x, weight, scale, grad, scale.numel(), n, threads, grad_x, sums, grad_weight
        )  # fmt: skip
        return grad_x, grad_weight

    def rotated(self, x: Tensor, cos: Tensor, sin: Tensor, direction: int) -> Tensor:
        """x [l, heads, d] turned by cos and sin [l, 1, d], or back (direction -1)."""
        x = x.contiguous()
        turned, threads = torch.empty_like(x), torch.get_num_threads()
        cos, sin = cos.contiguous(), sin.contiguous()
        self._call("rotate_tokens", x, cos, sin, float(direction), *x.shape, threads, turned)
        return turned

    def gate(self, gate: Tensor, up: Tensor) -> Tensor:
        """silu(gate) up."""
        gate, up = gate.contiguous(), up.contiguous()
        gated = torch.empty_like(gate)
        self._call("gate_forward", gate, up, gate.numel(), torch.get_num_threads(), gated)
        return gated

    def gate_gradients(self, gate: Tensor, up: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of `gate` with respect to both."""
        gate, up, grad = gate.contiguous(), up.contiguous(), grad.contiguous()
        grad_gate, grad_up = torch.empty_like(gate), torch.empty_like(up)
        threads = torch.get_num_threads()
        self._call("gate_backward", gate, up, grad, gate.numel(), threads, grad_gate, grad_up)
        return grad_gate, grad_up

    def scores(
        self, logits: Tensor, targets: Tensor, temperature: float, *, with_entropy: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Log-probability of each target, log of the sum of e^(logits / temperature), and entropy: float32 [m], from
        logits [m, v]."""
        rows, words = logits.shape
        logprobs, normalisers = _wide((rows,)), _wide((rows,))
        entropies = _wide((rows,)) if with_entropy else None
        self._call(
            "score_tokens", logits, targets, rows, words, temperature, torch.get_num_threads(),
            logprobs, normalisers, entropies,
        )  # fmt: skip
        return logprobs, normalisers, entropies

    def scores_to_gradients(
        self,
        logits: Tensor,
        targets: Tensor,
        temperature: float,
        normalisers: Tensor,
        grad_logprobs: Tensor,
        entropy: tuple[Tensor, Tensor] | None,
    ) -> None:
        """Puts the gradient of the logits in their place; `entropy` holds entropies and their gradients."""
        rows, words = logits.shape
        entropies, grad_entropies = (None, None) if entropy is None else (entropy[0], entropy[1].contiguous())
        self._call(
            "score_tokens_backward", logits, targets, normalisers, entropies, grad_logprobs.contiguous(),
            grad_entropies, rows, words, temperature, torch.get_num_threads(),
        )  # fmt: skip

    def gather(self, tokens: Tensor, tiles: Tiles, groups: int) -> Tensor:
        """tokens [l, groups r, d] to rows [n groups, r t, d]; zeros behind a tile's length."""
        heads, d = tokens.shape[1:]
        rows = tokens.new_empty((tiles.count * groups, heads // groups * tiles.size, d))
        threads = torch.get_num_threads()
        self._call(
            "gather", tokens, tiles.places, tiles.lengths, tiles.count, tiles.size, groups, heads // groups, d,
            threads, rows,
        )  # fmt: skip
        return rows

    def gather_wide(self, tokens: Tensor, tiles: Tiles, groups: int, scale: float = 1.0) -> Tensor:
        """The same in float32, times `scale`."""
        heads, d = tokens.shape[1:]
        rows = _wide((tiles.count * groups, heads // groups * tiles.size, d))
        self._call(
            "gather_wide", tokens, tiles.places, tiles.lengths, tiles.count, tiles.size, groups, heads // groups, d,
            scale, torch.get_num_threads(), rows,
        )  # fmt: skip
        return rows

    def scatter(self, rows: Tensor, tiles: Tiles, tokens: Tensor) -> None:
        """The inverse of `gather`, into `tokens`."""
        heads, d = tokens.shape[1:]
        rows, threads = rows.contiguous(), torch.get_num_threads()
        self._call(
            "scatter", rows, tiles.places, tiles.lengths, tiles.count, tiles.size, heads, d, threads, tokens
        )  # fmt: skip

    def add_rows(self, rows: Tensor, tiles: Tiles, sums: Tensor) -> None:
        """Adds rows [n g, t, d] to the tokens they came from, float32 [l, g, d]."""
        groups, d = sums.shape[1:]
        threads = torch.get_num_threads()
        self._call("add_rows", rows.contiguous(), tiles.places, tiles.count, tiles.size, groups, d, threads, sums)

    def probabilities(self, scores: Tensor, above: Tensor, size: int) -> Tensor:
        """Softmax of float32 scores [n g, r t, p + t], which are overwritten: the t = `size` queries of tile i see
        the first above[i] of p keys and, causally, their own."""
        found = torch.empty(scores.shape, dtype=self._dtype)
        self._call("softmax", scores, above, *_tile_shape(scores, above, size), torch.get_num_threads(), found)
        return found

    def score_gradients(
        self, scores: Tensor, grad: Tensor, products: Tensor, above: Tensor, size: int
    ) -> tuple[Tensor, Tensor]:
        """P, as `probabilities` gives it, and P (grad - products), products float32 [n g, r t, 1]."""
        found, grad_scores = (torch.empty(scores.shape, dtype=self._dtype) for _ in range(2))
        shape, threads = _tile_shape(scores, above, size), torch.get_num_threads()
        self._call("softmax_backward", scores, grad, products, above, *shape, threads, found, grad_scores)
        return found, grad_scores

    def row_products(self, a: Tensor, b: Tensor, scale: float) -> Tensor:
        """scale sum(a b) over the last axis, float32 [..., 1]."""
        a, b = a.contiguous(), b.contiguous()
        products = _wide((*a.shape[:-1], 1))
        threads = torch.get_num_threads()
        self._call("row_products", a, b, scale, products.numel(), a.shape[-1], threads, products)
        return products

    def _call(self, function: str, *arguments: Any) -> None:
        self._functions[function](*(a.data_ptr() if isinstance(a, Tensor) else a for a in arguments))


def _tile_shape(scores: Tensor, above: Tensor, size: int) -> tuple[int, int, int, int]:
    n = len(above)
    return n, scores.shape[0] * scores.shape[1] // (n * size), size, scores.shape[2] - size


def _wide(shape: Any) -> Tensor:
    return torch.empty(shape, dtype=torch.float32)


@cache
def _of(dtype: torch.dtype) -> LearnKernels | None:
    loaded = library() if dtype in TYPES else None
    return None if loaded is None else LearnKernels(loaded, dtype)


def learn_kernels(like: Tensor) -> LearnKernels | None:
    """The kernels for the device and precision of `like`; None where the plain torch path has to do."""
    return _of(like.dtype) if like.device.type == "cpu" else None
