"""The samples under way: a tree of rows, in which samples share a row for as long as they are the same."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import nan
from typing import Any

import torch
from torch import Tensor

from thinkrl.rollouts.store import FinishReason
from thinkrl.sampling.budget import BudgetRule
from thinkrl.sampling.decoder import Decoder
from thinkrl.sampling.distribution import draw
from thinkrl.sampling.sampler import SamplingSpec
from thinkrl.sampling.stops import StopRule
from thinkrl.sampling.stream import UniformStream


@dataclass(eq=False)
class RunningSample:
    """A sample under way: where it belongs, its random stream, and what it has so far."""

    request: int
    place: int
    stream: UniformStream
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    sampled: list[bool] = field(default_factory=list)
    forced: deque[int] = field(default_factory=deque)
    drawn: int = 0
    """Tokens drawn so far, which is the position in the random stream."""
    finish_reason: FinishReason | None = None

    def append(self, token_id: int, logprob: float, entropy: float) -> None:
        """Adds a token that was drawn."""
        self._add(token_id, logprob, entropy, drawn=True)
        self.drawn += 1

    def append_forced(self) -> None:
        """Adds the next token that is to be inserted."""
        self._add(self.forced.popleft(), nan, nan, drawn=False)

    def _add(self, token_id: int, logprob: float, entropy: float, *, drawn: bool) -> None:
        self.token_ids.append(token_id)
        self.logprobs.append(logprob)
        self.entropies.append(entropy)
        self.sampled.append(drawn)


@dataclass(eq=False)
class WaitingGroup:
    """A prompt with samples still to start. `prefilled` is set while only part of them has started."""

    prompt: Tensor
    samples: deque[RunningSample]
    prefilled: Any = None


Row = list[RunningSample]
"""Samples of one prompt that have the same tokens so far: the decoder reads these tokens once for all of them."""


class RunningBatch:
    """The rows under way, in the order of the decoder's.

    Samples of a group start in one row. Each draws from the row's distribution with its own random number, and
    those that drew another token go on in a row of their own, so that every row of a step is another text.
    """

    def __init__(
        self,
        decoder: Decoder,
        stops: StopRule,
        budget: BudgetRule | None,
        spec: SamplingSpec,
        device: torch.device,
    ) -> None:
        self._decoder = decoder
        self._stops = stops
        self._budget = budget
        self._spec = spec
        self._device = device
        self._rows: list[Row] = []

    @property
    def samples(self) -> int:
        """Samples under way."""
        return sum(map(len, self._rows))

    def admit(self, waiting: deque[WaitingGroup], free: int) -> list[RunningSample]:
        """Starts up to `free` samples and draws the first token of each; returns those that end with it.

        A prompt is read when its first sample starts, and kept until its last one has started.
        """
        groups, newcomers = self._newcomers(waiting, free)
        unread = [group for group in groups if group.prefilled is None]
        for group, prefilled in zip(unread, self._decoder.prefill([group.prompt for group in unread]), strict=True):
            group.prefilled = prefilled
        finished = self._draw(newcomers, torch.cat([group.prefilled.logits for group in groups]))
        for group, row in zip(groups, newcomers, strict=True):
            parts = _parted(row)
            if parts:
                self._decoder.join(group.prefilled, len(parts))
                self._rows += parts
            if not group.samples:
                group.prefilled = None
        return finished

    def step(self) -> list[RunningSample]:
        """Adds one more token to every sample; returns those that end with it."""
        last = torch.tensor([row[0].token_ids[-1] for row in self._rows], device=self._device)
        finished = self._draw(self._rows, self._decoder.step(last))
        self._part()
        return finished

    @staticmethod
    def _newcomers(waiting: deque[WaitingGroup], free: int) -> tuple[list[WaitingGroup], list[Row]]:
        """The next `free` samples, by group; groups none of whose samples are left stop waiting."""
        groups: list[WaitingGroup] = []
        newcomers: list[Row] = []
        while waiting and free:
            group = waiting[0]
            count = min(free, len(group.samples))
            groups.append(group)
            newcomers.append([group.samples.popleft() for _ in range(count)])
            free -= count
            if not group.samples:
                waiting.popleft()
        return groups, newcomers

    def _draw(self, rows: Sequence[Row], logits: Tensor) -> list[RunningSample]:
        """One token more for every sample of `rows`, whose next tokens have `logits`; returns those that end."""
        samples = [sample for row in rows for sample in row]
        uniforms = torch.tensor([sample.stream.at(sample.drawn) for sample in samples], dtype=torch.float64)
        draws = draw(logits, uniforms.to(logits.device), self._spec, [len(row) for row in rows])
        columns = (draws.token_ids.tolist(), draws.logprobs.tolist(), draws.entropies.tolist())
        for sample, token_id, logprob, entropy in zip(samples, *columns, strict=True):
            if sample.forced:
                sample.append_forced()
                sample.finish_reason = self._stops.cut(len(sample.token_ids))
                continue
            sample.append(token_id, logprob, entropy)
            sample.finish_reason = self._stops.finished(sample.token_ids)
            if self._budget is not None and sample.finish_reason is None and sample.drawn == len(sample.token_ids):
                sample.forced.extend(self._budget.insertion(sample.token_ids))
        return [sample for sample in samples if sample.finish_reason is not None]

    def _part(self) -> None:
        """Gives samples that now differ rows of their own, and closes the gaps of rows that have ended.

        What stays in its row is not moved in the decoder's memory.
        """
        parts = [_parted(row) for row in self._rows]
        count = sum(map(len, parts))
        rows: list[Row | None] = [None] * count
        sources = list(range(count))
        moving: list[tuple[int, Row]] = []
        for source, (first, *others) in ((source, part) for source, part in enumerate(parts) if part):
            if source < count:
                rows[source] = first
            else:
                moving.append((source, first))
            moving += [(source, other) for other in others]
        for place in (place for place, row in enumerate(rows) if row is None):
            sources[place], rows[place] = moving.pop()
        if sources != list(range(len(self._rows))):
            self._decoder.arrange(sources)
        self._rows = [row for row in rows if row is not None]


def _parted(row: Row) -> list[Row]:
    """The samples that go on, by their last token, in the order in which the tokens first come."""
    parts: dict[int, Row] = {}
    for sample in row:
        if sample.finish_reason is None:
            parts.setdefault(sample.token_ids[-1], []).append(sample)
    return list(parts.values())
