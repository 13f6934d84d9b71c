"""Do token weights stand where a response is decided? Measured in worlds whose decisive tokens are known."""

import re

import numpy as np
from numpy.typing import NDArray

from thinkrl.rollouts.ragged import Ragged
from thinkrl.rollouts.spans import token_range
from thinkrl.rollouts.store import Rollouts


def pattern_tokens(rollouts: Rollouts, pattern: str) -> Ragged:
    """Which tokens write a character that `pattern` matches, bool, aligned with `token_ids`.

    Of a pattern with groups, only what a group matches counts: `=(-?\\d+)` marks results and not their signs of
    equality.
    """
    compiled = re.compile(pattern)
    marked = np.zeros(len(rollouts.token_ids.values), dtype=np.bool_)
    for row, text in enumerate(rollouts.texts):
        ends, start = rollouts.char_ends[row], int(rollouts.token_ids.offsets[row])
        for match in compiled.finditer(text):
            for number in range(1, compiled.groups + 1) if compiled.groups else (0,):
                if match[number]:
                    first, stop = token_range(ends, *match.span(number))
                    marked[start + first : start + stop] = True
    return rollouts.token_ids.with_values(marked)


def weight_correlation(weights: Ragged, marked: Ragged, rows: NDArray[np.int64]) -> float:
    """Mean over `rows` of Pearson's correlation, within a response, of its weights (NaN where there is none) with its
    marks; NaN where no response has marked and unmarked tokens. Weights that are all alike have correlation 0."""
    found = []
    for row in rows.tolist():
        known = ~np.isnan(weights[row])
        values, marks = weights[row][known], marked[row][known].astype(np.float64)
        if not len(marks) or np.ptp(marks) == 0:
            continue
        found.append(float(np.corrcoef(values, marks)[0, 1]) if np.ptp(values) > 0 else 0.0)
    return float(np.mean(found)) if found else float("nan")
