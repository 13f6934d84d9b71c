"""Signals: who declares what, and a reward that lacks one says so before anything is scored."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from thinkrl.grading.number import NumberGrader
from thinkrl.rewards.correctness import Correctness
from thinkrl.rewards.length import LengthPenalty
from thinkrl.rewards.reward import Reward, WeightedTerm
from thinkrl.rewards.shaping import Clip, LengthBudget
from thinkrl.rewards.signals import SignalError
from thinkrl.rewards.term import RewardContext, RewardTerm, Scores
from thinkrl.rewards.think_format import ThinkAnswerFormat
from thinkrl.rollouts.prompt import Prompt
from thinkrl.rollouts.ragged import Ragged
from thinkrl.rollouts.signals import ENTROPIES, LOGPROBS, Signal
from thinkrl.rollouts.store import FinishReason, Group, Response, Rollouts


@dataclass(frozen=True)
class Reads(RewardTerm):
    """Reads one signal, whose numbers it gives or adds up."""

    declared: Signal

    reads_tokens: ClassVar[bool] = False

    def signals(self) -> tuple[Signal, ...]:
        return (self.declared,)

    def score(self, rollouts: Rollouts, context: RewardContext) -> Scores:
        column: Any = context.signals.get(self.declared.name, np.zeros(len(rollouts)))
        return Scores(column.sums() if isinstance(column, Ragged) else np.asarray(column, dtype=np.float64))


@dataclass(frozen=True)
class Plain:
    """Declares nothing, and need not."""

    def score(self, rollouts: Rollouts, context: RewardContext) -> Scores:
        return Scores(np.ones(len(rollouts)))


@dataclass(frozen=True)
class ShapesBy:
    """A shaping that reads a signal."""

    reads_tokens: ClassVar[bool] = False

    def signals(self) -> tuple[Signal, ...]:
        return (Signal("trust", "weight of the term, 0 to 1"),)

    def shape(self, values: NDArray[np.float64], rollouts: Rollouts, context: RewardContext) -> NDArray[np.float64]:
        return np.asarray(values * context.signals["trust"])


def rollouts(*lengths: int) -> Rollouts:
    made = []
    for row, n in enumerate(lengths):
        ints, floats = np.zeros(n, np.int32), np.zeros(n, np.float32)
        made.append(
            Response(f"r{row}", "g", "", FinishReason.STOP, ints, np.ones(n, np.uint8), floats, floats, ints, ints)
        )
    return Rollouts.from_responses([Group("g", Prompt("g", ()), np.zeros(0, np.int32))], made)


def reward(**terms: Any) -> Reward:
    return Reward({name: WeightedTerm(term) for name, term in terms.items()})


JUDGE = Signal("judge", "score of a judge")


def test_a_reward_knows_who_reads_what() -> None:
    both = Reward(
        {
            "first": WeightedTerm(Reads(JUDGE)),
            "second": WeightedTerm(Reads(JUDGE), shaping=(ShapesBy(),)),
            "third": WeightedTerm(Plain()),
        }
    )
    assert {name: reading.readers for name, reading in both.signals().items()} == {
        "judge": ("first", "second"),
        "trust": ("second",),
    }


def test_two_readers_must_agree_on_the_shape() -> None:
    with pytest.raises(
        ValueError, match="terms must agree on the signal 'judge', got shape 'number' from 'a' and 'json'"
    ):
        reward(a=Reads(JUDGE), b=Reads(Signal("judge", "verdict in words", "json")))


def test_a_missing_signal_is_named_with_reader_response_and_remedy() -> None:
    with pytest.raises(SignalError) as error:
        reward(fair=Reads(JUDGE)).score(rollouts(1, 2), RewardContext())
    for part in ("'r0'", "'judge'", "fair", "score of a judge", '"signals": {"judge": ...}', "RewardContext.signals"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("shape", "column", "says"),
    [
        ("number", np.zeros(3), "3 entries for 2 responses"),
        ("number", Ragged.from_rows([[1], [2]], np.float64), "a number for each response"),
        ("list", [1.0, 2.0], "a list of numbers for each response"),
        ("token", Ragged.from_rows([[1], [2]], np.float64), "differ in numbers of tokens"),
    ],
)
def test_a_signal_of_another_form_is_refused(shape: Any, column: Any, says: str) -> None:
    with pytest.raises(SignalError, match=says):
        reward(x=Reads(Signal("s", "m", shape))).score(rollouts(1, 2), RewardContext(signals={"s": column}))


@pytest.mark.parametrize(
    ("shape", "column"),
    [
        ("number", np.asarray([3.0, 4.0])),
        ("json", [3, 4]),
        ("list", Ragged.from_rows([[1, 2], [4]], np.float64)),
        ("token", Ragged.from_rows([[3], [1, 3]], np.float64)),
    ],
)
def test_a_signal_reaches_the_term_in_the_form_of_its_shape(shape: Any, column: Any) -> None:
    signal = Signal("s", "m", shape)
    result = reward(x=Reads(signal)).score(rollouts(1, 2), RewardContext(signals={"s": column}))
    assert result.totals.tolist() == [3.0, 4.0]


@pytest.mark.parametrize("signal", [LOGPROBS, ENTROPIES])
def test_what_the_sampler_records_is_always_there(signal: Signal) -> None:
    assert reward(x=Reads(signal)).score(rollouts(1), RewardContext()).totals.tolist() == [0.0]


def test_only_what_is_known_to_read_no_tokens_is_scored_without_their_number() -> None:
    texts = Correctness(grader=NumberGrader())
    assert not reward(a=texts, b=ThinkAnswerFormat(), c=Reads(JUDGE)).reads_tokens
    assert reward(a=texts, b=ThinkAnswerFormat(max_thinking_tokens=5)).reads_tokens
    assert reward(a=texts, b=LengthPenalty(1, 2)).reads_tokens
    assert reward(a=Plain()).reads_tokens
    assert not Reward({"a": WeightedTerm(texts, shaping=(Clip(),))}).reads_tokens
    assert Reward({"a": WeightedTerm(texts, shaping=(LengthBudget(),))}).reads_tokens
    assert Reward({"a": WeightedTerm(texts, scope="span")}).reads_tokens
