import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from thinkrl.data.order import order_prompts
from thinkrl.data.repetition import Band, RepeatedPrompts
from thinkrl.data.source import DataError
from thinkrl.rollouts.prompt import Message, Prompt

OREAL = (Band(0.2, 6), Band(0.4, 4), Band(0.6, 4), Band(0.8, 2))


@dataclass(frozen=True)
class Given:
    numbers: tuple[Any, ...]
    key: str = "pass_rate"
    metadata: dict[str, Any] = field(default_factory=dict)

    def prompts(self) -> Sequence[Prompt]:
        return [
            Prompt(f"p{i}", (Message("user", str(i)),), metadata={**self.metadata, self.key: number})
            for i, number in enumerate(self.numbers)
        ]


def counts(numbers: tuple[Any, ...], bands: tuple[Band, ...] = OREAL, key: str = "pass_rate") -> list[int]:
    repeated = RepeatedPrompts(Given(numbers, key), bands, key).prompts()
    return [sum(prompt.messages[0].content == str(i) for prompt in repeated) for i in range(len(numbers))]


def test_a_bound_belongs_to_the_band_above_it() -> None:
    rates = (0.0, 0.1999, 0.2, 0.4, 0.5999, 0.6, 0.7999, 0.8, 1.0)
    assert counts(rates) == [6, 6, 4, 4, 4, 2, 2, 0, 0]
    assert counts((0, 1)) == [6, 0]  # whole numbers are numbers


def test_the_last_band_may_take_all_that_is_left_and_a_band_may_leave_out() -> None:
    assert counts((2, 3, 6), (Band(3, 0), Band(5, 1), Band(None, 3)), key="num_terms") == [0, 1, 3]


def test_every_copy_has_an_id_of_its_own_and_stands_once_in_an_epoch() -> None:
    source = RepeatedPrompts(Given((0.7, 0.3)), OREAL)
    ids = [prompt.prompt_id for prompt in source.prompts()]
    assert ids == ["p0", "p0+2", "p1", "p1+2", "p1+3", "p1+4"]
    order = order_prompts(source, 3, seed=0)
    assert sorted(prompt.prompt_id for step in (0, 1) for prompt in order.batch(step, 3)) == sorted(ids)


def test_a_path_reads_nested_metadata_and_a_key_with_dots_comes_first() -> None:
    source = Given(({"rate": 0.7},), "solved")
    assert len(RepeatedPrompts(source, OREAL, "solved.rate").prompts()) == 2
    assert counts((0.7,), key="solved.rate") == [2]


@pytest.mark.parametrize("value", [None, "0.3", True, math.nan, {}])
def test_a_prompt_without_a_number_is_named(value: Any) -> None:
    with pytest.raises(DataError, match=r"prompt p1: 'pass_rate' must be a number in its metadata, got"):
        counts((0.3, value))
    with pytest.raises(DataError, match=r"there are \['solved'\]"):
        RepeatedPrompts(Given((0.3,), "solved"), OREAL).prompts()


def test_nothing_left_is_an_error() -> None:
    with pytest.raises(DataError, match="none of the 2 prompts has a pass_rate in a band that is repeated"):
        counts((0.9, 1.0))


@dataclass(frozen=True)
class Pairs(Given):
    together = 2


def test_what_cannot_be_repeated_is_refused() -> None:
    for bands in ((), (Band(0.4, 1), Band(0.2, 1)), (Band(0.2, 1), Band(0.2, 2)), (Band(None, 1), Band(0.2, 1))):
        with pytest.raises(ValueError, match="bands must have rising bounds, null last"):
            RepeatedPrompts(Given((0.1,)), bands)
    with pytest.raises(ValueError, match="times 0 in all"):
        RepeatedPrompts(Given((0.1,)), (Band(0.2, 0),))
    with pytest.raises(ValueError, match="belong together"):
        RepeatedPrompts(Pairs((0.1, 0.1)), OREAL)
    with pytest.raises(ValueError, match="times must be 0 or more"):
        Band(0.2, -1)
