"""The ragged token store that every room above reads: responses, their origin, and their groups.

Each token has an origin. Only sampled tokens can carry loss; the mask is made where tokens are
made, by position, and never found again by comparing ids. Groups are explicit ids, never inferred
from position or from equal text.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinkrl.rollouts.calls import CallRecord
from thinkrl.rollouts.cuts import Cut
from thinkrl.rollouts.episodes import Episode
from thinkrl.rollouts.prompt import Prompt
from thinkrl.rollouts.ragged import Ragged


class Origin(IntEnum):
    """Who wrote a token."""

    GIVEN = 0
    """Prompt, tool output or inserted text: never carries loss."""
    SAMPLED = 1
    """Drawn by the policy."""


class FinishReason(StrEnum):
    """Why a response ended."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, eq=False)
class Group:
    """The responses to one prompt in one step share a group. `prompt_ids` is int32 [p].

    inputs: what a processor made of the prompt's images, by the name under which the model takes it (`pixel_values`,
        `image_grid_thw`), images along the first axis in the order of their placeholders; empty for text.
    """

    group_id: str
    prompt: Prompt
    prompt_ids: NDArray[np.int32]
    inputs: Mapping[str, NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Response:
    """One response, prompt excluded. All arrays are [t]; the last sampled token may be a stop token.

    logprobs: log-probability under the sampling distribution (after temperature and truncation),
        NaN where the token was given. entropies: of the same distribution, nats, NaN where given.
    versions: the version of the weights that sampled the token, -1 where given.
    char_ends: how many characters of `text` stand once this token is read; `text` leaves out stop tokens.
    cut: where it leaves a thinking that it shares with other responses; None where it shares none.
    episode: how the episode went that it is, or is a turn of; None where nothing kept score.
    calls: its calls of tools, in order; None where it had no tools.
    """

    response_id: str
    group_id: str
    text: str
    finish_reason: FinishReason
    token_ids: NDArray[np.int32]
    origins: NDArray[np.uint8]
    logprobs: NDArray[np.float32]
    entropies: NDArray[np.float32]
    versions: NDArray[np.int32]
    char_ends: NDArray[np.int32]
    cut: Cut | None = None
    episode: Episode | None = None
    calls: tuple[CallRecord, ...] | None = None

    @property
    def token_count(self) -> int:
        """Length in tokens, given and sampled."""
        return len(self.token_ids)


_COLUMNS = ("token_ids", "origins", "logprobs", "entropies", "versions", "char_ends")
_DTYPES = (np.int32, np.uint8, np.float32, np.float32, np.int32, np.int32)


@dataclass(frozen=True, eq=False)
class Rollouts:
    """n responses in columns. Token columns share their offsets; `group_index` [n] points into `groups`.

    cuts: where each leaves a shared thinking, [n]; empty where none does.
    episodes: how the episode of each went, [n]; empty where nothing kept score.
    calls: the calls of tools of each, [n]; empty where there were no tools.
    """

    groups: tuple[Group, ...]
    group_index: NDArray[np.int64]
    response_ids: tuple[str, ...]
    texts: tuple[str, ...]
    finish_reasons: tuple[FinishReason, ...]
    token_ids: Ragged
    origins: Ragged
    logprobs: Ragged
    entropies: Ragged
    versions: Ragged
    char_ends: Ragged
    cuts: tuple[Cut | None, ...] = ()
    episodes: tuple[Episode | None, ...] = ()
    calls: tuple[tuple[CallRecord, ...], ...] = ()

    def __post_init__(self) -> None:
        n = len(self.response_ids)
        for name in ("group_index", "texts", "finish_reasons", *_COLUMNS):
            if len(getattr(self, name)) != n:
                raise ValueError(f"{name} has {len(getattr(self, name))} rows, expected {n}")
        for name in _COLUMNS[1:]:
            if not np.array_equal(getattr(self, name).offsets, self.token_ids.offsets):
                raise ValueError(f"{name} and token_ids differ in row lengths")
        for name in ("cuts", "episodes", "calls"):
            if getattr(self, name) and len(getattr(self, name)) != n:
                raise ValueError(f"{name} has {len(getattr(self, name))} rows, expected {n}")
        if len(set(self.response_ids)) != n:
            raise ValueError("response ids must be unique")
        if len({group.group_id for group in self.groups}) != len(self.groups):
            raise ValueError("group ids must be unique")
        if n and (self.group_index.min() < 0 or self.group_index.max() >= len(self.groups)):
            raise ValueError("group_index points outside groups")

    @classmethod
    def from_responses(cls, groups: Sequence[Group], responses: Sequence[Response]) -> "Rollouts":
        """Gathers `responses` into columns; each must name one of `groups`."""
        position = {group.group_id: index for index, group in enumerate(groups)}
        unknown = sorted({r.group_id for r in responses} - position.keys())
        if unknown:
            raise ValueError(f"responses name groups that are not given: {unknown[:3]}")
        columns = {
            name: Ragged.from_rows([getattr(r, name) for r in responses], dtype)
            for name, dtype in zip(_COLUMNS, _DTYPES, strict=True)
        }
        return cls(
            groups=tuple(groups),
            group_index=np.asarray([position[r.group_id] for r in responses], dtype=np.int64),
            response_ids=tuple(r.response_id for r in responses),
            texts=tuple(r.text for r in responses),
            finish_reasons=tuple(r.finish_reason for r in responses),
            cuts=tuple(r.cut for r in responses) if any(r.cut is not None for r in responses) else (),
            episodes=tuple(r.episode for r in responses) if any(r.episode is not None for r in responses) else (),
            calls=tuple(r.calls or () for r in responses) if any(r.calls is not None for r in responses) else (),
            **columns,
        )

    def __len__(self) -> int:
        return len(self.response_ids)

    def __iter__(self) -> Iterator[Response]:
        return (self.response(row) for row in range(len(self)))

    def response(self, row: int) -> Response:
        """Row `row` as one record (arrays are views)."""
        return Response(
            response_id=self.response_ids[row],
            group_id=self.groups[self.group_index[row]].group_id,
            text=self.texts[row],
            finish_reason=self.finish_reasons[row],
            cut=self.cuts[row] if self.cuts else None,
            episode=self.episodes[row] if self.episodes else None,
            calls=self.calls[row] if self.calls else None,
            **{name: getattr(self, name)[row] for name in _COLUMNS},
        )

    def prompt(self, row: int) -> Prompt:
        """The prompt that row `row` answers."""
        return self.groups[int(self.group_index[row])].prompt

    def rows_by_group(self) -> dict[str, NDArray[np.int64]]:
        """Row numbers of each group that has any, by group id."""
        return {
            group.group_id: np.flatnonzero(self.group_index == index)
            for index, group in enumerate(self.groups)
            if np.any(self.group_index == index)
        }

    @property
    def sampled(self) -> NDArray[np.bool_]:
        """Which tokens the policy drew, bool [total]."""
        mask: NDArray[np.bool_] = self.origins.values == Origin.SAMPLED
        return mask

    @property
    def sampled_counts(self) -> NDArray[np.int64]:
        """Sampled tokens of each response, [n]."""
        return self.origins.with_values(self.sampled).sums().astype(np.int64)

    def select(self, rows: Sequence[int] | NDArray[np.int64]) -> "Rollouts":
        """The named responses, in the order given; groups left without a response are dropped."""
        kept = [self.response(int(row)) for row in rows]
        names = {response.group_id for response in kept}
        return Rollouts.from_responses([g for g in self.groups if g.group_id in names], kept)


def concatenate(parts: Sequence[Rollouts]) -> Rollouts:
    """Joins rollouts whose group and response ids do not meet."""
    return Rollouts.from_responses([g for part in parts for g in part.groups], [r for part in parts for r in part])
