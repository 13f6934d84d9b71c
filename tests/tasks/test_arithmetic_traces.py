from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinkrl.data.reasoning_gym import ReasoningGymPrompts
from thinkrl.data.source import DataError
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.rollouts.spans import read_response
from thinkrl.tasks.arithmetic import ChainSumTraces, Step, parse_sum, running_steps

TERMS = st.lists(st.tuples(st.sampled_from("+-"), st.integers(-999, 999)), min_size=1, max_size=7)


@dataclass(frozen=True)
class Given:
    rows: tuple[Prompt, ...]

    def prompts(self) -> Sequence[Prompt]:
        return self.rows


def asked(question: str, reference: str, **metadata: str) -> Given:
    return Given((Prompt("p", (Message("user", question),), reference, metadata=metadata),))


def response(source: Given, **fields: str) -> str:
    return ChainSumTraces(source, **fields).traces()[0].response


def test_running_partial_results() -> None:
    assert response(asked("Work out: 12 + 35 - 50 =", "-3")) == (
        "<think>12 + 35 = 47\n47 - 50 = -3</think><answer>-3</answer>"
    )


def test_negative_terms() -> None:
    assert parse_sum("-4 - -7 + 3") == [("+", -4), ("-", -7), ("+", 3)]
    assert running_steps(parse_sum("-4 - -7")) == [Step(-4, "-", -7, 3)]


def test_a_single_term_is_its_own_working() -> None:
    assert response(asked("x: 7 =", "7")) == "<think>7</think><answer>7</answer>"


@given(TERMS)
def test_parsing_inverts_writing_and_steps_reach_pythons_result(terms: list[tuple[str, int]]) -> None:
    terms = [("+", terms[0][1]), *terms[1:]]
    expression = str(terms[0][1]) + "".join(f" {operator} {term}" for operator, term in terms[1:])
    assert parse_sum(expression) == terms
    steps = running_steps(terms)
    for step in steps:
        assert eval(f"{step.left} {step.operator} ({step.right})") == step.result
    assert (steps[-1].result if steps else terms[0][1]) == eval(expression)


@pytest.mark.parametrize("expression", ["", "x", "1 + ", "1 2", "1 * 2", "1 + 2.5", "1 + (2)", "1 ++ +2 -", "1 + 2 ="])
def test_anything_else_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match="expression must be a sum"):
        parse_sum(expression)


def test_every_reasoning_gym_sum_gives_its_reference() -> None:
    source = ReasoningGymPrompts("chain_sum", {"allow_negation": True, "min_terms": 1}, size=200, seed=11)
    for trace in ChainSumTraces(source).traces():
        parts = read_response(trace.response)
        assert parts.well_formed
        assert parts.answer is not None
        assert trace.response[slice(*parts.answer)] == trace.prompt.reference


def test_the_bare_question_is_enough() -> None:
    source = ReasoningGymPrompts("chain_sum", size=20, seed=1)
    bare = Given(tuple(Prompt(p.prompt_id, p.messages, p.reference) for p in source.prompts()))
    assert [t.response for t in ChainSumTraces(bare).traces()] == [t.response for t in ChainSumTraces(source).traces()]


def test_the_format_is_configurable() -> None:
    made = response(
        asked("x: 1 + 2 + 3 =", "6"),
        step="{left}{operator}{right}={result};",
        separator=" ",
        response="<think>\n{steps}\n</think>\nSo \\boxed{{answer}}",
    )
    assert made == "<think>\n1+2=3; 3+3=6;\n</think>\nSo \\boxed{6}"


def test_a_wrong_reference_or_another_task_stops() -> None:
    with pytest.raises(DataError, match="prompt p: the sum gives 3, the reference is 4"):
        response(asked("x: 1 + 2 =", "4"))
    with pytest.raises(DataError, match="prompt p: expression must be a sum"):
        response(asked("Spell cat backward", "tac"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"step": "{left} = {result}"}, r"step must contain {operator}"), ({"response": "{steps}"}, "{answer}")],
)
def test_bad_formats_are_refused(fields: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ChainSumTraces(Given(()), **fields)
