from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinkrl.data.pairs import PairedPrompts
from thinkrl.data.reasoning_gym import ReasoningGymPrompts
from thinkrl.data.source import DataError
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.tasks.arithmetic import ChainSumTraces, SpelledSum

WORDS = {"zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9}


def asked(expression: str) -> Prompt:
    return Prompt("p", (Message("user", "?"),), metadata={"expression": expression})


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("4 + 3 - 2", "four plus three minus two"),
        ("12 - 30", "one two minus three zero"),
        ("-4 - -7", "minus four minus minus seven"),
        ("5", "five"),
    ],
)
def test_a_sum_in_words(expression: str, words: str) -> None:
    assert SpelledSum().rewrite(asked(expression)) == words


@given(st.lists(st.tuples(st.sampled_from("+-"), st.integers(0, 9)), min_size=1, max_size=7))
def test_words_say_the_same_sum(terms: list[tuple[str, int]]) -> None:
    expression = "".join(f" {operator} {term}" for operator, term in terms)[3:] if terms else ""
    words = SpelledSum().rewrite(asked(expression)).split()
    total, sign = 0, 1
    for word in words:
        sign = {"plus": 1, "minus": -1}.get(word, sign)
        total += sign * WORDS.get(word, 0)
    assert total == eval(expression)


def test_the_words_can_be_chosen() -> None:
    assert SpelledSum(digits=tuple("0123456789"), minus="less").rewrite(asked("12 - 3")) == "1 2 less 3"
    with pytest.raises(ValueError, match="digits must be ten different words"):
        SpelledSum(digits=("one", "two"))


def test_what_is_no_sum_is_refused() -> None:
    with pytest.raises(DataError, match="prompt p: expression must be a sum"):
        SpelledSum().rewrite(asked("two"))


def test_traces_of_both_forms_have_the_same_working() -> None:
    source = ReasoningGymPrompts("chain_sum", {"min_digits": 1, "max_digits": 1}, size=6, template="{expression}")
    traces = ChainSumTraces(PairedPrompts(source, SpelledSum())).traces()
    assert len(traces) == 12
    for digits, words in zip(traces[::2], traces[1::2], strict=True):
        assert digits.response == words.response
        assert digits.prompt.messages != words.prompt.messages
        assert digits.prompt == replace(
            words.prompt,
            prompt_id=digits.prompt.prompt_id,
            messages=digits.prompt.messages,
            metadata=digits.prompt.metadata,
        )
