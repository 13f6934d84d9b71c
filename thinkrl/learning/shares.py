"""The share of a batch's rows that each rank computes: balanced by tokens, whole rows, none twice."""

import math
from collections.abc import Sequence

import numpy as np

from thinkrl.learning.packing import Path, Row, micro_batches, pack
from thinkrl.parallel.ranks import Ranks

_NONE = np.zeros(0, dtype=np.int64)
NOTHING = Row(
    token_ids=np.zeros(1, dtype=np.int64),
    position_ids=np.zeros(1, dtype=np.int64),
    segment=np.zeros(1, dtype=np.int64),
    parents=np.full(1, -1, dtype=np.int64),
    sources=np.zeros(1, dtype=np.int64),
    targets=np.zeros(1, dtype=np.int64),
    columns=_NONE,
    predictions=_NONE,
)
"""A row whose one prediction no column reads, so that every weight gets a gradient of 0. Ranks gather weights and
sum gradients together: a rank that has run out of rows passes this one as often as the others have one left."""


def pack_for(ranks: int, paths: Sequence[Path], row_tokens: int, *, share: bool) -> list[Row]:
    """Rows for `ranks` ranks, longest first: shorter ones than `row_tokens` allows where that spreads them better."""
    rows = pack(paths, row_tokens, share=share)
    if ranks == 1 or not len(rows) % ranks:
        return rows
    even = ranks * math.ceil(len(rows) / ranks)
    shorter = pack(paths, math.ceil(sum(map(len, rows)) / even), share=share)
    return min(rows, shorter, key=lambda packed: max(sum(map(len, part)) for part in deal(packed, ranks)))


def deal(rows: Sequence[Row], ranks: int) -> list[list[Row]]:
    """Rows (longest first) by rank: each goes to the rank with the fewest tokens so far."""
    parts: list[list[Row]] = [[] for _ in range(ranks)]
    tokens = [0] * ranks
    for row in rows:
        least = tokens.index(min(tokens))
        parts[least].append(row)
        tokens[least] += len(row)
    return parts


def own_batches(rows: Sequence[Row], tokens: int, ranks: Ranks, *, joined: bool = False) -> list[list[Row]]:
    """The micro-batches of this rank, as many as every other rank's: the last ones may hold `NOTHING`."""
    parts = [micro_batches(part, tokens, joined=joined) for part in deal(rows, ranks.size)]
    own = parts[ranks.rank]
    return own + [[NOTHING]] * (max(map(len, parts)) - len(own))
