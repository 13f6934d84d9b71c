"""Signals that a reward reads: who reads which, and the error when one is not there."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from thinkrl.config.component import UserError
from thinkrl.rewards.term import RewardContext
from thinkrl.rollouts.ragged import Ragged
from thinkrl.rollouts.signals import ROLLOUT_SIGNALS, Signal, signals_of
from thinkrl.rollouts.store import Rollouts

FORMS = {
    "number": "a number",
    "token": "a list of numbers, one for each token",
    "list": "a list of numbers",
    "json": "a JSON value",
}
"""What a signal of each shape is for one response, in words."""


class SignalError(UserError):
    """A signal that is not there or has another form than declared. The message says which, where and what to do."""


@dataclass(frozen=True)
class Reading:
    """A signal and the names of those that read it."""

    signal: Signal
    readers: tuple[str, ...]


def read_signals(parts: Mapping[str, Iterable[object]]) -> dict[str, Reading]:
    """Signals by name, from what reads them: for each reader's name, the components that may declare some.

    Raises ValueError where two readers give one name different shapes.
    """
    found: dict[str, Reading] = {}
    for reader, components in parts.items():
        for signal in (signal for component in components for signal in signals_of(component)):
            known = found.get(signal.name, Reading(signal, ()))
            if known.signal.shape != signal.shape:
                raise ValueError(
                    f"terms must agree on the signal {signal.name!r}, got shape {known.signal.shape!r} from"
                    f" {known.readers[0]!r} and {signal.shape!r} from {reader!r}"
                )
            found[signal.name] = Reading(known.signal, tuple(dict.fromkeys((*known.readers, reader))))
    return found


def merge_readings(*several: Mapping[str, Reading]) -> dict[str, Reading]:
    """Readings of several parts as one, each signal with all its readers.

    Raises ValueError where two parts give one name different shapes.
    """
    found: dict[str, Reading] = {}
    for name, reading in (pair for readings in several for pair in readings.items()):
        known = found.get(name, Reading(reading.signal, ()))
        if known.signal.shape != reading.signal.shape:
            raise ValueError(
                f"{name!r} must be read in one shape, got {known.signal.shape!r} by {' and '.join(known.readers)} and"
                f" {reading.signal.shape!r} by {' and '.join(reading.readers)}"
            )
        found[name] = Reading(known.signal, tuple(dict.fromkeys((*known.readers, *reading.readers))))
    return found


def refuse_missing(readings: Mapping[str, Reading], rollouts: Rollouts, context: RewardContext) -> None:
    """Raises SignalError for the first declared signal that `context` lacks, or that does not fit the rollouts."""
    for name, reading in readings.items():
        if name in ROLLOUT_SIGNALS:
            continue  # the sampler's, which the rollouts always have
        if name not in context.signals:
            raise missing(reading, rollouts.response_ids[0] if len(rollouts) else "")
        column = context.signals[name]
        if len(column) != len(rollouts):
            raise SignalError(f"the signal {name!r} has {len(column)} entries for {len(rollouts)} responses")
        ragged = isinstance(column, Ragged)
        if ragged != (reading.signal.shape in ("token", "list")):
            raise SignalError(f"the signal {name!r} must hold {FORMS[reading.signal.shape]} for each response")
        if reading.signal.shape == "token" and not np.array_equal(column.offsets, rollouts.token_ids.offsets):
            raise SignalError(f"the signal {name!r} and the responses differ in numbers of tokens")


def missing(reading: Reading, response_id: str, where: str = "") -> SignalError:
    """The error for a response without a signal that is read."""
    signal = reading.signal
    place = f"{where}: " if where else ""
    return SignalError(
        f"{place}response {response_id!r} lacks the signal {signal.name!r}, read by {' and '.join(reading.readers)}:"
        f" {signal.meaning}\n"
        f'  in a file for thinkrl score, give the response "signals": {{"{signal.name}": ...}} with'
        f" {FORMS[signal.shape]}, or null where there is none;\n"
        "  in a run, a part of the stage has to supply it (RewardContext.signals)"
    )
