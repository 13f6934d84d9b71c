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

    Raises DataError when there are fewer prompts than a step takes, or when a step would part prompts that belong
    together.
    """
    prompts, together = source.prompts(), int(getattr(source, "together", 1))
    if per_step % together:
        raise DataError(
            f"prompts_per_step must be a multiple of {together}, as so many prompts of the source belong together,"
            f" got {per_step}"
        )
    if per_step > len(prompts):
        raise DataError(
            f"prompts_per_step must be at most the {len(prompts)} prompts that the source gives, got {per_step}:"
            " lower it, or give the source more prompts"
        )
    return PromptOrder(prompts, seed, together)


class PromptOrder:
    """Visits `prompts` in epochs, each a permutation of its own; every prompt stands once in each epoch.

    Batches run on across the end of an epoch. Where one holds the last prompts of an epoch and the
    first of the next, those that would repeat move back within the next epoch, so a batch never
    holds a prompt twice. Of every `together` prompts in a row all are in the same batch, in their order.
    """

    def __init__(self, prompts: Sequence[Prompt], seed: int, together: int = 1) -> None:
        """Raises ValueError for an empty sequence, an id that stands twice, or a number that `together` does not
        divide."""
        if not prompts:
            raise ValueError("prompts must not be empty")
        if len(prompts) % together:
            raise ValueError(f"prompts must be a multiple of together ({together}), got {len(prompts)}")
        seen: set[str] = set()
        for prompt in prompts:
            if prompt.prompt_id in seen:
                raise ValueError(f"prompt ids must be unique, got {prompt.prompt_id!r} twice")
            seen.add(prompt.prompt_id)
        self.prompts = tuple(prompts)
        self._seed = seed
        self._together = together
        self._count = len(prompts) // together

    def __len__(self) -> int:
        return len(self.prompts)

    def batch(self, step: int, size: int) -> list[Prompt]:
        """The `size` prompts of step `step` (from 0), all different. Depends on seed, step and size alone."""
        if not 1 <= size <= len(self):
            raise ValueError(f"size must be at least 1 and at most the {len(self)} prompts there are, got {size}")
        if size % self._together:
            raise ValueError(f"size must be a multiple of together ({self._together}), got {size}")
        if step < 0:
            raise ValueError(f"step must be 0 or more, got {step}")
        size, count = size // self._together, self._count
        epoch, start = divmod(step * size, count)
        order = self._order(epoch, size)
        chosen = order[start : start + size]
        if len(chosen) < size:
            chosen = np.concatenate([chosen, self._order(epoch + 1, size)[: size - len(chosen)]])
        rows = chosen[:, None] * self._together + np.arange(self._together)
        return [self.prompts[int(index)] for index in rows.ravel()]

    def _order(self, epoch: int, size: int) -> NDArray[np.int64]:
        """Positions of `epoch` [n], each of prompts that belong together. Only its first `size` entries depend on
        the epoch before.

        With two batches or more in an epoch those entries never reach the epoch's end, so the epoch
        before can be taken as drawn; with less the chain starts where an epoch last began a batch.
        """
        count = self._count
        first = epoch - epoch % (size // gcd(count, size))
        if count >= 2 * size:
            first = max(first, epoch - 1)
        order = self._drawn(first)
        for number in range(first + 1, epoch + 1):
            order = self._without_repeats(self._drawn(number), order, number, size)
        return order

    def _drawn(self, epoch: int) -> NDArray[np.int64]:
        return generator("order", self._seed, epoch).permutation(self._count)

    def _without_repeats(
        self, order: NDArray[np.int64], before: NDArray[np.int64], epoch: int, size: int
    ) -> NDArray[np.int64]:
        tail = epoch * self._count % size
        if tail == 0:
            return order
        # Of the first `size` entries at most `tail` repeat, so enough others stand before them.
        head = order[:size]
        repeats = np.isin(head, before[-tail:])
        return np.concatenate([head[~repeats], head[repeats], order[size:]])
