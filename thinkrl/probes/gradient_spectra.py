"""The gradient of a response's loss at the attention projections of every layer, summarised by its singular values."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

Projection = Literal["q", "k", "v", "o"]
PROJECTIONS: tuple[Projection, ...] = ("q", "k", "v", "o")
_PLACE = re.compile(r"(?:.*\.)?layers\.(\d+)\.self_attn\.(q|k|v|o|qkv)_proj\.weight")


@dataclass(frozen=True)
class Spectrum:
    """A gradient matrix in numbers (arXiv 2410.23743): sizes of its singular values s_1 >= s_2 >= ..., and its entries.

    nuclear: their sum. ratio: s_1 / nuclear, 0 for a gradient of zeros. effective_rank: exp of the entropy of
    s / nuclear (Roy and Vetterli 2007), 0 for zeros. All are NaN where an entry is not finite.
    """

    nuclear: float
    ratio: float
    largest: float
    smallest: float
    frobenius: float
    effective_rank: float
    mean: float
    maximum: float
    minimum: float


UNKNOWN = Spectrum(*[nan] * 9)
"""Of a gradient with an entry that is not finite."""


@dataclass(frozen=True, eq=False)
class ResponseGradient:
    """loss: mean nats a learned token. tokens: how many those are. spectra: by projection and layer."""

    loss: float
    tokens: int
    spectra: Mapping[tuple[Projection, int], Spectrum]


def singular_values(matrix: Tensor, rank: int | None = None) -> Tensor:
    """All singular values of `matrix` [m, n], largest first, in float32, [min(m, n)].

    rank: a bound that its rank is known to keep; where it is well below m and n the matrix is first brought onto a
    basis of its range, which changes nothing but the time. The basis comes from products with a fixed random matrix.
    """
    values = matrix.float()
    smaller = min(values.shape)
    if rank is None or 2 * rank > smaller:
        plain: Tensor = torch.linalg.svdvals(values)
        return plain
    draw = torch.Generator().manual_seed(0)
    mixed = values @ torch.randn(values.shape[1], rank + 8, generator=draw).to(values.device)
    basis = torch.linalg.qr(mixed).Q
    found = torch.linalg.svdvals(basis.T @ values)[:smaller]
    return torch.nn.functional.pad(found, (0, smaller - len(found)))


def spectrum(gradient: Tensor, rank: int | None = None) -> Spectrum:
    """The numbers of one gradient [m, n]; `rank` as for `singular_values`."""
    if not bool(torch.isfinite(gradient).all()):
        return UNKNOWN
    values = singular_values(gradient, rank).double()
    total = float(values.sum())
    shares = values / total if total else values
    entropy = -float((shares * torch.log(shares.clamp_min(torch.finfo(shares.dtype).tiny))).sum())
    return Spectrum(
        nuclear=total,
        ratio=float(values[0]) / total if total else 0.0,
        largest=float(values[0]),
        smallest=float(values[-1]),
        frobenius=float(torch.linalg.vector_norm(gradient.double())),
        effective_rank=float(np.exp(entropy)) if total else 0.0,
        mean=float(gradient.double().mean()),
        maximum=float(gradient.max()),
        minimum=float(gradient.min()),
    )


def response_gradient(
    module: PreTrainedModel,
    ids: NDArray[np.int32],
    learned: NDArray[np.bool_],
    projections: Sequence[Projection] = PROJECTIONS,
) -> ResponseGradient:
    """The gradient of the mean negative log-likelihood of the `learned` ones, [t], among the tokens `ids`, [t].

    `module` stays as it is. A gradient has no higher rank than there are tokens, which saves time for short texts.
    Raises ValueError where nothing is learned: the first token is not, as nothing foretells it.
    """
    places = np.flatnonzero(learned[1:])
    if not len(places):
        raise ValueError("learned must mark a token behind the first, got none")
    weights = projection_weights(module)
    device = next(iter(weights.values())).device
    tokens = torch.from_numpy(ids.astype(np.int64)).to(device)
    before = torch.from_numpy(places).to(device)
    with torch.enable_grad():
        logits = module(tokens[None], use_cache=False, logits_to_keep=before).logits[0].float()
        loss = torch.nn.functional.cross_entropy(logits, tokens[before + 1])
        gradients = torch.autograd.grad(loss, list(weights.values()))
    spectra: dict[tuple[Projection, int], Spectrum] = {}
    nats = float(loss.detach())
    for name, gradient in zip(weights, gradients, strict=True):
        for place, part in _parts(name, gradient, module.config):
            if place[0] in projections:
                spectra[place] = spectrum(part, len(ids)) if isfinite(nats) else UNKNOWN
    return ResponseGradient(nats, len(places), spectra)


def projection_weights(module: PreTrainedModel) -> dict[str, Tensor]:
    """The attention projections of the language model's layers by parameter name, in the order of the layers.

    By name alone: other square matrices are none. Raises ValueError for a model that names them otherwise.
    """
    named = [(_PLACE.fullmatch(name), weight) for name, weight in module.named_parameters()]
    found: dict[str, Tensor] = {match[0]: weight for match, weight in named if match}
    places = [match.groups() for match, _ in named if match]
    if not found or len(set(places)) < len(places):
        raise ValueError(
            f"{type(module).__name__} must have one layers.N.self_attn.{{q,k,v,o}}_proj (or qkv_proj) for each layer,"
            f" got {len(found)} parameters of {len(set(places))} such names"
        )
    return found


def _parts(name: str, gradient: Tensor, config: Any) -> Iterator[tuple[tuple[Projection, int], Tensor]]:
    """The gradient of one projection, or those of the three that a fused one holds, below one another."""
    match = _PLACE.fullmatch(name)
    assert match is not None
    layer = int(match[1])
    if match[2] != "qkv":
        kind: Any = match[2]
        yield (kind, layer), gradient
        return
    size = gradient.shape[0] // (config.num_attention_heads + 2 * config.num_key_value_heads)
    rows = [size * count for count in (config.num_attention_heads, *[config.num_key_value_heads] * 2)]
    for kind, part in zip(PROJECTIONS[:3], torch.split(gradient, rows), strict=True):
        yield (kind, layer), part
