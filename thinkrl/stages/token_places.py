"""Where the tokens of a given response end in its text, as far as the file and the tokenizer say."""

import re

import numpy as np
from numpy.typing import NDArray

_TAG = re.compile(r"</?(?:think|answer)>")


def spread_ends(text: str, count: int) -> NDArray[np.int64]:
    """Character ends of `count` tokens [count]: a token for each tag, the others spread over the text between.

    Each stretch between tags has a token of its own where there are enough, the rest by length. Where there are not,
    all tokens are spread evenly, whatever they cut.
    """
    edges = [0, *(edge for tag in _TAG.finditer(text) for edge in tag.span()), len(text)]
    stretches = [(edges[i], edges[i + 1], i % 2 == 1) for i in range(len(edges) - 1) if edges[i] < edges[i + 1]]
    free = count - len(stretches)
    if free < 0 or not stretches:
        return (np.arange(1, count + 1, dtype=np.int64) * len(text)) // max(count, 1)
    wide = np.asarray([0 if tag else end - start for start, end, tag in stretches], dtype=np.float64)
    if not wide.any():
        wide[-1] = 1.0  # nothing but tags: what is left over ends with the text, as stop tokens do
    wanted = free * wide / wide.sum()
    counts = 1 + np.floor(wanted).astype(np.int64)
    counts[np.argsort(-(wanted - np.floor(wanted)), kind="stable")[: count - counts.sum()]] += 1
    ends = [
        start + (end - start) * np.arange(1, n + 1) // n for (start, end, _), n in zip(stretches, counts, strict=True)
    ]
    return np.concatenate(ends).astype(np.int64)


def joined_ends(tokens: tuple[str, ...]) -> NDArray[np.int64]:
    """Character ends of tokens that are given as texts, [t]."""
    return np.cumsum([len(token) for token in tokens], dtype=np.int64)


def ids_of(tokens: tuple[str, ...]) -> NDArray[np.int32]:
    """A number for each different text, [t]."""
    numbers: dict[str, int] = {}
    return np.asarray([numbers.setdefault(token, len(numbers)) for token in tokens], dtype=np.int32)
