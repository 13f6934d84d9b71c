"""Lines of thinking that begin with words, and thinking that is left out."""

from dataclasses import dataclass

import pytest

from thinkrl.data.traces import Trace
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.tasks.worded_thinking import WordedThinking


@dataclass(frozen=True)
class Given:
    responses: tuple[str, ...]

    def traces(self) -> list[Trace]:
        return [Trace(Prompt(f"p{n}", (Message("user", "?"),)), text) for n, text in enumerate(self.responses)]


def told(*responses: str, words: tuple[str, ...] = ("a ", "b "), silent: float = 0.0, seed: int = 0) -> list[str]:
    return [trace.response for trace in WordedThinking(Given(responses), words, silent, seed).traces()]


def test_lines_begin_with_words_in_turn_and_the_last_goes_on() -> None:
    found = told("<think>1+1=2\n2+1=3\n3+1=4</think><answer>4</answer>", "<think>5</think><answer>5</answer>")
    assert found[0] == "<think>a 1+1=2\nb 2+1=3\nb 3+1=4</think><answer>4</answer>"
    assert found[1] == "<think>a 5</think><answer>5</answer>"


def test_what_does_not_think_stays_as_it_is() -> None:
    assert told("4", silent=1.0) == ["4"]


def test_thinking_is_left_out_of_so_many_by_a_coin_of_their_own() -> None:
    responses = ("<think>1+1=2</think><answer>2</answer>",) * 1000
    found = told(*responses, silent=0.3)
    silent = [text == "<think></think><answer>2</answer>" for text in found]
    assert abs(sum(silent) - 300) < 4 * (1000 * 0.3 * 0.7) ** 0.5
    assert found == told(*responses, silent=0.3)
    assert found[:10] == told(*responses[:10], silent=0.3)
    assert found != told(*responses, silent=0.3, seed=1)
    assert set(told(*responses, silent=1.0)) == {"<think></think><answer>2</answer>"}


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="words must hold at least one"):
        told("x", words=())
    with pytest.raises(ValueError, match="silent must be between 0 and 1"):
        told("x", silent=1.5)
