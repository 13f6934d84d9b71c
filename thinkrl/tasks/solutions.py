"""Right and wrong solutions of sums in one hand or in two: a benchmark of reward models, and data to train them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from thinkrl.data.comparisons import Comparison
from thinkrl.data.judged import JudgedResponse
from thinkrl.data.source import DataError, PromptSource, fill_template
from thinkrl.rollouts.prompt import Prompt
from thinkrl.rollouts.streams import generator
from thinkrl.tasks.arithmetic import Step, expression_of, parse_sum, running_steps
from thinkrl.tasks.thinking_style import PLAIN, Line, ThinkingStyle

Terms = Sequence[tuple[str, int]]
Solution = tuple[list[Step], int]
"""Steps of the working, and the answer given."""
_TRIES = 50


@dataclass(frozen=True)
class Hand:
    """How a solution is written down."""

    step: str = "{left}{operator}{right}={result}"
    """One step: {left}, {operator}, {right}, {result}."""
    separator: str = "\n"
    """Between the steps."""
    response: str = "<think>{steps}</think><answer>{answer}</answer>"
    """The whole: {steps} and {answer}."""
    style: ThinkingStyle = PLAIN
    """What is written beside the steps."""

    def written(self, solution: Solution, stream: np.random.Generator) -> str:
        """The text of a solution."""
        steps, answer = solution
        told = [fill_template(self.step, vars(step)) for step in steps]
        lines = self.style.written([Line(line, line) for line in told], stream)
        return fill_template(self.response, {"steps": self.separator.join(lines), "answer": answer})


PEOPLE = Hand(step="{left} {operator} {right} = {result}", separator=", ")
"""People's hand here: with spaces, and all on one line."""


@dataclass(frozen=True)
class SumSolutions:
    """A right solution of each sum and `wrong` wrong ones, all with different texts: comparisons for a benchmark, or
    judged responses (the right one is worth 1, the first wrong one 0).

    Wrong solutions err in ways of their own, in turn: a result is wrong and carried on, a digit is misread, a sign is
    turned, a term is left out, or another answer is given than was found. They are written as models write; right ones
    too, but for the share `by_people`. A reward model can tell the latter by their looks and has then learned nothing.
    """

    source: PromptSource
    """Sums, as prompts whose metadata hold the `expression`, or whose question ends with it; of three terms or more."""
    wrong: int = 9
    """Wrong solutions of each."""
    by_people: float = 0.0
    """Share of the sums whose right solution is in people's hand."""
    hand: Hand = Hand()
    """How models write."""
    people: Hand = PEOPLE
    """How people write."""
    seed: int = 0
    """Seed of all that is drawn."""

    def __post_init__(self) -> None:
        if self.wrong < 1:
            raise ValueError(f"wrong must be at least 1, got {self.wrong}")
        if not 0 <= self.by_people <= 1:
            raise ValueError(f"by_people must be from 0 to 1, got {self.by_people}")

    def comparisons(self) -> Sequence[Comparison]:
        """One a sum, the subset being whose hand the right solution is in. Raises DataError for a prompt without a sum,
        or with too short a one."""
        return [self._comparison(prompt) for prompt in self.source.prompts()]

    def judged(self) -> Sequence[JudgedResponse]:
        """A right and a wrong solution of each sum, in turn."""
        prompts = self.source.prompts()
        return [
            JudgedResponse(prompt, text, worth)
            for prompt, one in zip(prompts, map(self._comparison, prompts), strict=True)
            for text, worth in ((one.chosen[0], 1.0), (one.rejected[0], 0.0))
        ]

    def _comparison(self, prompt: Prompt) -> Comparison:
        try:
            terms = parse_sum(expression_of(prompt))
        except ValueError as error:
            raise DataError(f"prompt {prompt.prompt_id}: {error}") from error
        stream = generator("sum solutions", self.seed, prompt.prompt_id)
        steps = running_steps(terms)
        people = bool(stream.random() < self.by_people)
        right = (self.people if people else self.hand).written((steps, steps[-1].result if steps else 0), stream)
        wrong = self._wrong(prompt, terms, stream)
        subset = "people" if people else "models"
        metadata = {"reference": prompt.reference}
        return Comparison(prompt.prompt_id, prompt.messages, (right,), tuple(wrong), subset, metadata)

    def _wrong(self, prompt: Prompt, terms: Terms, stream: np.random.Generator) -> list[str]:
        if len(terms) < 3:
            raise DataError(f"prompt {prompt.prompt_id} has {len(terms)} terms, where solutions need 3 or more")
        answer, found = running_steps(terms)[-1].result, list[str]()
        first = int(stream.integers(len(_ERRORS)))
        for attempt in range(_TRIES * self.wrong):
            solution = _ERRORS[(first + attempt) % len(_ERRORS)](terms, stream)
            text = self.hand.written(solution, stream)
            if solution[1] != answer and text not in found:
                found.append(text)
            if len(found) == self.wrong:
                return found
        raise DataError(f"prompt {prompt.prompt_id} has fewer than {self.wrong} wrong solutions: take longer sums")


def _slipped(terms: Terms, stream: np.random.Generator) -> Solution:
    """One result is off by 1 to 9, and what follows goes on from it."""
    at, steps = int(stream.integers(len(terms) - 1)), list[Step]()
    total = terms[0][1]
    for place, (operator, term) in enumerate(terms[1:]):
        result = total + term if operator == "+" else total - term
        if place == at:
            result += int(stream.integers(1, 10)) * (1 if stream.random() < 0.5 else -1)
        steps.append(Step(total, operator, term, result))
        total = result
    return steps, total


def _misread(terms: Terms, stream: np.random.Generator) -> Solution:
    """A number of the sum is read as another one."""
    at = int(stream.integers(len(terms)))
    return _worked(
        [(sign, (n + int(stream.integers(1, 10))) % 10 if i == at else n) for i, (sign, n) in enumerate(terms)]
    )


def _turned(terms: Terms, stream: np.random.Generator) -> Solution:
    """One + is read as -, or - as +."""
    at = int(stream.integers(1, len(terms)))
    return _worked([("-" if sign == "+" else "+", n) if i == at else (sign, n) for i, (sign, n) in enumerate(terms)])


def _left_out(terms: Terms, stream: np.random.Generator) -> Solution:
    """A term is passed over."""
    at = int(stream.integers(1, len(terms)))
    return _worked([term for i, term in enumerate(terms) if i != at])


def _misquoted(terms: Terms, stream: np.random.Generator) -> Solution:
    """The working is right, and the answer is another."""
    steps, answer = _worked(terms)
    return steps, answer + int(stream.integers(1, 10)) * (1 if stream.random() < 0.5 else -1)


def _worked(terms: Terms) -> Solution:
    steps = running_steps(terms)
    return steps, steps[-1].result


_ERRORS: tuple[Callable[[Terms, np.random.Generator], Solution], ...] = (
    _slipped,
    _misread,
    _slipped,
    _turned,
    _slipped,
    _left_out,
    _slipped,
    _misquoted,
    _slipped,
)
"""Nine writers, most of whom slip."""
