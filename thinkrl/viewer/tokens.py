"""What the page colours a response's tokens by, and where its parts stand.

Places are in UTF-16 code units, as JavaScript counts characters: an emoji is two of them, and one in Python.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinkrl.rollouts.spans import read_response
from thinkrl.rollouts.store import Origin
from thinkrl.viewer.values import number_list

_NOT_COLOURS = ("token_ids", "char_ends", "origins", "prompt_ids")
_LABELS = {
    "logprobs": "log-probability when sampled (nats)",
    "entropies": "entropy (nats)",
    "versions": "version of the weights",
}
_PERCENTILE = 98.0


class Utf16:
    """Turns places in a Python text into places in the same text as JavaScript counts."""

    def __init__(self, text: str) -> None:
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        wide = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(points > 0xFFFF)])
        self._places = np.arange(len(text) + 1) + wide

    def __call__(self, places: NDArray[Any] | Sequence[int]) -> list[int]:
        """Places beyond the text are its end."""
        clipped = np.clip(np.asarray(places, dtype=np.int64), 0, len(self._places) - 1)
        found: list[int] = self._places[clipped].tolist()
        return found


@dataclass(frozen=True)
class Colour:
    """A number a token. scale: the size at which the colour is full. signed: whether both signs have a colour."""

    name: str
    label: str
    values: list[Any]
    scale: float
    signed: bool

    def as_json(self) -> dict[str, Any]:
        """For the page."""
        return vars(self)


def token_colours(row: Mapping[str, Any], advantage: float, group_advantage: float) -> list[Colour]:
    """Every column of a response that has a number for each of its tokens, and what follows from two of them.

    advantage: the response's own, or NaN, for files without one a token. group_advantage: the largest of its group, so
    that colours of one group can be compared.
    """
    count = _token_count(row)
    arrays = {
        name: np.asarray(values, dtype=np.float64)
        for name, values in row.items()
        if isinstance(values, np.ndarray) and name not in _NOT_COLOURS and len(values) == count
    }
    found = [
        _colour(name, _LABELS.get(name, name.replace("_", " ")), values)
        for name, values in arrays.items()
        if name != "versions" or len(np.unique(values[values >= 0])) > 1
    ]
    own = arrays.get("logprobs")
    for name, values in arrays.items():
        if name.endswith("logprobs") and name != "logprobs" and own is not None:
            label = f"{name.replace('_', ' ')} less those when sampled (nats)"
            found.append(_colour(f"{name}-difference", label, values - own, signed=True))
    if not np.isnan(advantage) and count and not any("advantage" in name for name in arrays):
        sampled = _sampled(row, count)
        values = np.where(sampled, advantage, np.nan)
        label = "advantage (the response's, for all of its tokens)"
        found.insert(0, Colour("advantage", label, number_list(values), group_advantage or 1.0, True))
    return sorted(found, key=lambda colour: "advantage" not in colour.name)


def segments(text: str, turns: Sequence[tuple[int, int, bool]], utf16: Utf16) -> list[dict[str, Any]]:
    """The text cut wherever the thinking, the answer, or what the policy did not write begins or ends.

    turns: characters from, to, and whether the policy sampled them; see `turn_ranges`.
    """
    parts = read_response(text)
    spans = [(span, kind) for span, kind in ((parts.think, "think"), (parts.answer, "answer")) if span is not None]
    spans += [((begin, end), "given") for begin, end, sampled in turns if not sampled]
    if not text:
        return [{"start": 0, "end": 0, "kinds": []}]
    cuts = sorted({0, len(text), *(place for span, _ in spans for place in span)})
    found = []
    for begin, end in pairwise(cuts):
        kinds = [kind for span, kind in spans if span[0] <= begin and end <= span[1]]
        start, stop = utf16([begin, end])
        found.append({"start": start, "end": stop, "kinds": kinds})
    return found


def turn_ranges(row: Mapping[str, Any], text: str) -> list[tuple[int, int, bool]]:
    """Characters of the text that were sampled, or given, without a break; empty where the file does not say."""
    origins, ends = row.get("origins"), row.get("char_ends")
    if origins is None or ends is None or len(origins) != len(ends) or len(origins) == 0:
        return []
    sampled = np.asarray(origins) == Origin.SAMPLED
    edges = [*(np.flatnonzero(np.diff(sampled)) + 1).tolist(), len(sampled)]
    found, begin, first = [], 0, 0
    for edge in edges:
        end = len(text) if edge == len(sampled) else min(int(ends[edge - 1]), len(text))
        found.append((begin, end, bool(sampled[first])))
        begin, first = end, edge
    return found


def _token_count(row: Mapping[str, Any]) -> int:
    ends = row.get("char_ends")
    return 0 if ends is None else len(ends)


def _sampled(row: Mapping[str, Any], count: int) -> NDArray[np.bool_]:
    origins = row.get("origins")
    if origins is None or len(origins) != count:
        return np.ones(count, dtype=np.bool_)
    return np.asarray(origins == Origin.SAMPLED, dtype=np.bool_)


def _colour(name: str, label: str, values: NDArray[np.float64], signed: bool | None = None) -> Colour:
    sizes = np.abs(values[np.isfinite(values)])
    scale = float(np.percentile(sizes, _PERCENTILE)) if len(sizes) else 0.0
    if scale == 0.0:
        scale = float(sizes.max()) if len(sizes) and sizes.max() > 0 else 1.0
    if signed is None:  # log-probabilities are all of one sign, which is no news
        signed = not name.endswith("logprobs") and name != "versions" and bool(np.any(values < 0))
    return Colour(name, label, number_list(values), scale, signed)
