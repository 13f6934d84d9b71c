"""Terms that read other terms, and terms that watch a monitor's responses."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from thinkrl.grading.verdict import Verdict
from thinkrl.rewards.in_format import InFormat
from thinkrl.rewards.reward import Reward, WeightedTerm
from thinkrl.rewards.shaping import Truncated
from thinkrl.rewards.term import RewardContext, Scores
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.rollouts.store import FinishReason, Group, Response, Rollouts


def batch(texts: list[str]) -> Rollouts:
    """One token a character, all of one group."""
    made = [
        Response(
            f"r{row}", "g", text, FinishReason.STOP, np.zeros(len(text), np.int32), np.ones(len(text), np.uint8),
            np.zeros(len(text), np.float32), np.zeros(len(text), np.float32), np.zeros(len(text), np.int32),
            np.arange(1, len(text) + 1, dtype=np.int32),
        )
        for row, text in enumerate(texts)
    ]  # fmt: skip
    return Rollouts.from_responses([Group("g", Prompt("g", (Message("user", "?"),)), np.zeros(1, np.int32))], made)


@dataclass(frozen=True)
class Digit:
    """The digit that the text is; counts its calls."""

    def score(self, rollouts: Rollouts, context: RewardContext) -> Scores:
        context.state["calls"] = context.state.get("calls", 0) + 1
        values = np.asarray([float(text) for text in rollouts.texts])
        return Scores(values, (Verdict.CORRECT,) * len(values), tuple(rollouts.texts))


@dataclass(frozen=True)
class Twice:
    """Twice another term's value; raises for 9, and remembers the greatest that it was shown."""

    of: str
    observes = True

    def reads_terms(self) -> tuple[str, ...]:
        return (self.of,)

    def observe(self, rollouts: Rollouts, context: RewardContext) -> None:
        context.state["seen"] = float(context.scores[self.of].values.max())

    def score(self, rollouts: Rollouts, context: RewardContext) -> Scores:
        assert set(context.scores) == {self.of}
        if any(value == 9.0 for value in context.scores[self.of].values):
            raise ValueError("nine")
        return Scores(2.0 * context.scores[self.of].values, metrics={"seen": context.state.get("seen", 0.0)})


def test_a_term_reads_others_in_whatever_order_they_are_written() -> None:
    terms: dict[str, Any] = {"c": WeightedTerm(Twice("b")), "b": WeightedTerm(Twice("a")), "a": WeightedTerm(Digit())}
    found = Reward(terms).score(batch(["1", "3"]), RewardContext())
    assert found.totals.tolist() == [1 + 2 + 4, 3 + 6 + 12]
    assert list(found.terms) == ["c", "b", "a"]
    assert found.metrics()["reward/b/seen"] == 0.0


def test_reading_nothing_or_in_a_circle_is_refused() -> None:
    with pytest.raises(ValueError, match="the term 'b' names the term 'x', which does not exist"):
        Reward({"a": WeightedTerm(Digit()), "b": WeightedTerm(Twice("x"))})
    with pytest.raises(ValueError, match="must not read one another in a circle"):
        Reward({"a": WeightedTerm(Twice("b")), "b": WeightedTerm(Twice("a"))})


def test_a_fault_in_one_response_leaves_the_others_their_scores() -> None:
    terms: dict[str, Any] = {
        "a": WeightedTerm(Digit()),
        "b": WeightedTerm(Twice("a"), on_error="ungradable", missing="zero"),
    }
    found = Reward(terms).score(batch(["1", "9", "3"]), RewardContext())
    assert found.totals.tolist() == [3.0, 9.0, 9.0]
    assert found.terms["b"].notes[1] == "ValueError: nine"


def test_observing_changes_the_memory_of_those_who_watch_alone() -> None:
    reward = Reward({"a": WeightedTerm(Digit()), "b": WeightedTerm(Twice("a"))})
    state: dict[str, Any] = {}
    assert reward.observes
    reward.observe(batch(["4", "7"]), RewardContext(state=state))
    assert state == {"b": {"seen": 7.0}}
    assert reward.score(batch(["1"]), RewardContext(state=state)).metrics()["reward/b/seen"] == 7.0
    assert state["a"] == {"calls": 1}
    assert not Reward({"a": WeightedTerm(Digit())}).observes


@dataclass(frozen=True)
class OneLetter:
    """1 for a text of one letter."""

    def score(self, rollouts: Rollouts, context: RewardContext) -> Scores:
        notes = tuple("" if len(text) == 1 else "long" for text in rollouts.texts)
        return Scores(np.asarray([float(not note) for note in notes]), notes=notes)


def test_out_of_format_takes_the_place_of_the_outcome_and_leaves_its_verdict() -> None:
    found = InFormat(Digit(), OneLetter(), malformed=-3.0).score(batch(["1", "12"]), RewardContext())
    assert found.values.tolist() == [1.0, -3.0]
    assert found.verdicts == (Verdict.CORRECT, Verdict.CORRECT)
    assert found.notes == ("1", "12; long")


def test_truncated_values() -> None:
    shaped = Truncated(2, beyond=-1.0).shape(
        np.asarray([5.0, 5.0, np.nan]), batch(["ab", "abc", "abcd"]), RewardContext()
    )
    assert shaped.tolist()[:2] == [5.0, -1.0]
    assert np.isnan(shaped[2])
