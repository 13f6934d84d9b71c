"""Pairs of short answers to be judged: sums, of which one result is right, and wishes, of which one grants more."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from thinkrl.config.component import PromptCount
from thinkrl.data.comparisons import Comparison, ComparisonSource
from thinkrl.data.source import DataError, PromptSource
from thinkrl.data.traces import Trace
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.rollouts.streams import generator
from thinkrl.tasks.arithmetic import parse_sum, running_steps

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_WISH = re.compile(r"have ([a-z]+)")
_DRAWS_PER_COMPARISON = 50


@dataclass(frozen=True)
class SmallComparisons:
    """Sums (`4+3-2`, answers `5` and `6`) and wishes (`have ac`, answers `xac` and `cxy`), one after the other.

    A wish is granted letter by letter; the better answer has more of them. Comparison i is a function of (seed, i).
    """

    size: PromptCount = 500
    """How many, half of them sums."""
    seed: int = 0
    """Seed of the comparisons."""
    min_terms: int = 2
    """Fewest terms of a sum, each of one digit."""
    max_terms: int = 3
    """Most terms."""
    wishes: int = 2
    """Letters of a wish."""
    letters: int = 3
    """Letters of an answer to a wish."""
    disjoint_from: ComparisonSource | None = None
    """Leaves out the questions that this source asks."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be at least 1, got {self.size}")
        if not 2 <= self.min_terms <= self.max_terms:
            raise ValueError(f"min_terms must be from 2 to max_terms {self.max_terms}, got {self.min_terms}")
        if not 1 <= self.wishes <= self.letters:
            raise ValueError(f"wishes must be from 1 to letters {self.letters}, got {self.wishes}")

    def comparisons(self) -> Sequence[Comparison]:
        """`size` comparisons with ids `judging-<seed>-<index>`. Raises DataError when too few are left."""
        taken = {one.question for one in self.disjoint_from.comparisons()} if self.disjoint_from else set()
        found: list[Comparison] = []
        for one in self._drawn():
            wanted = ("reasoning", "chat")[len(found) % 2]
            if one.subset == wanted and one.question not in taken:
                found.append(one)
            if len(found) == self.size:
                return found
        raise DataError(f"{len(found)} comparisons were found, but size is {self.size}: use longer sums and wishes")

    def _drawn(self) -> Iterator[Comparison]:
        for index in range(self.size * _DRAWS_PER_COMPARISON):
            stream = generator("judging", self.seed, index)
            for family, draw in (("reasoning", self._sum), ("chat", self._wish)):
                question, better, worse = draw(stream)
                name = f"judging-{self.seed}-{index}-{family}"
                yield Comparison(name, (Message("user", question),), (better,), (worse,), family)

    def _sum(self, stream: np.random.Generator) -> tuple[str, str, str]:
        count = int(stream.integers(self.min_terms, self.max_terms + 1))
        digits = [int(digit) for digit in stream.integers(0, 10, count)]
        signs = ["+-"[int(sign)] for sign in stream.integers(0, 2, count - 1)]
        text = str(digits[0]) + "".join(f"{sign}{digit}" for sign, digit in zip(signs, digits[1:], strict=True))
        result = running_steps(parse_sum(text))[-1].result
        off = int(stream.integers(1, 4)) * (1 if stream.random() < 0.5 else -1)
        return text, str(result), str(result + off)

    def _wish(self, stream: np.random.Generator) -> tuple[str, str, str]:
        wanted = [_LETTERS[int(place)] for place in stream.permutation(26)[: self.wishes]]
        more = int(stream.integers(1, self.wishes + 1))
        less = int(stream.integers(0, more))
        better, worse = (self._answer(wanted, count, stream) for count in (more, less))
        return f"have {''.join(wanted)}", better, worse

    def _answer(self, wanted: Sequence[str], count: int, stream: np.random.Generator) -> str:
        """Letters of which `count` are wanted, in a drawn order."""
        has = [wanted[int(place)] for place in stream.permutation(len(wanted))[:count]]
        others = [letter for letter in _LETTERS if letter not in wanted]
        has += [others[int(place)] for place in stream.permutation(len(others))[: self.letters - count]]
        return "".join(has[int(place)] for place in stream.permutation(len(has)))


@dataclass(frozen=True)
class JudgingTraces:
    """Judgements of small comparisons as RM-R1 (arXiv 2505.02387) has them written: the type, then an own solution or
    the criteria, then what either answer has of it, then the verdict.

    `evaluate` leaves out type and solution, and compares at once; `verdict` says the verdict alone.
    """

    source: PromptSource
    """Judging prompts of small comparisons."""
    style: Literal["structured", "evaluate", "verdict"] = "structured"
    """What comes before the verdict."""

    def traces(self) -> Sequence[Trace]:
        """One trace a prompt. Raises DataError for prompts that are no small comparisons."""
        return [Trace(prompt, self._response(prompt)) for prompt in self.source.prompts()]

    def _response(self, prompt: Prompt) -> str:
        asked, shown = prompt.metadata.get("asked"), prompt.metadata.get("shown")
        if not isinstance(asked, str) or not isinstance(shown, list) or prompt.reference not in ("A", "B"):
            raise DataError(f"prompt {prompt.prompt_id} is no judging prompt of two responses")
        verdict = f"<answer>[[{prompt.reference}]]</answer>"
        if self.style == "verdict":
            return verdict
        own, evaluation = (
            _reasoning(asked, shown) if prompt.metadata.get("subset") == "reasoning" else _chat(asked, shown)
        )
        return f"{own if self.style == 'structured' else ''}<eval>{evaluation}</eval>{verdict}"


def _reasoning(asked: str, shown: Sequence[Any]) -> tuple[str, str]:
    steps = running_steps(parse_sum(asked))
    lines = "\n".join(f"{step.left}{step.operator}{step.right}={step.result}" for step in steps)
    right = str(steps[-1].result)
    evaluation = "\n".join(f"{side} {text} {'yes' if text == right else 'no'}" for side, text in _sides(shown))
    return f"<type>Reasoning</type><solution>{lines}</solution>", evaluation


def _chat(asked: str, shown: Sequence[Any]) -> tuple[str, str]:
    match = _WISH.fullmatch(asked)
    if match is None:
        raise DataError(f"no wish in {asked!r}")
    evaluation = "\n".join(
        f"{side} {' '.join(letter + ('+' if letter in text else '-') for letter in match[1])}"
        f" {sum(letter in text for letter in match[1])}"
        for side, text in _sides(shown)
    )
    return f"<type>Chat</type><rubric>{' '.join(match[1])}</rubric>", evaluation


def _sides(shown: Sequence[Any]) -> list[tuple[str, str]]:
    return [("A", str(shown[0])), ("B", str(shown[1]))]
