"""One named policy for prompts that are too long, with a count."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from thinkrl.data.source import DataError

_log = logging.getLogger(__name__)


class OverlongPolicy(StrEnum):
    """What happens to a prompt of more tokens than the limit."""

    ERROR = "error"
    """Stops with the number of such prompts and the longest one."""
    DROP = "drop"
    """Leaves the prompt out."""
    TRUNCATE_LEFT = "truncate_left"
    """Cuts the oldest tokens."""
    TRUNCATE_RIGHT = "truncate_right"
    """Cuts the newest tokens."""


@dataclass(frozen=True, eq=False)
class FittedPrompts:
    """`rows` are the ids that remain (int32), `kept` [m] the position each had, `overlong` how many were too long."""

    rows: tuple[NDArray[np.int32], ...]
    kept: tuple[int, ...]
    overlong: int


def fit_prompts(
    rows: Sequence[NDArray[np.int32]],
    names: Sequence[str],
    limit: int,
    policy: OverlongPolicy,
    *,
    head: int = 0,
    tail: int = 0,
) -> FittedPrompts:
    """Applies `policy` to every row of more than `limit` tokens and logs how many there were.

    Truncation spares the first `head` tokens (a beginning-of-sequence token) and the last `tail`
    (the header of the policy's turn): without them the prompt would be another format. Raises
    DataError under the policy `error`, when nothing remains, or when the spared tokens do not fit.
    """
    overlong = [index for index, row in enumerate(rows) if len(row) > limit]
    if not overlong:
        return FittedPrompts(tuple(rows), tuple(range(len(rows))), 0)
    worst = max(overlong, key=lambda index: len(rows[index]))
    found = (
        f"{len(overlong)} of {len(rows)} prompts are longer than {limit} tokens"
        f" (the longest, {names[worst]}, has {len(rows[worst])})"
    )
    if policy is OverlongPolicy.ERROR:
        raise DataError(f"{found}: raise max_prompt_tokens, or choose overlong=drop, truncate_left or truncate_right")
    if policy is OverlongPolicy.DROP:
        _log.warning("%s: dropped", found)
        kept = tuple(index for index in range(len(rows)) if len(rows[index]) <= limit)
        if not kept:
            raise DataError(f"{found}, and dropping them leaves none: raise max_prompt_tokens")
        return FittedPrompts(tuple(rows[index] for index in kept), kept, len(overlong))
    if head + tail >= limit:
        raise DataError(f"{found}, and truncation must spare {head + tail} tokens: raise max_prompt_tokens")
    _log.warning("%s: %s", found, policy.value)
    cut = [_truncate(row, limit, policy, head, tail) for row in rows]
    return FittedPrompts(tuple(cut), tuple(range(len(rows))), len(overlong))


def _truncate(row: NDArray[np.int32], limit: int, policy: OverlongPolicy, head: int, tail: int) -> NDArray[np.int32]:
    if len(row) <= limit:
        return row
    end = len(row) - tail
    room = limit - head - tail
    body = row[end - room : end] if policy is OverlongPolicy.TRUNCATE_LEFT else row[head : head + room]
    return np.concatenate([row[:head], body, row[end:]])
