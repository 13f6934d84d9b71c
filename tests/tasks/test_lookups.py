"""Lookup questions against an independent reading of their text; styles against what they promise."""

import itertools
import re
from collections import Counter

import numpy as np
import pytest

from thinkrl.data.reasoning_gym import ReasoningGymPrompts
from thinkrl.data.source import DataError, question_text
from thinkrl.rollouts.spans import read_response
from thinkrl.tasks.arithmetic import ChainSumTraces
from thinkrl.tasks.lookups import LookupPrompts, LookupTraces, walk
from thinkrl.tasks.thinking_style import Line, ThinkingStyle

SUMS = ReasoningGymPrompts("chain_sum", {"min_terms": 3, "max_terms": 5, "min_digits": 1, "max_digits": 1}, size=30)


def test_the_reference_is_where_the_arrows_of_the_question_lead() -> None:
    for prompt in LookupPrompts(letters=7, min_steps=1, max_steps=6, size=200).prompts():
        question = prompt.messages[-1].content
        arrows = dict(re.findall(r"(\w)>(\w)", question))
        here, steps = re.search(r"from (\w), (\d+) steps", question).groups()  # type: ignore[union-attr]
        for _ in range(int(steps)):
            here = arrows[here]
        assert prompt.reference == here
        assert len(arrows) == 7


def test_questions_are_a_function_of_the_seed_and_held_out_ones_are_left_out() -> None:
    held_out = LookupPrompts(size=100, seed=1)
    assert held_out.prompts() == LookupPrompts(size=100, seed=1).prompts()
    training = LookupPrompts(letters=3, min_steps=2, max_steps=2, size=40, seed=2)
    apart = LookupPrompts(letters=3, min_steps=2, max_steps=2, size=40, seed=3, disjoint_from=training)
    assert not {*map(question_text, training.prompts())} & {*map(question_text, apart.prompts())}


def test_answers_are_spread_over_the_letters() -> None:
    counts = Counter(str(prompt.reference) for prompt in LookupPrompts(letters=4, size=800).prompts())
    assert all(120 < counts[letter] < 280 for letter in "abcd")  # 200 each on average, 6 standard deviations


def test_too_few_questions_are_told() -> None:
    with pytest.raises(DataError, match="use more letters"):
        LookupPrompts(letters=2, min_steps=1, max_steps=1, size=500).prompts()


def test_traces_walk_the_path() -> None:
    for prompt, response in ((t.prompt, t.response) for t in LookupTraces(LookupPrompts(size=20)).traces()):
        parts = read_response(response)
        assert parts.well_formed
        lines = response[slice(*parts.think or (0, 0))].split("\n")
        path = walk(dict(re.findall(r"(\w)>(\w)", question_text(prompt))), lines[0][0], len(lines))
        assert lines == [f"{a}>{b}" for a, b in itertools.pairwise(path)]
        assert response[slice(*parts.answer or (0, 0))] == prompt.reference


@pytest.mark.parametrize("source", [LookupTraces(LookupPrompts(size=30)), ChainSumTraces(SUMS)])
def test_rechecks_repeat_lines_and_slips_are_put_right(source: LookupTraces | ChainSumTraces) -> None:
    from dataclasses import replace

    plain = [trace.response for trace in source.traces()]
    wordy = [t.response for t in replace(source, style=ThinkingStyle(recheck=1.0, most_rechecks=2)).traces()]
    for short, long in zip(plain, wordy, strict=True):
        lines = short[len("<think>") : short.index("</think>")].split("\n")
        expected = "\n".join(f"{line}\nwait, {line}\nwait, {line}" for line in lines)
        assert long == short.replace("\n".join(lines), expected)
    slips = [trace.response for trace in replace(source, style=ThinkingStyle(slip=1.0)).traces()]
    for short, long in zip(plain, slips, strict=True):
        assert short[short.index("</think>") :] == long[long.index("</think>") :]
        wrong, right = (long[len("<think>") : long.index("</think>")].split("\n")[place] for place in (0, 1))
        assert right == f"no, {short[len('<think>') :].splitlines()[0].partition('</think>')[0]}"
        assert wrong != right.removeprefix("no, ")


def test_guesses_are_drawn_digits_before_a_line_and_change_nothing_else() -> None:
    style, stream = ThinkingStyle(guess=0.5, guess_digits=3), np.random.default_rng(0)
    told = [style.written([Line("a", "b")], stream) for _ in range(2000)]
    assert all(lines[-1] == "a" and len(lines) <= 2 for lines in told)
    guesses = [lines[0] for lines in told if len(lines) == 2]
    assert len(guesses) == pytest.approx(1000, abs=100)
    assert all(guess[:3] == "hm " and guess[3:].isdigit() and len(guess) == 6 for guess in guesses)
    digits = "".join(guess[3:] for guess in guesses)
    assert min(digits.count(str(digit)) for digit in range(10)) > 0.07 * len(digits)


def test_rechecks_have_the_promised_mean() -> None:
    # Repetitions of a line are geometric, cut at three: p + p^2 + p^3 on average.
    style, stream = ThinkingStyle(recheck=0.5), np.random.default_rng(0)
    extra = [len(style.written([Line("a", "b")], stream)) - 1 for _ in range(4000)]
    assert np.mean(extra) == pytest.approx(0.5 + 0.25 + 0.125, abs=0.05)


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"recheck": 1.5}, "recheck"), ({"slip": -0.1}, "slip"), ({"most_rechecks": -1}, "most_rechecks"),
     ({"slip_text": "no"}, "slip_text"), ({"guess": 2.0}, "guess"), ({"guess_digits": 0}, "guess_digits"),
     ({"guess_text": "hm"}, "guess_text")],
)  # fmt: skip
def test_styles_that_make_no_sense(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ThinkingStyle(**fields)  # type: ignore[arg-type]
