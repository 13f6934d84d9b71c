"""The learner of a model with a scalar head: a critic, a token-level reward model, a reward model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thinkrl.algorithms.types import LossOutputs, SumCount, UpdateReport
from thinkrl.learning.columns import Sums
from thinkrl.learning.learner import LearnerState
from thinkrl.learning.packing import Path, Row, rollout_paths
from thinkrl.learning.scorer import Scorer
from thinkrl.learning.training import Training
from thinkrl.models.heads import HEAD
from thinkrl.models.policy import Policy
from thinkrl.parallel.ranks import Ranks
from thinkrl.rollouts.ragged import Ragged
from thinkrl.rollouts.store import Rollouts

At = Literal["before", "token"]
"""Where a token's value is read: `before`, at the position that predicts it, so the value is of the state in which it
is chosen (a critic); `token`, at the token itself, so that it is judged (a reward model)."""
ValueLoss = Callable[[Tensor, NDArray[np.int64]], LossOutputs]
"""Values [m] of whole responses with gradient, and the column in `Rollouts.token_ids` that each stands for: a sum and
a count."""


@dataclass(frozen=True)
class ValueLearner(Training):
    """Steps a model with a scalar head, as policies are stepped."""

    learning_rate: float = 1e-5

    def open(self, model: Policy, total_steps: int) -> "ValueModel":
        """Takes `model` (`models.heads`), which learns where it was made for training.

        total_steps: optimizer steps the schedule is laid over.
        """
        return ValueModel(self, model, total_steps)


class ValueModel:
    """An open learner on one model with a scalar head. `model`: its weights change in place."""

    def __init__(self, config: ValueLearner, model: Policy, total_steps: int) -> None:
        config.prepare(model.module)
        self.model = model
        self._config = config
        self._total_steps = total_steps
        self._scorer = Scorer(
            model.module,
            chunk_tokens=1,
            branches=config.share_prompts,
            checkpointing=config.gradient_checkpointing,
            compiled=config.compiled,
        )
        self._optimizer = config.optimizer_of(model) if model.masters is not None else None
        self._ranks = Ranks()
        self._version = 0

    @property
    def version(self) -> int:
        """Optimizer steps done."""
        return self._version

    def values(self, rollouts: Rollouts, at: At = "before") -> Ragged:
        """The value of each sampled token, float32, aligned with `Rollouts.token_ids`; NaN at given tokens."""
        paths = value_paths(rollouts, np.arange(len(rollouts)), at)
        return rollouts.token_ids.with_values(self.read(paths, len(rollouts.token_ids.values)))

    def read(self, paths: Sequence[Path], columns: int) -> NDArray[np.float32]:
        """The values that `paths` ask for, by column, [columns]; NaN where no path asks."""
        found = np.full(columns, np.nan, dtype=np.float32)
        with torch.no_grad():
            for rows in self._batches(paths):
                found[_columns(rows)] = self._values(rows).float().cpu().numpy()
        return found

    def update(self, rollouts: Rollouts, rows: NDArray[np.int64], loss: ValueLoss, at: At = "before") -> UpdateReport:
        """One optimizer step on the responses `rows` that have a sampled token."""
        return self.learn(value_paths(rollouts, rows, at), loss)

    def learn(self, paths: Sequence[Path], loss: ValueLoss, *, joint: bool = False) -> UpdateReport:
        """One optimizer step: the gradient of (sum of all losses) / (sum of all counts), however the paths are packed.

        Without a path the weights stay and the loss is 0; the version rises. A gradient that is not finite raises
        FloatingPointError and leaves the weights as they were.

        joint: the loss of a response reads the values of others (pairs, ranks), so it is given all of them at once, in
            the order of columns; where they take several passes, each is made once more for its gradient.
        """
        if self._optimizer is None:
            raise ValueError(f"{self.model.name} must be loaded for training to be learned on")
        batches, sums = self._batches(paths), Sums(0.0)
        if joint and batches:
            together, loss = self._jointly(batches, loss)
            sums.add(together)
        self.model.module.train(self._config.gradient_checkpointing)  # transformers checkpoints layers in training only
        try:
            report = self._config.step(
                self._optimizer, batches, lambda rows: loss(self._values(rows), _columns(rows)), sums,
                version=self._version, total_steps=self._total_steps, ranks=self._ranks,
            )  # fmt: skip
        finally:
            self.model.module.train(False)
        self._version = report.version
        return report

    def state(self) -> LearnerState:
        """Weights, moments and counters, copies; a frozen model's are empty."""
        if self._optimizer is None:
            return LearnerState({}, {})
        inner = self._optimizer.state()
        return LearnerState({"version": self._version, **inner.values}, inner.tensors)

    def load_state(self, state: LearnerState) -> None:
        """Restores `state` bit for bit; refuses another model's."""
        if self._optimizer is not None:
            self._optimizer.load_state(int(str(state.values["optimizer_steps"])), state.tensors)
            self._version = int(str(state.values["version"]))

    def _jointly(self, batches: Sequence[Sequence[Row]], loss: ValueLoss) -> tuple[LossOutputs, ValueLoss]:
        """The loss L of all values, and for each micro-batch one with its gradient, sum_t v_t dL/dv_t, and no count."""
        with torch.no_grad():
            values = torch.cat([self._values(rows) for rows in batches])
        columns = np.concatenate([_columns(rows) for rows in batches])
        order = np.argsort(columns)
        leaves = values[torch.from_numpy(order).to(values.device)].requires_grad_()
        outputs = loss(leaves, columns[order])
        outputs.loss.total.backward()  # type: ignore[no-untyped-call]
        assert leaves.grad is not None
        slopes = leaves.grad

        def part(values: Tensor, own: NDArray[np.int64]) -> LossOutputs:
            places = torch.from_numpy(np.searchsorted(columns[order], own)).to(values.device)
            total = (values * slopes[places]).sum()
            return LossOutputs(SumCount(total - total.detach(), 0.0))  # the sum of losses is known already

        return outputs, part

    def _values(self, rows: Sequence[Row]) -> Tensor:
        """One value for each column of `rows`, float32 [m]."""
        head = self.model.module.get_parameter(HEAD)
        # Products with one row are cheap in float32, and a value keeps its digits.
        found = (self._scorer.hidden(rows).float() @ head.float().t()).squeeze(1)
        firsts = np.cumsum([0, *(len(row.sources) for row in rows)])
        places = np.concatenate([first + row.predictions for first, row in zip(firsts, rows, strict=False)])
        return found.index_select(0, torch.from_numpy(places).to(found.device))

    def _batches(self, paths: Sequence[Path]) -> list[list[Row]]:
        return self._config.batches(self._scorer, paths, self._ranks)


def value_paths(rollouts: Rollouts, rows: NDArray[np.int64], at: At) -> list[Path]:
    """A path for each response among `rows` that has a sampled token, which asks for the values of those tokens."""
    paths = rollout_paths(rollouts, rows)
    return paths if at == "before" else [_at_tokens(path) for path in paths]


def _at_tokens(path: Path) -> Path:
    """The same columns, each read one token later: at the token itself."""
    last = path.targets[-1:]
    return replace(
        path,
        token_ids=np.concatenate([path.token_ids, last]),
        key=np.concatenate([path.key, last.astype(np.int64)]),
        sources=path.sources + 1,
    )


def last_tokens(paths: Sequence[Path]) -> list[Path]:
    """The paths, of which each asks for the value of its last token alone: a whole response's, for reward models."""
    return [
        replace(path, sources=path.sources[-1:], targets=path.targets[-1:], columns=path.columns[-1:]) for path in paths
    ]


def _columns(rows: Sequence[Row]) -> NDArray[np.int64]:
    return np.concatenate([row.columns for row in rows])
