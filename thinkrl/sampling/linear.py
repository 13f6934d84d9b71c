"""Linear layers whose weights are laid out for the processor once per weight update."""

import torch
from torch import Tensor
from torch.nn import functional


class FrozenLinear:
    """y = x weight^T + bias for x [b, inputs] and a weight [outputs, inputs] that stays as it is.

    On a processor oneDNN lays the weight out anew inside every product, which at a batch of 16 takes
    as long as the product itself and at 64 a fifth of it. Here that is done once. The values are
    untouched; in bfloat16 the plain product gives the same bits. What follows the product (`silu`, `times`,
    `plus`) is computed inside it, before rounding, where this build of torch can.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._bias = None if bias is None else bias.detach()
        self._packed = _packs(weight)
        weight = weight.detach()
        if self._packed:
            weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
        self._weight = weight

    def __call__(self, x: Tensor) -> Tensor:
        """y, [b, outputs]."""
        return self._unary(x, "none") if self._packed else self._plain(x)

    def silu(self, x: Tensor) -> Tensor:
        """silu(y), [b, outputs]."""
        return self._unary(x, "swish") if self._packed else functional.silu(self._plain(x))

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """y * other, [b, outputs]."""
        return self._binary(x, other, "mul") if self._packed else self._plain(x) * other

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """y + other, [b, outputs]."""
        return self._binary(x, other, "add") if self._packed else self._plain(x) + other

    def _plain(self, x: Tensor) -> Tensor:
        return functional.linear(x, self._weight, self._bias)

    def _unary(self, x: Tensor, then: str) -> Tensor:
        result: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, self._weight, self._bias, then, [], "")
        return result

    def _binary(self, x: Tensor, other: Tensor, then: str) -> Tensor:
        result: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, other, self._weight, self._bias, then)
        return result


def _packs(weight: Tensor) -> bool:
    """Whether this build of torch has the packed product for the weight's device and precision."""
    if weight.device.type != "cpu" or not torch._C._has_mkldnn:
        return False
    if not all(hasattr(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise")):
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32
