"""Computed questions against Python's own arithmetic and an independent reading of their text."""

import json
import re
from typing import Any

import pytest

from thinkrl.data.source import DataError, question_text
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.tasks import computed
from thinkrl.tasks.computed import FAMILIES, ComputedDemonstrations, ComputedPrompts


def read_question(question: str) -> int:
    """The answer, worked out from the words of the question alone."""
    if question.startswith("sum of "):
        return sum(map(int, question.removeprefix("sum of ").split(",")))
    if question.endswith(" in s"):
        hours, minutes, seconds = (int(n) for n in re.findall(r"\d+", question))
        return (hours * 60 + minutes) * 60 + seconds
    a, b = question.split("*")
    return int(a) * int(b)


def test_references_answer_the_questions_and_expressions_give_them() -> None:
    prompts = ComputedPrompts(size=300).prompts()
    assert [prompt.metadata["family"] for prompt in prompts[:4]] == ["product", "units", "list", "product"]
    for prompt in prompts:
        assert int(prompt.reference) == read_question(prompt.messages[-1].content)
        assert eval(str(prompt.metadata["expression"]), {"sum": sum}) == int(prompt.reference)


def test_lines_are_true_and_the_last_ends_with_the_answer() -> None:
    for prompt in ComputedPrompts(size=300).prompts():
        lines: Any = prompt.metadata["lines"]
        for line in lines:
            left, right = line.split("=")
            assert eval(left) == int(right)
        assert lines[-1].endswith(f"={prompt.reference}")


def test_questions_differ_are_a_function_of_the_seed_and_leave_out_others() -> None:
    held_out = ComputedPrompts(size=300, seed=0)
    few = ComputedPrompts(("product",), size=100, seed=0)
    assert [p.prompt_id for p in held_out.prompts() if p.metadata["family"] == "product"] == [
        p.prompt_id for p in few.prompts()
    ]
    apart = ComputedPrompts(("product",), size=2000, seed=1, disjoint_from=held_out).prompts()
    questions = [*map(question_text, apart), *map(question_text, few.prompts())]
    assert len(set(questions)) == len(questions) == 2100


def test_too_few_questions_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(computed, "_DRAWS_PER_PROMPT", 1)  # of 2000 draws from 7744 products some are the same
    with pytest.raises(DataError, match="too few different questions of product"):
        ComputedPrompts(("product",), size=2000).prompts()


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"families": ()}, "families must be different ones"), ({"families": ("units", "units")}, "families must be"),
     ({"families": ("dates",)}, "of product, units, list, at least one, got"), ({"size": 0}, "size must be at least 1"),
     ({"template": "x"}, "template must contain")],
)  # fmt: skip
def test_prompts_that_make_no_sense(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ComputedPrompts(**fields)


def demonstrated(size: int = 60, **fields: Any) -> list[Any]:
    return list(ComputedDemonstrations(ComputedPrompts(size=size), **fields).demonstrations())


def read_call(turn: str) -> Any:
    return json.loads(turn.partition("<tool_call>")[2].removesuffix("</tool_call>"))


def test_with_the_tool_code_is_run_and_its_answer_given() -> None:
    for one in demonstrated(tool=1.0):
        first, last = one.turns
        called, answered = read_call(first), read_call(last)
        assert called["name"] == "python"
        expression = called["arguments"]["code"].removeprefix("print(").removesuffix(")")
        assert str(eval(expression, {"sum": sum})) == one.prompt.reference
        assert one.expected == (one.prompt.reference,)
        assert answered == {"name": "answer", "arguments": {"answer": f"\\boxed{{{one.prompt.reference}}}"}}
        assert all(turn.startswith("<think>") for turn in one.turns)


def test_on_paper_lines_stand_before_the_answer() -> None:
    for one in demonstrated(tool=0.0):
        (turn,) = one.turns
        thought = turn.removeprefix("<think>").partition("</think>")[0]
        assert thought.split("\n") == one.prompt.metadata["lines"]
        assert read_call(turn)["arguments"]["answer"] == f"\\boxed{{{one.prompt.reference}}}"


def test_slips_cannot_be_read_and_are_made_good() -> None:
    for one in demonstrated(tool=1.0, slip=1.0):
        slip, call, _ = one.turns
        with pytest.raises(json.JSONDecodeError):
            read_call(slip)
        assert len(call) == len(slip) + 1
        assert one.expected == (None, one.prompt.reference)


def test_bare_answers_are_written() -> None:
    for tool in (0.0, 1.0):
        for one in demonstrated(tool=tool, bare=1.0):
            assert one.turns[-1].endswith(f"</think>{one.prompt.reference}")


def test_shares_are_those_asked_for_and_other_draws_stay_the_same() -> None:
    found = demonstrated(size=1200, tool=0.5, slip=0.25, bare=0.2)
    with_tool = [one for one in found if len(one.turns) > 1]
    assert len(with_tool) == pytest.approx(600, abs=70)  # four standard deviations
    assert sum(len(one.turns) == 3 for one in with_tool) == pytest.approx(len(with_tool) / 4, abs=45)
    assert sum("</tool_call>" not in one.turns[-1] for one in found) == pytest.approx(240, abs=56)
    paper = demonstrated(size=1200, tool=0.0, slip=0.25, bare=0.2)
    assert [one.turns for one in found if len(one.turns) == 1] == [
        other.turns for one, other in zip(found, paper, strict=True) if len(one.turns) == 1
    ]


def test_other_prompts_are_refused() -> None:
    class Source:
        def prompts(self) -> list[Prompt]:
            return [Prompt("p", (Message("user", "?"),), "7")]

    with pytest.raises(DataError, match="prompt p is no computed question"):
        ComputedDemonstrations(Source()).demonstrations()
    with pytest.raises(ValueError, match="slip must be between 0 and 1, got 2"):
        ComputedDemonstrations(Source(), slip=2)
    assert set(FAMILIES) == {"product", "units", "list"}
