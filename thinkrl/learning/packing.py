"""Rows of tokens for the model: each prompt once, its responses side by side behind it.

A row is one or more pieces `[prompt][response 1]...[response g]`. A response sees its prompt and itself;
pieces and sibling responses do not see each other; position ids go on after the prompt in every response.
So the prompt's forward and backward pass are computed once for all its responses in a row, and every
response gets the numbers it would get alone.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinkrl.learning.learner import Example
from thinkrl.rollouts.store import Rollouts

PROMPT = 0
"""Branch number of a prompt's tokens; responses count from 1."""


@dataclass(frozen=True, eq=False)
class Branch:
    """A continuation of a prompt.

    token_ids: int32 [t]. predicted: bool [t], the tokens whose log-probability is wanted.
    start: index of its first token in the column of all tokens.
    """

    token_ids: NDArray[np.int32]
    predicted: NDArray[np.bool_]
    start: int

    @property
    def input_count(self) -> int:
        """Tokens the model must read: all before the last predicted one."""
        return int(np.flatnonzero(self.predicted)[-1])


@dataclass(frozen=True, eq=False)
class Tree:
    """A prompt (int32 [p], p > 0) and its continuations, each with a predicted token."""

    prompt_ids: NDArray[np.int32]
    branches: tuple[Branch, ...]

    @property
    def input_count(self) -> int:
        """Tokens the model must read."""
        return len(self.prompt_ids) + sum(branch.input_count for branch in self.branches)


@dataclass(frozen=True, eq=False)
class Row:
    """One row of l tokens and the m predictions made in it.

    token_ids, position_ids, piece, branch: [l]. sources: where in the row each prediction is made;
    targets: the token predicted; columns: its index in the column of all tokens; all [m].
    plain: whether the row is one prompt with one response, for which the causal mask is the whole mask.
    """

    token_ids: NDArray[np.int64]
    position_ids: NDArray[np.int64]
    piece: NDArray[np.int64]
    branch: NDArray[np.int64]
    sources: NDArray[np.int64]
    targets: NDArray[np.int64]
    columns: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def plain(self) -> bool:
        """Whether an ordinary causal mask does."""
        return bool(self.piece[-1] == 0 and self.branch[-1] <= 1)

    def visible(self) -> NDArray[np.bool_]:
        """Which tokens (second axis) each token (first axis) attends to, [l, l]."""
        same_piece = self.piece[:, None] == self.piece[None, :]
        own = self.branch[:, None] == self.branch[None, :]
        prompt = (self.branch == PROMPT)[None, :]
        return np.tril(same_piece & (own | prompt))


def rollout_trees(rollouts: Rollouts, rows: NDArray[np.int64]) -> list[Tree]:
    """One tree per group, of those responses among `rows` that have a sampled token."""
    sampled = rollouts.origins.with_values(rollouts.sampled)
    branches: dict[int, list[Branch]] = {}
    for row in rows.tolist():
        if np.any(sampled[row]):
            branch = Branch(rollouts.token_ids[row], sampled[row], int(rollouts.token_ids.offsets[row]))
            branches.setdefault(int(rollouts.group_index[row]), []).append(branch)
    return [_tree(rollouts.groups[group].prompt_ids, members) for group, members in sorted(branches.items())]


def example_trees(examples: Sequence[Example]) -> list[Tree]:
    """One tree per example that has a target; the columns are all targets, end to end."""
    trees, start = [], 0
    for example in examples:
        if len(example.target_ids):
            everything = np.ones(len(example.target_ids), dtype=np.bool_)
            trees.append(_tree(example.prompt_ids, [Branch(example.target_ids, everything, start)]))
        start += len(example.target_ids)
    return trees


def _tree(prompt_ids: NDArray[np.int32], branches: Sequence[Branch]) -> Tree:
    if len(prompt_ids) == 0:
        raise ValueError("a prompt must have at least one token, since its last token predicts the response")
    return Tree(prompt_ids, tuple(branches))


def pack(trees: Sequence[Tree], row_tokens: int, *, share_prompts: bool) -> list[Row]:
    """Packs trees into rows of at most `row_tokens` tokens, longest row first.

    Groups that do not fit are spread over rows, each with the prompt; a single response that does not
    fit has a longer row of its own. Without `share_prompts` every response has its own plain row.
    """
    if not share_prompts:
        rows = [_row([Tree(tree.prompt_ids, (branch,))]) for tree in trees for branch in tree.branches]
        return sorted(rows, key=len, reverse=True)
    pieces = [piece for tree in trees for piece in _split(tree, row_tokens)]
    bins: list[list[Tree]] = []
    room: list[int] = []
    for piece in sorted(pieces, key=lambda piece: piece.input_count, reverse=True):  # first fit, decreasing
        fitting = next((i for i, left in enumerate(room) if piece.input_count <= left), None)
        if fitting is None:
            bins.append([])
            room.append(row_tokens)
            fitting = len(bins) - 1
        bins[fitting].append(piece)
        room[fitting] -= piece.input_count
    return sorted((_row(pieces) for pieces in bins), key=len, reverse=True)


def micro_batches(rows: Iterable[Row], tokens: int) -> list[list[Row]]:
    """Rows (longest first) in batches whose padded size is at most `tokens`, or one row when it is longer."""
    batches: list[list[Row]] = []
    for row in rows:
        if batches and (len(batches[-1]) + 1) * len(batches[-1][0]) <= tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def _split(tree: Tree, row_tokens: int) -> list[Tree]:
    """The tree, or parts of it of at most `row_tokens` tokens and about equal size."""
    budget = max(row_tokens - len(tree.prompt_ids), 1)
    response_tokens = tree.input_count - len(tree.prompt_ids)
    parts: list[list[Branch]] = []
    room = 0
    # Equal shares keep the last row of a large group from being nearly empty.
    share = -(-response_tokens // max(-(-response_tokens // budget), 1))
    for branch in tree.branches:
        read = branch.input_count
        if not parts or read > room or (read and budget - room >= share):
            parts.append([])
            room = budget
        parts[-1].append(branch)
        room -= read
    return [Tree(tree.prompt_ids, tuple(part)) for part in parts]


def _row(pieces: Sequence[Tree]) -> Row:
    """Lays the pieces end to end."""
    tokens: list[NDArray[Any]] = []
    positions: list[NDArray[Any]] = []
    piece_of: list[NDArray[Any]] = []
    branch_of: list[NDArray[Any]] = []
    sources: list[NDArray[Any]] = []
    targets: list[NDArray[Any]] = []
    columns: list[NDArray[Any]] = []
    length = 0
    for number, piece in enumerate(pieces):
        prompt_length = len(piece.prompt_ids)
        prompt_end = length + prompt_length - 1
        parts = [(PROMPT, piece.prompt_ids, 0)]
        length += prompt_length
        for index, branch in enumerate(piece.branches, start=PROMPT + 1):
            read = branch.input_count
            predicted = np.flatnonzero(branch.predicted)
            # The first token of a response is predicted at the end of the prompt, the others one token before them.
            sources.append(np.where(predicted == 0, prompt_end, length + predicted - 1))
            targets.append(branch.token_ids[predicted])
            columns.append(branch.start + predicted)
            parts.append((index, branch.token_ids[:read], prompt_length))
            length += read
        for index, ids, first_position in parts:
            tokens.append(ids)
            positions.append(first_position + np.arange(len(ids)))
            piece_of.append(np.full(len(ids), number))
            branch_of.append(np.full(len(ids), index))
    return Row(
        token_ids=_joined(tokens),
        position_ids=_joined(positions),
        piece=_joined(piece_of),
        branch=_joined(branch_of),
        sources=_joined(sources),
        targets=_joined(targets),
        columns=_joined(columns),
    )


def _joined(parts: Sequence[NDArray[Any]]) -> NDArray[np.int64]:
    return np.concatenate(parts).astype(np.int64)
