"""Shuffled epochs as a pure function of seed and step: nothing to save, so an exact resume is free."""

from collections.abc import Sequence
from math import gcd

import numpy as np
from numpy.typing import NDArray

from thinkrl.data.source import DataError, PromptSource
from thinkrl.rollouts.prompt import Prompt
from thinkrl.rollouts.streams import generator


def order_prompts(source: PromptSource, per_step: int, seed: int) -> "PromptOrder":
    """The order in which a stage visits the prompts of `source`, `per_step` at a time.

    Raises DataError when there are fewer prompts than a step takes.
    """
    prompts = source.prompts()
    if per_step > len(prompts):
        raise DataError(
            f"prompts_per_step must be at most the {len(prompts)} prompts that the source gives, got {per_step}:"
            " lower it, or give the source more prompts"
        )
    return PromptOrder(prompts, seed)


class PromptOrder:
    """Visits `prompts` in epochs, each a permutation of its own; every prompt stands once in each epoch.

    Batches run on across the end of an epoch. Where one holds the last prompts of an epoch and the
    first of the next, those that would repeat move back within the next epoch, so a batch never
    holds a prompt twice.
    """

    def __init__(self, prompts: Sequence[Prompt], seed: int) -> None:
        """Raises ValueError for an empty sequence or an id that stands twice."""
        if not prompts:
            raise ValueError("prompts must not be empty")
        seen: set[str] = set()
        for prompt in prompts:
            if prompt.prompt_id in seen:
                raise ValueError(f"prompt ids must be unique, got {prompt.prompt_id!r} twice")
            seen.add(prompt.prompt_id)
        self.prompts = tuple(prompts)
        self._seed = seed

    def __len__(self) -> int:
        return len(self.prompts)

    def batch(self, step: int, size: int) -> list[Prompt]:
        """The `size` prompts of step `step` (from 0), all different. Depends on seed, step and size alone."""
        count = len(self.prompts)
        if not 1 <= size <= count:
            raise ValueError(f"size must be at least 1 and at most the {count} prompts there are, got {size}")
        if step < 0:
            raise ValueError(f"step must be 0 or more, got {step}")
        epoch, start = divmod(step * size, count)
        order = self._order(epoch, size)
        chosen = order[start : start + size]
        if len(chosen) < size:
            chosen = np.concatenate([chosen, self._order(epoch + 1, size)[: size - len(chosen)]])
        return [self.prompts[int(index)] for index in chosen]

    def _order(self, epoch: int, size: int) -> NDArray[np.int64]:
        """Positions of `epoch` [n]. Only its first `size` entries depend on the epoch before.

        With two batches or more in an epoch those entries never reach the epoch's end, so the epoch
        before can be taken as drawn; with less the chain starts where an epoch last began a batch.
        """
        count = len(self.prompts)
        first = epoch - epoch % (size // gcd(count, size))
        if count >= 2 * size:
            first = max(first, epoch - 1)
        order = self._drawn(first)
        for number in range(first + 1, epoch + 1):
            order = self._without_repeats(self._drawn(number), order, number, size)
        return order

    def _drawn(self, epoch: int) -> NDArray[np.int64]:
        return generator("order", self._seed, epoch).permutation(len(self.prompts))

    def _without_repeats(
        self, order: NDArray[np.int64], before: NDArray[np.int64], epoch: int, size: int
    ) -> NDArray[np.int64]:
        tail = epoch * len(self.prompts) % size
        if tail == 0:
            return order
        # Of the first `size` entries at most `tail` repeat, so enough others stand before them.
        head = order[:size]
        repeats = np.isin(head, before[-tail:])
        return np.concatenate([head[~repeats], head[repeats], order[size:]])
