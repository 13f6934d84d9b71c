"""Worked problems in four degrees of detail, and the loss on their answers alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from thinkrl.data.answer_traces import AnswerTraces
from thinkrl.data.source import DataError
from thinkrl.data.traces import Trace
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.tasks.worked_problems import FACTS, Detail, WorkedProblems

WORKING = "Her cousin ate 3 + 5 = 8 slices.\nTogether they ate 3 + 8 = 11.\n#### 11"


@dataclass(frozen=True)
class Problems:
    """Two problems with the same working."""

    working: str | None = WORKING

    def prompts(self) -> Sequence[Prompt]:
        metadata = {} if self.working is None else {"answer_cot": self.working}
        return [Prompt(f"p{n}", (Message("user", "How many?"),), 11, metadata=metadata) for n in range(2)]


def responses(detail: Detail, seed: int = 0) -> list[str]:
    return [trace.response for trace in WorkedProblems(Problems(), detail, seed=seed).traces()]


def test_answers_alone_and_short_solutions() -> None:
    assert responses("none") == ["11", "11"]
    assert responses("short")[0] == (
        "Her cousin ate 3 + 5 = 8 slices.\nTogether they ate 3 + 8 = 11.\nThe final answer is 11."
    )


def test_details_say_each_step_and_its_calculations() -> None:
    text = responses("detailed")[0]
    lines = text.splitlines()
    assert "1. **Step 1:** Her cousin ate 3 + 5 = 8 slices." in lines
    assert "   - We calculate 3 + 5, and this gives 8." in lines
    assert "   - We calculate 3 + 8, and this gives 11." in lines
    assert text.endswith("Therefore: The final answer is 11.")
    assert "####" not in text


def test_facts_are_as_long_as_details_and_have_nothing_to_do_with_them() -> None:
    facts, others = responses("facts"), responses("facts", seed=1)
    longest = max(len(fact.split()) for fact in FACTS)
    for told in facts:
        assert 0 <= len(told.split()) - len(responses("detailed")[0].split()) < longest
        assert told.endswith("The final answer is 11.")
        assert any(told.startswith(fact) for fact in FACTS)
    assert facts[0] != facts[1]
    assert facts != others
    assert facts == responses("facts")


def test_problems_without_working_and_unknown_details_are_refused() -> None:
    for working in (None, "", "#### 11"):
        with pytest.raises(DataError, match="prompt p0: its metadata hold no working in 'answer_cot'"):
            WorkedProblems(Problems(working)).traces()
    with pytest.raises(ValueError, match="detail must be one of none, short, detailed, facts, got long"):
        WorkedProblems(Problems(), "long")  # type: ignore[arg-type]


@dataclass(frozen=True)
class One:
    """One trace."""

    response: str
    reference: object = 20

    def traces(self) -> Sequence[Trace]:
        return [Trace(Prompt("p", (Message("user", "?"),), self.reference), self.response)]


@pytest.mark.parametrize(
    ("response", "learned"),
    [("20", "20"), ("2 x 10 = 20. The final answer is 20.", " 20."), ("(20)", "20)"), ("20 and 20", " 20")],
)
def test_the_answer_is_the_last_place_of_the_reference(response: str, learned: str) -> None:
    (trace,) = AnswerTraces(One(response)).traces()
    start = trace.given[0][1] if trace.given else 0
    assert response[start:] == learned
    assert trace.given == (((0, start),) if start else ())


@pytest.mark.parametrize(("response", "reference"), [("nineteen", 20), ("20", None), ("20", "")])
def test_a_response_without_its_answer_is_refused(response: str, reference: object) -> None:
    with pytest.raises(DataError, match="prompt p: its response does not say the answer"):
        AnswerTraces(One(response, reference)).traces()
