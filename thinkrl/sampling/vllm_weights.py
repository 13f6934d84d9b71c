"""Which weights does a vLLM model hold? Fused and packed parameters, read back under the names they were sent by."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

_BLOCK = 512
"""Columns of a packed matrix read back at a time."""


@dataclass(eq=False)
class SentWeights:
    """Passes weights on, and remembers of each what reading it back needs.

    tiny: by name, where values lie that a matrix product does not keep bit for bit (negative zeros and
    subnormal numbers), and the values.
    """

    weights: Iterable[tuple[str, Tensor]]
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    dtypes: dict[str, torch.dtype] = field(default_factory=dict)
    tiny: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in self.weights:
            self.shapes[name], self.dtypes[name] = tuple(tensor.shape), tensor.dtype
            if tensor.device.type == "cpu" and tensor.dim() > 1:
                found = _tiny(tensor.detach().reshape(-1))
                if len(found):
                    self.tiny[name] = (found, tensor.detach().reshape(-1)[found].clone())
            yield name, tensor


def _tiny(flat: Tensor) -> Tensor:
    """Where `flat` holds a negative zero or a subnormal number."""
    bits = flat.view(torch.int16 if flat.element_size() == 2 else torch.int32)
    # All bits of the exponent are those of infinity.
    exponent = int(torch.tensor(torch.inf, dtype=flat.dtype).view(bits.dtype))
    small = (bits & exponent) == 0
    if not bool(small.any()):  # as nearly always
        return torch.zeros(0, dtype=torch.int64)
    return (small & (bits != 0)).nonzero()[:, 0]


def repack(model: nn.Module) -> None:
    """Packs output heads again: on a processor a head that is tied to the embedding keeps a packed copy of its
    own, which a reload of the embedding leaves as it was."""
    for module in model.modules():
        if _is_head(module) and hasattr(module, "cpu_linear"):
            _quant_method(module).process_weights_after_loading(module)


def held_weights(model: nn.Module, sent: SentWeights) -> Iterator[tuple[str, Tensor]]:
    """The weights that the model computes with, under the names, shapes and dtypes of those sent.

    Fused parameters are sliced. A matrix that a processor keeps packed is read through its own kernel: its
    product with the identity is the matrix, bit for bit but for the values in `sent.tiny`, which the kernel must
    give as (about) zero. Raises RuntimeError for a name that is nowhere in the model, a parameter of the model
    under no sent name, and an output head whose packed copy differs from its weight.
    """
    left = {name for name, _ in model.named_parameters()}
    for name, shape in sent.shapes.items():
        module_name, rows = _place(model, name)
        module, leaf = model.get_submodule(module_name), name.rpartition(".")[2]
        left.discard(f"{module_name}.{leaf}")
        tensor = _parameter(module, leaf)
        # Vocabularies are padded at the end.
        part = tensor[rows][: shape[0]].to(sent.dtypes[name])
        if tuple(part.shape) != shape:
            raise RuntimeError(f"the engine holds {name} in shape {tuple(part.shape)}, and was sent {shape}")
        yield name, _with_tiny(part, sent.tiny.get(name))
    if left:
        raise RuntimeError(f"the engine has parameters that were not sent: {', '.join(sorted(left)[:3])}")
    _check_heads(model)


def _place(model: nn.Module, name: str) -> tuple[str, slice]:
    """The module that holds the parameter `name`, and which of its rows."""
    owner, _, leaf = name.rpartition(".")
    if _has(model, owner, leaf):
        return owner, slice(None)
    parent, _, last = owner.rpartition(".")
    packed: dict[str, list[str]] = getattr(model, "packed_modules_mapping", {})
    for fused, parts in packed.items():
        place = f"{parent}.{fused}"
        if last in parts and _has(model, place, leaf):
            sizes: list[int] = list(_any(model.get_submodule(place)).output_partition_sizes)
            begin = sum(sizes[: parts.index(last)])
            return place, slice(begin, begin + sizes[parts.index(last)])
    raise RuntimeError(
        f"the engine's {type(model).__name__} has no place for {name}; this architecture needs sampler=torch"
    )


def _has(model: nn.Module, owner: str, leaf: str) -> bool:
    try:
        return getattr(model.get_submodule(owner), leaf, None) is not None
    except AttributeError:
        return False


def _parameter(module: nn.Module, leaf: str) -> Tensor:
    tensor: Tensor = getattr(module, leaf)
    if leaf == "weight" and not tensor.numel() and hasattr(module, "cpu_linear"):
        return _unpacked(module, int(_any(module).input_size_per_partition))
    return tensor.detach()


@torch.inference_mode()
def _unpacked(module: nn.Module, columns: int) -> Tensor:
    """The matrix [rows, columns] that the module's kernel multiplies by."""
    dtype = _any(module).weight.dtype
    apply: Callable[..., Tensor] = _quant_method(module).apply
    parts = []
    for begin in range(0, columns, _BLOCK):
        one_hot = torch.zeros(min(_BLOCK, columns - begin), columns, dtype=dtype)
        one_hot[:, begin:].fill_diagonal_(1)
        parts.append(apply(module, one_hot).t())
    return torch.cat(parts, dim=1).contiguous()


def _with_tiny(tensor: Tensor, tiny: tuple[Tensor, Tensor] | None) -> Tensor:
    if tiny is None:
        return tensor
    places, values = tiny
    flat = tensor.reshape(-1).clone()
    lost = flat[places].abs() < torch.finfo(flat.dtype).tiny
    flat[places[lost]] = values[lost]
    return flat.view(tensor.shape)


def _check_heads(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if _is_head(module) and hasattr(module, "cpu_linear"):
            weight = _any(module).weight
            # Equal as numbers: the kernel gives zeros no sign.
            if not torch.equal(_unpacked(module, weight.shape[1]), weight):
                raise RuntimeError(f"the engine's {name} computes with other weights than it shows")


def _is_head(module: nn.Module) -> bool:
    return type(module).__name__ == "ParallelLMHead"


def _quant_method(module: nn.Module) -> Any:
    return module.quant_method


def _any(module: nn.Module) -> Any:
    return module
