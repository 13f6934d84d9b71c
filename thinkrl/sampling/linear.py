"""Linear layers whose weights are laid out for the processor once per weight update."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Linear = Callable[[Tensor], Tensor]
"""Maps [b, inputs] to [b, outputs]."""


def frozen_linear(weight: Tensor, bias: Tensor | None) -> Linear:
    """x -> x weight^T + bias for a weight [outputs, inputs] that stays as it is until the next call of this function.

    On a processor oneDNN lays the weight out anew inside every product, which at a batch of 16 takes
    as long as the product itself and at 64 a fifth of it. Here that is done once. The values are
    untouched; in bfloat16 the products are the same bits.
    """
    weight = weight.detach()
    bias = None if bias is None else bias.detach()
    if not _packs(weight):
        return lambda x: functional.linear(x, weight, bias)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())

    def apply(x: Tensor) -> Tensor:
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
        return result

    return apply


def _packs(weight: Tensor) -> bool:
    """Whether this build of torch has the packed product for the weight's device and precision."""
    if weight.device.type != "cpu" or not torch._C._has_mkldnn:
        return False
    if not all(hasattr(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise")):
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32
