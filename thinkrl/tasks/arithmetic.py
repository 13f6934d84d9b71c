"""Sums of several terms, worked out one step a line: traces for a cold start."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from thinkrl.data.source import DataError, PromptSource, fill_template, question_text
from thinkrl.data.traces import Trace
from thinkrl.rollouts.prompt import Prompt
from thinkrl.rollouts.streams import generator
from thinkrl.tasks.thinking_style import PLAIN, Line, ThinkingStyle

_EXPRESSION = re.compile(r"[-+]?\d+(?:\s*[-+]\s*[-+]?\d+)*")
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TERM = re.compile(r"\s*([-+]?)\s*([-+]?\d+)")


@dataclass(frozen=True)
class Step:
    """One line of the working: left operator right = result, all whole numbers."""

    left: int
    operator: str
    right: int
    result: int


def parse_sum(expression: str) -> list[tuple[str, int]]:
    """The terms of `12 + 35 - -7` as [("+", 12), ("+", 35), ("-", -7)].

    Raises ValueError unless the whole text is a sum of whole numbers.
    """
    text = expression.strip()
    if not _EXPRESSION.fullmatch(text):
        raise ValueError(f"expression must be a sum of whole numbers, got {expression!r}")
    first, rest = re.match(r"[-+]?\d+", text), []
    assert first is not None
    position = first.end()
    while position < len(text):
        term = _TERM.match(text, position)
        assert term is not None
        rest.append((term[1], int(term[2])))
        position = term.end()
    return [("+", int(first[0])), *rest]


def running_steps(terms: Sequence[tuple[str, int]]) -> list[Step]:
    """The partial results from left to right: one step fewer than terms."""
    steps: list[Step] = []
    total = terms[0][1]
    for operator, term in terms[1:]:
        result = total + term if operator == "+" else total - term
        steps.append(Step(total, operator, term, result))
        total = result
    return steps


@dataclass(frozen=True)
class SpelledSum:
    """The same sum in words, digit by digit: `12 - 3` as `one two minus three`."""

    digits: tuple[str, ...] = _DIGITS
    """Words for the digits 0 to 9."""
    plus: str = "plus"
    """Word for +."""
    minus: str = "minus"
    """Word for -, between terms and before one."""

    def __post_init__(self) -> None:
        if len(set(self.digits)) != 10:
            raise ValueError(f"digits must be ten different words, got {list(self.digits)}")

    def rewrite(self, prompt: Prompt) -> str:
        """The prompt's sum in words. Raises DataError when it has none."""
        try:
            terms = parse_sum(expression_of(prompt))
        except ValueError as error:
            raise DataError(f"prompt {prompt.prompt_id}: {error}") from error
        words = [word for operator, term in terms for word in (self._sign(operator), self._spelled(term))]
        return " ".join(words[1:])

    def _sign(self, operator: str) -> str:
        return self.minus if operator == "-" else self.plus

    def _spelled(self, term: int) -> str:
        digits = " ".join(self.digits[int(digit)] for digit in str(abs(term)))
        return f"{self.minus} {digits}" if term < 0 else digits


@dataclass(frozen=True)
class ChainSumTraces:
    """Thinking as running partial results of reasoning-gym's chain_sum, one step a line, then the answer."""

    source: PromptSource
    """Prompts whose metadata hold the `expression`, or whose question ends with it and `=`."""
    step: str = "{left} {operator} {right} = {result}"
    """One line of thinking: {left}, {operator}, {right}, {result}."""
    separator: str = "\n"
    """Between the lines."""
    response: str = "<think>{steps}</think><answer>{answer}</answer>"
    """The whole response: {steps} and {answer}."""
    style: ThinkingStyle = PLAIN
    """What the thinking holds beside the necessary lines."""
    seed: int = 0
    """Seed of what `style` draws."""

    def __post_init__(self) -> None:
        for name, template, needed in (
            ("step", self.step, ("left", "operator", "right", "result")),
            ("response", self.response, ("steps", "answer")),
        ):
            missing = [key for key in needed if f"{{{key}}}" not in template]
            if missing:
                raise ValueError(f"{name} must contain {{{missing[0]}}}, got {template!r}")

    def traces(self) -> Sequence[Trace]:
        """One trace a prompt. Raises DataError when a sum cannot be read or does not give the reference."""
        return [Trace(prompt, self._response(prompt)) for prompt in self.source.prompts()]

    def _response(self, prompt: Prompt) -> str:
        try:
            terms = parse_sum(expression_of(prompt))
        except ValueError as error:
            raise DataError(f"prompt {prompt.prompt_id}: {error}") from error
        steps = running_steps(terms)
        result = steps[-1].result if steps else terms[0][1]
        if str(prompt.reference).strip() != str(result):
            raise DataError(f"prompt {prompt.prompt_id}: the sum gives {result}, the reference is {prompt.reference}")
        stream = generator("chain trace", self.seed, prompt.prompt_id)
        lines = self.style.written([self._line(step, stream) for step in steps], stream) or [str(result)]
        return fill_template(self.response, {"steps": self.separator.join(lines), "answer": result})

    def _line(self, step: Step, stream: np.random.Generator) -> Line:
        """The line of a step, and the same with a result that is off by 1 to 9."""
        off = int(stream.integers(1, 10)) * (1 if stream.random() < 0.5 else -1)
        slipped = Step(step.left, step.operator, step.right, step.result + off)
        return Line(fill_template(self.step, vars(step)), fill_template(self.step, vars(slipped)))


def expression_of(prompt: Prompt) -> str:
    """The sum that a prompt asks for: its metadata say it, or its question ends with it."""
    expression = prompt.metadata.get("expression")
    if isinstance(expression, str):
        return expression
    return question_text(prompt).rpartition(":")[2].rstrip("= ?").strip()
