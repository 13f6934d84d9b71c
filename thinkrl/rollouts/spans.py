"""Where the thinking and the answer stand in a response: character ranges, and their token ranges."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thinkrl.rollouts.store import Origin, Response, Rollouts

Span = tuple[int, int]
"""Half-open range of characters or tokens."""

_TAG = re.compile(r"<(/?)(think|answer)>")


@dataclass(frozen=True)
class ResponseParts:
    """Character ranges inside the tags of `<think>...</think><answer>...</answer>`.

    think: the first thinking; unclosed thinking runs to the first `<answer>` after it, or to the end.
    answer: the last closed answer after the thinking. An unclosed answer is no answer.
    well_formed: each tag once, in order, and nothing but white space outside them.
    problems: what keeps the text from being well formed, in words.
    """

    think: Span | None
    answer: Span | None
    well_formed: bool
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Tag:
    name: str
    start: int
    end: int

    @property
    def text(self) -> str:
        return f"<{self.name}>"


def read_response(text: str, prefix: str = "") -> ResponseParts:
    """Finds the thinking and the answer in `text`, in one pass.

    prefix: what the prompt already wrote of the response, such as `<think>` from a chat template.
    Ranges index `text`; what lies in the prefix is cut off. Time is linear in the length.
    """
    whole = prefix + text
    tags = [_Tag(m[1] + m[2], m.start(), m.end()) for m in _TAG.finditer(whole)]
    think, think_ends = _find_think(tags, len(whole))
    answer = _find_answer(tags, think_ends)
    problems = _problems(whole, tags)

    def inside_text(span: Span | None) -> Span | None:
        return None if span is None else (max(0, span[0] - len(prefix)), max(0, span[1] - len(prefix)))

    return ResponseParts(inside_text(think), inside_text(answer), not problems, problems)


def _find_think(tags: list[_Tag], length: int) -> tuple[Span | None, int]:
    """The thinking, and where an answer may begin."""
    opening = next((i for i, tag in enumerate(tags) if tag.name == "think"), None)
    if opening is None:
        closing = next((tag for tag in tags if tag.name == "/think"), None)
        return None, closing.end if closing else 0
    start, later = tags[opening].end, tags[opening + 1 :]
    for name in ("/think", "answer"):
        end = next((tag for tag in later if tag.name == name), None)
        if end is not None:
            return (start, end.start), end.end if name == "/think" else end.start
    return (start, length), length


def _find_answer(tags: list[_Tag], begin: int) -> Span | None:
    answer, opening = None, None
    for tag in tags:
        if tag.start < begin:
            continue
        if tag.name == "answer":
            opening = tag
        elif tag.name == "/answer" and opening is not None:
            answer, opening = (opening.end, tag.start), None
        elif tag.name in ("think", "/think"):
            opening = None
    return answer


def _problems(whole: str, tags: list[_Tag]) -> tuple[str, ...]:
    wanted = ["think", "/think", "answer", "/answer"]
    names = [tag.name for tag in tags]
    counts = {name: names.count(name) for name in wanted}
    found = [f"no <{name}>" for name in wanted if counts[name] == 0]
    found += [f"<{name}> {counts[name]} times" for name in wanted if counts[name] > 1]
    if found:
        return tuple(found)
    if names != wanted:
        return (f"tags out of order: {' '.join(tag.text for tag in tags)}",)
    outside = {
        "before <think>": whole[: tags[0].start],
        "between </think> and <answer>": whole[tags[1].end : tags[2].start],
        "after </answer>": whole[tags[3].end :],
    }
    return tuple(f"text {place}" for place, part in outside.items() if part.strip())


def token_range(char_ends: NDArray[np.int32], start: int, end: int) -> Span:
    """The tokens that write characters [start, end), by a response's `char_ends` [t].

    A token that straddles an edge is inside. A token that completes no character (the first bytes
    of one) goes with the character it begins. An empty character range gives an empty token range.
    """
    if start < 0 or end < start:
        raise ValueError(f"start and end must be an ascending range, got {start} and {end}")
    begins = np.concatenate([np.zeros(1, dtype=np.int64), char_ends[:-1].astype(np.int64)])[: len(char_ends)]
    first = min(int(np.searchsorted(begins, start, "left")), int(np.searchsorted(char_ends, start, "right")))
    stop = int(np.searchsorted(begins, end, "left"))
    return (first, first) if start == end else (first, max(first, stop))


def thinking_lengths(rollouts: Rollouts) -> list[int]:
    """Tokens between the thinking tags of each response, [n]; 0 where there is no thinking."""
    lengths = []
    for response in rollouts:
        think = read_response(response.text).think
        first, stop = token_range(response.char_ends, *think) if think else (0, 0)
        lengths.append(stop - first)
    return lengths


def stretches(length: int, given: Sequence[Span]) -> list[tuple[Span, bool]]:
    """The ranges that make up `length` characters, in order, each with whether it is one of `given`.

    There is one range, which is not given, where `given` is empty. Raises ValueError unless the given ranges ascend,
    hold something, and end within the length.
    """
    parts: list[tuple[Span, bool]] = []
    end = 0
    for start, stop in given:
        if not end <= start < stop <= length:
            raise ValueError(
                f"given must hold ascending ranges of the {length} characters without overlap, got {list(given)}"
            )
        if start > end:
            parts.append(((end, start), False))
        parts.append(((start, stop), True))
        end = stop
    return parts if given and end == length else [*parts, ((end, length), False)]


def given_spans(response: Response) -> tuple[Span, ...]:
    """The character ranges that given tokens write, one for each run of them that writes anything, in order."""
    given = [False, *(response.origins == Origin.GIVEN).tolist(), False]
    edges = [place for place in range(len(given) - 1) if given[place] != given[place + 1]]
    ends = [0, *response.char_ends.tolist()]
    spans = [(int(ends[first]), int(ends[last])) for first, last in zip(edges[::2], edges[1::2], strict=True)]
    return tuple(span for span in spans if span[0] < span[1])


def spans_of(pairs: Iterable[Sequence[int]]) -> tuple[Span, ...]:
    """Pairs as JSON holds them, as spans."""
    return tuple((first, last) for first, last in pairs)
