"""Companions: what is read must be supplied, and what they remember must survive."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from thinkrl.companions.opened import Companions, check_supplied
from thinkrl.learning.learner import LearnerState
from thinkrl.rewards.signals import Reading
from thinkrl.rollouts.signals import ENTROPIES, Signal

VALUES = Signal("values", "what is still to be earned at each token", "token")
JUDGED = Signal("judged", "how good the thinking is, 0 to 1")


@dataclass
class Counting:
    """Counts the batches it has learned from, in a tensor and in a number."""

    signal: Signal = VALUES
    batches: int = 0
    saved: list[Path] = field(default_factory=list)

    def supplies(self) -> tuple[Signal, ...]:
        return (self.signal,)

    def check(self) -> None:
        return

    def open(self, start: Any) -> "Counting":
        return Counting(self.signal)

    def signals(self, rollouts: Any) -> Mapping[str, Any]:
        return {self.signal.name: np.full(len(rollouts), float(self.batches))}

    def learn(self, rollouts: Any, rewards: Any, advantages: Any) -> Mapping[str, float]:
        self.batches += 1
        return {"batches": float(self.batches)}

    def state(self) -> LearnerState:
        return LearnerState({"batches": self.batches}, {"count": torch.tensor([self.batches])})

    def load_state(self, state: LearnerState) -> None:
        assert state.values["batches"] == state.tensors["count"].item()
        self.batches = int(str(state.values["batches"]))

    def save(self, folder: Path) -> None:
        self.saved.append(folder)


def readings(*signals: Signal) -> list[Reading]:
    return [Reading(signal, ("thinking",)) for signal in signals]


def test_a_signal_nobody_supplies_is_refused_with_its_reader_and_meaning() -> None:
    with pytest.raises(ValueError, match=r"'judged', read by thinking: how good the thinking is.*got values"):
        check_supplied(readings(JUDGED), {"critic": Counting()})


def test_the_samplers_own_signals_need_no_companion() -> None:
    check_supplied(readings(ENTROPIES), {})


def test_two_suppliers_of_one_signal_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'values' from 'second' and 'first'"):
        check_supplied([], {"first": Counting(), "second": Counting()})
    with pytest.raises(ValueError, match="the sampler"):
        check_supplied([], {"first": Counting(ENTROPIES)})


def test_a_signal_in_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must have the shape 'number'.*got 'token' from the companion 'critic'"):
        check_supplied(readings(Signal("values", "one number")), {"critic": Counting()})


def test_state_goes_to_the_companion_it_came_from_beside_other_tensors() -> None:
    one, two = Counting(), Counting(JUDGED)
    companions = Companions({"one": one, "two": two})
    companions.learn([], None, None)  # type: ignore[arg-type]
    two.learn([], None, None)
    state = companions.state()
    tensors = {**state.tensors, "weight/embedding": torch.zeros(1)}

    fresh = Companions({"one": Counting(), "two": Counting(JUDGED)})
    fresh.load_state(LearnerState(state.values, tensors))

    assert {name: vars(companion)["batches"] for name, companion in fresh.opened.items()} == {"one": 1, "two": 2}
    assert not any(name.startswith("weight/") for name in state.tensors)


def test_signals_of_all_and_metrics_under_their_names(tmp_path: Path) -> None:
    one, two = Counting(), Counting(JUDGED)
    companions = Companions({"one": one, "two": two})
    assert set(companions.signals([])) == {"values", "judged"}  # type: ignore[arg-type]
    assert companions.learn([], None, None) == {"one/batches": 1.0, "two/batches": 1.0}  # type: ignore[arg-type]
    companions.save(tmp_path)
    assert (one.saved, two.saved) == ([tmp_path / "one"], [tmp_path / "two"])


def test_without_companions_nothing_is_supplied_and_nothing_kept() -> None:
    nothing = Companions({})
    assert nothing.signals([]) == {}  # type: ignore[arg-type]
    assert nothing.learn([], None, None) == {}  # type: ignore[arg-type]
    assert nothing.state() == LearnerState({}, {})
