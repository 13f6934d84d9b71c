"""What happens when a term raises: the run stops with names, or the response becomes ungradable."""

import copy
import math
import traceback
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from thinkrl.config.component import UserError
from thinkrl.grading.verdict import Verdict
from thinkrl.rewards.term import RewardContext, RewardTerm, Scores
from thinkrl.rollouts.ragged import Ragged
from thinkrl.rollouts.store import Rollouts


class RewardError(UserError):
    """A term raised. The message names the term, the response and the line; the cause is chained."""


def score_with_faults(
    name: str, term: RewardTerm, on_error: Literal["raise", "ungradable"], rollouts: Rollouts, context: RewardContext
) -> Scores:
    """The term's scores [n], with `on_error` applied where it raises.

    A term that raises is tried on single responses, over a copy of its state, to find which of them
    it cannot score; the others are then scored together.
    """
    before = copy.deepcopy(dict(context.state))
    try:
        return _checked(name, term.score(rollouts, context), rollouts)
    except Exception as error:
        faults = _faults_by_row(term, rollouts, context, before)
        if on_error == "raise" or not faults:
            where = (
                f"response {rollouts.response_ids[min(faults)]!r}" if faults else f"{len(rollouts)} responses at once"
            )
            cause = faults[min(faults)] if faults else error
            raise RewardError(
                f"reward term {name!r} failed on {where}: {type(cause).__name__}: {cause}\n  {_place(cause)}\n"
                "  set on_error: ungradable for this term to leave such responses out instead"
            ) from error
    context.state.clear()
    context.state.update(before)
    rest = np.asarray([row for row in range(len(rollouts)) if row not in faults], dtype=np.int64)
    return _without(name, term, rollouts, context, rest, faults)


def _place(error: Exception) -> str:
    """File, line and code where `error` was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    return f'"{frames[-1].filename}", line {frames[-1].lineno}: {frames[-1].line}' if frames else "no place known"


def _faults_by_row(
    term: RewardTerm, rollouts: Rollouts, context: RewardContext, state: Mapping[str, Any]
) -> dict[int, Exception]:
    faults: dict[int, Exception] = {}
    for row in range(len(rollouts)):
        rows = np.asarray([row], dtype=np.int64)
        alone = replace(_of_rows(context, rows), state=copy.deepcopy(dict(state)))
        try:
            term.score(rollouts.select(rows), alone)
        except Exception as error:
            faults[row] = error
    return faults


def _without(
    name: str,
    term: RewardTerm,
    rollouts: Rollouts,
    context: RewardContext,
    rest: NDArray[np.int64],
    faults: Mapping[int, Exception],
) -> Scores:
    n = len(rollouts)
    values = np.full(n, math.nan)
    verdicts: list[Verdict | None] = [Verdict.UNGRADABLE if row in faults else None for row in range(n)]
    notes = [f"{type(faults[row]).__name__}: {faults[row]}" if row in faults else "" for row in range(n)]
    tokens = [np.full(length, math.nan) for length in rollouts.token_ids.lengths]
    has_tokens, judges = False, not len(rest)
    if len(rest):
        part = rollouts.select(rest)
        inner = _of_rows(context, rest)
        scores = _checked(name, term.score(part, inner), part)
        values[rest] = scores.values
        has_tokens, judges = scores.tokens is not None, bool(scores.verdicts)
        for index, row in enumerate(rest):
            verdicts[row] = scores.verdicts[index] if scores.verdicts else None
            notes[row] = scores.notes[index] if scores.notes else ""
            if scores.tokens is not None:
                tokens[row] = scores.tokens[index]
    return Scores(
        values=values,
        verdicts=tuple(verdicts) if judges else (),
        notes=tuple(notes),
        tokens=Ragged.from_rows(tokens, np.float64) if has_tokens else None,
    )


def _of_rows(context: RewardContext, rows: NDArray[np.int64]) -> RewardContext:
    """The context of the named responses."""
    scores = {name: read.take(rows) for name, read in context.scores.items()}
    return replace(context, signals=_take(context.signals, rows), scores=scores)


def _take(signals: Mapping[str, Any], rows: NDArray[np.int64]) -> dict[str, Any]:
    """The signals of the named responses."""
    taken: dict[str, Any] = {}
    for name, signal in signals.items():
        if isinstance(signal, Ragged):
            taken[name] = signal.take(rows)
        elif isinstance(signal, np.ndarray):
            taken[name] = signal[rows]
        else:
            taken[name] = [signal[int(row)] for row in rows]
    return taken


def _checked(name: str, scores: Scores, rollouts: Rollouts) -> Scores:
    if scores.values.shape != (len(rollouts),):
        raise ValueError(f"term {name!r} must give {len(rollouts)} values, got shape {scores.values.shape}")
    if np.any(np.isinf(scores.values)):
        raise ValueError(f"term {name!r} gave an infinite value")
    return replace(scores, values=scores.values.astype(np.float64))
