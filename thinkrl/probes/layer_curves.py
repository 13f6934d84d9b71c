"""Numbers along the layers of a model: the mean curve of some responses, how uneven it is, how far two are apart."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Values = NDArray[np.float64]
SEGMENTS: Mapping[int, tuple[int, int]] = {26: (7, 20), 28: (7, 21), 32: (10, 20), 42: (12, 30)}
"""Where the early layers end and the late ones begin, by the number of layers (the released code)."""


def mean_curve(values: ArrayLike) -> Values:
    """The mean over responses of `values` [responses, layers]; a response with a NaN anywhere is left out."""
    table = np.asarray(values, dtype=np.float64)
    kept = table[~np.isnan(table).any(axis=1)]
    return kept.mean(axis=0) if len(kept) else np.full(table.shape[1], np.nan)


def mean_absolute_difference(curve: ArrayLike) -> float:
    """MAD = 1/(N-1) sum_i |s(i+1) - s(i)| of a curve over N layers (arXiv 2410.23743); NaN for fewer than two."""
    steps = np.abs(np.diff(np.asarray(curve, dtype=np.float64)))
    return float(steps.mean()) if len(steps) else float("nan")


def segment_differences(curve: ArrayLike) -> tuple[float, ...]:
    """MAD of the early, middle and late layers; the steps between segments are in none. Empty for a number of layers
    that the paper does not divide."""
    values = np.asarray(curve, dtype=np.float64)
    if len(values) not in SEGMENTS:
        return ()
    edges = (0, *SEGMENTS[len(values)], len(values))
    return tuple(mean_absolute_difference(values[first:last]) for first, last in pairwise(edges))


def relative_difference(reference: ArrayLike, other: ArrayLike, floor: float | None = None) -> Values:
    """(other - reference) / reference, layer by layer; NaN where the reference is 0.

    floor: what stands for a reference of 0 instead, such as the 1e-10 of the released code, which no mean survives.
    """
    first, second = (np.asarray(curve, dtype=np.float64) for curve in (reference, other))
    below = np.where(first == 0, np.nan if floor is None else floor, first)
    return (second - first) / below


def mean_relative_difference(reference: ArrayLike, other: ArrayLike, floor: float | None = None) -> float:
    """Mean over layers of |other - reference| / |reference|; NaN where no layer has one."""
    apart = np.abs(relative_difference(reference, other, floor))
    return float(np.nanmean(apart)) if np.isfinite(apart).any() else float("nan")


def most_different_layers(
    reference: ArrayLike, other: ArrayLike, count: int = 5, floor: float | None = None
) -> list[int]:
    """The `count` layers that differ most, relative to the reference; the earlier of equals first."""
    apart = np.abs(relative_difference(reference, other, floor))
    order = np.argsort(-apart, kind="stable")  # NaN comes last
    return [int(layer) for layer in order[:count] if not np.isnan(apart[layer])]


def gather(rows: Sequence[Mapping[str, Any]], statistic: str) -> dict[tuple[str, str], Values]:
    """`statistic` of rows of gradients, by (responses, projection), each [responses, layers] in the order of the rows.

    A row is one gradient: what responses it is of, which response, projection, layer, and the statistics.
    """
    found: dict[tuple[str, str], dict[str, dict[int, float]]] = {}
    for row in rows:
        one = found.setdefault((row["responses"], row["projection"]), {}).setdefault(row["prompt_id"], {})
        one[int(row["layer"])] = float(row[statistic])
    return {
        key: np.asarray([[layers[layer] for layer in sorted(layers)] for layers in responses.values()])
        for key, responses in found.items()
    }
