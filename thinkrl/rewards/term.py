"""The contract of a reward term: rollouts in, scores with verdicts out."""

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from thinkrl.grading.verdict import Verdict
from thinkrl.rollouts.ragged import Ragged
from thinkrl.rollouts.store import Rollouts


@dataclass(frozen=True, eq=False)
class Scores:
    """What one term says of n responses.

    values: float64 [n], NaN where there is no number (ungradable, timed out, does not apply).
    verdicts: [n], None where the term does not judge.
    notes: [n], why, in words; empty where there is nothing to say.
    tokens: optional per-token values aligned with `Rollouts.token_ids`, for process rewards.
    metrics: what else is worth a column of the metrics log, such as a target in force.
    """

    values: NDArray[np.float64]
    verdicts: tuple[Verdict | None, ...] = ()
    notes: tuple[str, ...] = ()
    tokens: Ragged | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.values)
        for name in ("verdicts", "notes"):
            if getattr(self, name) and len(getattr(self, name)) != n:
                raise ValueError(f"{name} has {len(getattr(self, name))} entries for {n} responses")

    def take(self, rows: NDArray[np.int64]) -> "Scores":
        """The scores of the named responses, in the order given."""
        return Scores(
            values=self.values[rows],
            verdicts=tuple(self.verdicts[int(row)] for row in rows) if self.verdicts else (),
            notes=tuple(self.notes[int(row)] for row in rows) if self.notes else (),
            tokens=self.tokens.take(rows) if self.tokens is not None else None,
            metrics=self.metrics,
        )


@dataclass(frozen=True)
class RewardContext:
    """What a term may know beside the rollouts.

    step, total_steps: position in the stage, from 0 to total_steps - 1, for schedules.
    state: the term's own memory (JSON values), kept in the run's checkpoints.
    signals: values that models supply, by name, one entry a response in row order, in the form that
        `rollouts.signals.Signal` gives for its shape. A stage supplies them in a run, the file in `thinkrl score`.
    scores: what the terms gave that this one reads, by name.
    """

    step: int = 0
    total_steps: int = 1
    state: MutableMapping[str, Any] = field(default_factory=dict)
    signals: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, Scores] = field(default_factory=dict)


class RewardTerm(Protocol):
    """A frozen dataclass with one public method. It never changes itself: memory goes to `context.state`.

    Beside `score` it may declare what it reads, as shaping and advantage estimators may: `signals()` gives the
    signals (`rollouts.signals.Signal`; none, when it is not there), and `reads_tokens` is False where no token
    is counted or located, so that texts can be scored without a tokenizer (True, when it is not there).
    `reads_terms()` names terms whose scores it finds in `context.scores`; they are scored before it.

    A term that follows what the policy can do beyond the batch has `observe(rollouts, context) -> None`: a stage
    with a monitor calls it with responses that are not learned from, and it keeps in `context.state` what it saw.
    """

    def score(self, rollouts: Rollouts, context: RewardContext) -> Scores:
        """Scores every response, in row order. Raises to stop the run."""
        ...


def terms_read(part: object) -> tuple[str, ...]:
    """Names of the terms whose scores a term or a shaping reads."""
    declare = getattr(part, "reads_terms", None)
    return tuple(declare()) if callable(declare) else ()
