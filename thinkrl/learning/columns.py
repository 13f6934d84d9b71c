"""What a learner's step reads of rollouts, and the sums and counts it makes of them."""

import numpy as np
import torch
from numpy.typing import NDArray

from thinkrl.algorithms.types import Advantages, LossInputs, LossOutputs, Objective
from thinkrl.learning.scorer import Scored
from thinkrl.parallel.ranks import Ranks
from thinkrl.rollouts.ragged import Ragged
from thinkrl.rollouts.store import Rollouts


class Columns:
    """The columns of rollouts and advantages as float32 tensors, read at predicted tokens only."""

    def __init__(
        self, rollouts: Rollouts, advantages: Advantages, old_logprobs: Ragged | None, device: torch.device
    ) -> None:
        offsets = rollouts.token_ids.offsets
        for name, column in (("advantages", advantages.values), ("old_logprobs", old_logprobs)):
            if column is not None and not np.array_equal(column.offsets, offsets):
                raise ValueError(f"{name} and token_ids differ in row lengths")
        self._row_ids = rollouts.token_ids.row_ids
        self._response_count = len(rollouts)
        self._sampled = rollouts.sampled
        carries = rollouts.sampled & advantages.kept[self._row_ids]
        for name, column in (("advantages", advantages.values), ("weights", advantages.weights),
                             ("old_logprobs", old_logprobs)):  # fmt: skip
            if column is not None and not np.all(np.isfinite(column.values[carries])):
                raise ValueError(f"{name} must be finite at every sampled token of a kept response")
        self._device = device
        self._advantages = advantages.values.values
        self._weights = None if advantages.weights is None else advantages.weights.values
        self._old = None if old_logprobs is None else old_logprobs.values
        self._sampler = rollouts.logprobs.values

    def loss_inputs(self, scored: Scored, reference_logprobs: torch.Tensor | None) -> LossInputs:
        """What the objective reads of the predictions in `scored`, whose responses are whole and end to end."""
        responses, response_ids = np.unique(self._row_ids[scored.columns], return_inverse=True)
        logprobs = scored.logprobs
        return LossInputs(
            logprobs=logprobs,
            old_logprobs=logprobs.detach() if self._old is None else self._at(self._old, scored),
            advantages=self._at(self._advantages, scored),
            weights=torch.ones_like(logprobs) if self._weights is None else self._at(self._weights, scored),
            response_ids=torch.from_numpy(response_ids.astype(np.int64)).to(self._device),
            response_count=len(responses),
            reference_logprobs=reference_logprobs,
            entropies=scored.entropies,
            sampler_logprobs=self._at(self._sampler, scored),
        )

    def with_advantage(self) -> NDArray[np.bool_]:
        """Responses with an advantage other than 0 at some sampled token, [n]."""
        found = np.zeros(self._response_count, dtype=np.bool_)
        found[self._row_ids[self._sampled & (np.nan_to_num(self._advantages) != 0)]] = True
        return found

    def count(self, responses: NDArray[np.int64], objective: Objective) -> float:
        """What the named responses add to the count of `objective`, which no log-probability changes."""
        tokens = np.flatnonzero(self._sampled & np.isin(self._row_ids, responses))
        if not len(tokens):
            return 0.0
        present, response_ids = np.unique(self._row_ids[tokens], return_inverse=True)
        nothing = torch.zeros(len(tokens))
        ids = torch.from_numpy(response_ids.astype(np.int64))
        inputs = LossInputs(
            logprobs=nothing,
            old_logprobs=nothing,
            advantages=nothing,
            weights=nothing + 1,
            response_ids=ids,
            response_count=len(present),
            reference_logprobs=nothing,
            entropies=nothing,
            sampler_logprobs=nothing,
        )
        return objective(inputs).loss.count

    def mismatch(self, scored: Scored) -> torch.Tensor:
        """|sampler's - learner's| log-probability, [m]; of tokens that were drawn from the specification, and so have
        one (others were replayed, or written by something that explores)."""
        found = (scored.logprobs.detach() - self._at(self._sampler, scored)).abs()
        return found[~torch.from_numpy(np.isnan(self._sampler[scored.columns])).to(found.device)]

    def _at(self, column: NDArray[np.floating], scored: Scored) -> torch.Tensor:
        return torch.from_numpy(column[scored.columns].astype(np.float32)).to(self._device)


class Sums:
    """Sums and counts of one optimizer step."""

    def __init__(self, count: float) -> None:
        self.total = 0.0
        self.count = count
        self._metrics: dict[str, tuple[float, float]] = {}

    def add(self, outputs: LossOutputs) -> None:
        """Adds a micro-batch."""
        self.total += float(outputs.loss.total.detach())
        self.count += outputs.loss.count
        for name, part in outputs.metrics.items():
            total, count = self._metrics.get(name, (0.0, 0.0))
            self._metrics[name] = (total + float(part.total), count + part.count)

    def add_ranks(self, ranks: Ranks) -> None:
        """Adds what the other ranks have; every rank then holds the same numbers."""
        if ranks.size == 1:
            return
        parts = ranks.gather([self.total, self.count, self._metrics], "the sums of a step")
        self.total, self.count, self._metrics = 0.0, 0.0, {}
        for total, count, metrics in parts:
            self.total += total
            self.count += count
            for name, (part, number) in metrics.items():
                before = self._metrics.get(name, (0.0, 0.0))
                self._metrics[name] = (before[0] + part, before[1] + number)

    @property
    def loss(self) -> float:
        """The loss of the step; 0 without a valid token."""
        return self.total / self.count if self.count else 0.0

    def metrics(self) -> dict[str, float]:
        """Each metric's own sum over its own count."""
        return {name: total / count for name, (total, count) in self._metrics.items() if count}
