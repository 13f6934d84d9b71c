"""Rows of tokens for the model, in which equal beginnings stand once.

Prompts of a batch begin alike (a system turn), a group has one prompt, and responses of a group often go
on alike for a while. A row is a trie of such sequences: segments of tokens, each below the segment it
continues. A token sees its own segment up to itself and the segments above; position ids count from the
root. What is shared has its forward and backward pass once, and every response gets the numbers it
would get alone.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinkrl.learning.learner import Example
from thinkrl.rollouts.store import Group, Rollouts

ROOT = -1
"""Stands for the parent of a segment that begins at position 0."""
MOST_PADDING = 0.05
"""Share of the positions of a padded batch that may be padding."""


@dataclass(frozen=True, eq=False)
class Path:
    """A prompt with one response, as far as the model must read it, and the predictions made along it.

    token_ids: [n], up to the token before the last predicted one. sources: where predictions are made;
    targets: the tokens predicted; columns: their indices in the column of all tokens; all [m], m > 0.
    key: int64 [n]; beginnings are equal where their keys are. group: whose images the prompt shows, or None for text.
    """

    token_ids: NDArray[np.int32]
    sources: NDArray[np.int64]
    targets: NDArray[np.int32]
    columns: NDArray[np.int64]
    key: NDArray[np.int64]
    group: Group | None = None

    def __len__(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True, eq=False)
class Row:
    """One row of l tokens in s segments, with u different predictions that m columns share.

    token_ids, position_ids, segment: [l]. parents: [s], the segment above, smaller than the segment, or ROOT.
    sources, targets: [u], where in the row a prediction is made, and of which token.
    columns, predictions: [m], index in the column of all tokens, and which of the u predictions it is.
    groups: those whose images the row shows, in the order of their placeholders. shown: [l], which of them a token
        belongs to, -1 for text; empty where there are no images.
    """

    token_ids: NDArray[np.int64]
    position_ids: NDArray[np.int64]
    segment: NDArray[np.int64]
    parents: NDArray[np.int64]
    sources: NDArray[np.int64]
    targets: NDArray[np.int64]
    columns: NDArray[np.int64]
    predictions: NDArray[np.int64]
    groups: tuple[Group, ...] = ()
    shown: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def plain(self) -> bool:
        """Whether an ordinary causal mask does."""
        return len(self.parents) == 1

    def above(self) -> NDArray[np.bool_]:
        """Which segments (second axis) each segment (first axis) sees: itself and those it continues, [s, s]."""
        seen = np.eye(len(self.parents), dtype=np.bool_)
        for segment, parent in enumerate(self.parents):
            if parent != ROOT:
                seen[segment] |= seen[parent]
        return seen

    def visible(self) -> NDArray[np.bool_]:
        """Which tokens (second axis) each token (first axis) attends to, [l, l]."""
        return np.tril(self.above()[self.segment[:, None], self.segment[None, :]])


def rollout_paths(rollouts: Rollouts, rows: NDArray[np.int64]) -> list[Path]:
    """A path for each response among `rows` that has a sampled token."""
    sampled = rollouts.origins.with_values(rollouts.sampled)
    paths = []
    for row in rows.tolist():
        if np.any(sampled[row]):
            group = rollouts.groups[rollouts.group_index[row]]
            start = int(rollouts.token_ids.offsets[row])
            path = _path(group.prompt_ids, rollouts.token_ids[row], np.flatnonzero(sampled[row]), start)
            paths.append(_with_images(path, group, int(rollouts.group_index[row])) if group.inputs else path)
    return paths


def example_paths(examples: Sequence[Example]) -> list[Path]:
    """A path for each example that has a target with loss; the columns are all targets, end to end."""
    paths, start = [], 0
    for example in examples:
        predicted = example.predicted
        if len(predicted):
            paths.append(_path(example.prompt_ids, example.target_ids, predicted, start))
        start += len(example.target_ids)
    return paths


def _path(prompt_ids: NDArray[Any], token_ids: NDArray[Any], predicted: NDArray[np.int64], start: int) -> Path:
    """Tokens numbered `predicted` are predicted one token earlier; `start` is the column of token 0."""
    if len(prompt_ids) == 0:
        raise ValueError("a prompt must have at least one token, since its last token predicts the response")
    read = np.concatenate([prompt_ids, token_ids[: predicted[-1]]])
    return Path(
        token_ids=read,
        sources=len(prompt_ids) + predicted - 1,
        targets=token_ids[predicted],
        columns=start + predicted,
        key=read.astype(np.int64),
    )


def _with_images(path: Path, group: Group, number: int) -> Path:
    """A prompt with images is shared by its group alone and as a whole: equal placeholders may show unequal images,
    and no image may be cut."""
    key = path.key.copy()
    key[: len(group.prompt_ids)] += (number + 1) << 32
    return replace(path, key=key, group=group)


def pack(paths: Sequence[Path], row_tokens: int, *, share: bool) -> list[Row]:
    """Packs paths into rows of at most `row_tokens` tokens and about equal size, longest row first.

    A path that does not fit has a longer row of its own. Without `share` every path has its own plain row.
    """
    if not paths:
        return []
    if not share:
        return sorted((_row([path]) for path in paths), key=len, reverse=True)
    # In lexicographic order neighbours share most, and what a path adds is its length less that share.
    ordered = sorted(paths, key=lambda path: tuple(path.key.tolist()))
    shared = [0, *(_common(a.key, b.key) for a, b in pairwise(ordered))]
    lengths = [len(path) for path in ordered]
    cuts = _evened(lengths, shared, row_tokens)
    return sorted((_row(ordered[a:b]) for a, b in pairwise(cuts)), key=len, reverse=True)


def _evened(lengths: Sequence[int], shared: Sequence[int], budget: int) -> list[int]:
    """Where rows begin, and the end: no more rows than `budget` needs, of the smallest size that keeps to that."""
    cuts = _cuts(lengths, shared, budget)
    low, high = 0, budget
    while high - low > 1:
        middle = (low + high) // 2
        smaller = _cuts(lengths, shared, middle)
        if len(smaller) <= len(cuts):
            cuts, high = smaller, middle
        else:
            low = middle
    return cuts


def _cuts(lengths: Sequence[int], shared: Sequence[int], budget: int) -> list[int]:
    """Fills rows in order, each up to `budget` tokens."""
    cuts, size = [0], 0
    for index, (length, common) in enumerate(zip(lengths, shared, strict=True)):
        if size and size + length - common > budget:
            cuts.append(index)
            size = length
        else:
            size += length - (common if size else 0)
    return [*cuts, len(lengths)]


def micro_batches(rows: Iterable[Row], tokens: int, *, joined: bool = False) -> list[list[Row]]:
    """Rows (longest first) in batches of at most `tokens` tokens, or one row when it is longer.

    Rows that are `joined` end to end go where they fit first. Others are padded to the longest of their batch: padding
    counts as tokens, and is at most the share `MOST_PADDING` of them.
    """
    batches: list[list[Row]] = []
    for row in rows:
        if joined:
            fitting = next((batch for batch in batches if sum(map(len, batch)) + len(row) <= tokens), None)
        else:
            fitting = batches[-1] if batches and _pads_little(batches[-1], row, tokens) else None
        if fitting is None:
            batches.append([row])
        else:
            fitting.append(row)
    return batches


def _pads_little(batch: Sequence[Row], row: Row, tokens: int) -> bool:
    """Whether `batch` with `row` keeps to both bounds when padded."""
    size = (len(batch) + 1) * len(batch[0])
    return size <= tokens and size - sum(map(len, batch)) - len(row) <= MOST_PADDING * size


def _row(paths: Sequence[Path]) -> Row:
    """Lays out the trie of `paths` (in lexicographic order), a segment before those that continue it."""
    places = [np.empty(len(path), dtype=np.int64) for path in paths]  # where in the row each token of a path stands
    tokens: list[NDArray[np.int32]] = []
    positions: list[NDArray[np.int64]] = []
    parents: list[int] = []
    groups = list({path.group.group_id: path.group for path in paths if path.group is not None}.values())
    numbers = {group.group_id: number for number, group in enumerate(groups)}
    shown: list[int] = []
    length = 0
    pending = [(0, len(paths), 0, ROOT)]  # paths first..last-1 are equal up to `depth`, at the end of segment `parent`
    while pending:
        first, last, depth, parent = pending.pop()
        ids = paths[first].token_ids
        end = _common(paths[first].key, paths[last - 1].key)
        if end > depth:
            owner = paths[first].group
            shown += [-1 if owner is None else numbers[owner.group_id]] * (end - depth)
            tokens.append(ids[depth:end])
            positions.append(np.arange(depth, end))
            for place in places[first:last]:
                place[depth:end] = np.arange(length, length + end - depth)
            length += end - depth
            parents.append(parent)
            parent = len(parents) - 1
        begin = first
        while begin < last and len(paths[begin]) == end:  # these end here; in this order they stand first
            begin += 1
        branches = []
        for index in range(begin + 1, last + 1):
            if index == last or paths[index].key[end] != paths[begin].key[end]:
                branches.append((begin, index, end, parent))
                begin = index
        pending += reversed(branches)
    made = np.stack([_joined([place[p.sources] for place, p in zip(places, paths, strict=True)]),
                     _joined([path.targets for path in paths])])  # fmt: skip
    different, predictions = np.unique(made, axis=1, return_inverse=True)
    return Row(
        token_ids=_joined(tokens),
        position_ids=_joined(positions),
        segment=np.repeat(np.arange(len(tokens)), [len(part) for part in tokens]),
        parents=np.asarray(parents, dtype=np.int64),
        sources=different[0],
        targets=different[1],
        columns=_joined([path.columns for path in paths]),
        predictions=predictions.reshape(-1).astype(np.int64),
        groups=tuple(groups),
        shown=np.asarray(shown if groups else [], dtype=np.int64),
    )


def _common(a: NDArray[Any], b: NDArray[Any]) -> int:
    """How many tokens two sequences share from the start."""
    size = min(len(a), len(b))
    differing = np.flatnonzero(a[:size] != b[:size])
    return int(differing[0]) if len(differing) else size


def _joined(parts: Sequence[NDArray[Any]]) -> NDArray[np.int64]:
    return np.concatenate(parts).astype(np.int64)
