"""Questions that a line of Python answers and few heads do: products, units, lists. A world for tools and transfer."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from thinkrl.config.component import PromptCount
from thinkrl.data.demonstrations import Demonstration
from thinkrl.data.source import DataError, PromptSource, fill_template, question_messages, question_text
from thinkrl.rollouts.prompt import Prompt
from thinkrl.rollouts.streams import generator

_DRAWS_PER_PROMPT = 50


@dataclass(frozen=True)
class Drawn:
    """One question. expression: Python for its answer. lines: how it is worked out on paper; the last ends with it."""

    question: str
    expression: str
    lines: tuple[str, ...]
    answer: int


def _product(stream: np.random.Generator) -> Drawn:
    a, b = (int(n) for n in stream.integers(12, 100, 2))
    tens, ones = b // 10 * 10, b % 10
    lines = (f"{a}*{tens}={a * tens}", f"{a}*{ones}={a * ones}", f"{a * tens}+{a * ones}={a * b}")
    return Drawn(f"{a}*{b}", f"{a}*{b}", lines, a * b)


def _units(stream: np.random.Generator) -> Drawn:
    hours, minutes, seconds = int(stream.integers(2, 24)), int(stream.integers(2, 60)), int(stream.integers(2, 60))
    total = hours * 3600 + minutes * 60 + seconds
    lines = (
        f"{hours}*3600={hours * 3600}",
        f"{minutes}*60={minutes * 60}",
        f"{hours * 3600}+{minutes * 60}={hours * 3600 + minutes * 60}",
        f"{hours * 3600 + minutes * 60}+{seconds}={total}",
    )
    return Drawn(f"{hours}h {minutes}m {seconds}s in s", f"{hours}*3600+{minutes}*60+{seconds}", lines, total)


def _list(stream: np.random.Generator) -> Drawn:
    terms = [int(n) for n in stream.integers(1000, 10_000, 3)]
    lines, total = [], terms[0]
    for term in terms[1:]:
        lines.append(f"{total}+{term}={total + term}")
        total += term
    shown = ",".join(map(str, terms))
    return Drawn(f"sum of {shown}", f"sum([{shown}])", tuple(lines), total)


FAMILIES: Mapping[str, Callable[[np.random.Generator], Drawn]] = {"product": _product, "units": _units, "list": _list}
"""product: two numbers of two digits. units: hours, minutes and seconds in seconds. list: the sum of three numbers of
four digits."""


@dataclass(frozen=True)
class ComputedPrompts:
    """Questions of some families in turn, such as `37*48`, `3h 25m 10s in s` and `sum of 1200,3451,2009`.

    They look different and are worked out differently, but one line of Python answers each. Question i of a family is
    a function of (seed, i).
    """

    families: tuple[str, ...] = tuple(FAMILIES)
    """Which, in turn: product, units, list."""
    size: PromptCount = 500
    """How many prompts, all with different questions."""
    seed: int = 0
    """Seed of the questions."""
    system: str = ""
    """System turn; empty for none."""
    template: str = "{question}"
    """User turn: {question}."""
    disjoint_from: PromptSource | None = None
    """Leaves out every question that this source yields."""

    def __post_init__(self) -> None:
        if not self.families or len(set(self.families)) != len(self.families) or not {*self.families} <= {*FAMILIES}:
            raise ValueError(
                f"families must be different ones of {', '.join(FAMILIES)}, at least one, got {list(self.families)}"
            )
        if self.size < 1:
            raise ValueError(f"size must be at least 1, got {self.size}")
        if "{question}" not in self.template:
            raise ValueError(f"template must contain {{question}}, got {self.template!r}")

    def prompts(self) -> Sequence[Prompt]:
        """`size` prompts with ids `<family>-<seed>-<index>`. Raises DataError when too few questions differ."""
        taken = {question_text(prompt) for prompt in self.disjoint_from.prompts()} if self.disjoint_from else set()
        drawn = [self._drawn(family, taken) for family in self.families]
        return [next(drawn[place % len(drawn)]) for place in range(self.size)]

    def _drawn(self, family: str, taken: set[str]) -> Iterator[Prompt]:
        for index in range(self.size * _DRAWS_PER_PROMPT):
            one = FAMILIES[family](generator("computed", family, self.seed, index))
            if one.question in taken:
                continue
            taken.add(one.question)
            yield Prompt(
                prompt_id=f"{family}-{self.seed}-{index}",
                messages=question_messages(fill_template(self.template, {"question": one.question}), self.system),
                reference=str(one.answer),
                source="computed",
                metadata={
                    "question": one.question,
                    "family": family,
                    "expression": one.expression,
                    "lines": list(one.lines),
                },
            )
        raise DataError(f"too few different questions of {family} were found for a size of {self.size}: lower it")


@dataclass(frozen=True)
class ComputedDemonstrations:
    """Computed questions answered with a tool in some cases, and on paper in the others, always by a call that answers.

    With the tool: a call of `python`, then the answer. With probability `slip` a first call lacks a quotation mark, so
    that it cannot be read, and is made again. Without it: lines of working, and the answer at once. With probability
    `bare` the answer is written instead of called. All of it is imitated; what pays is then learned from rewards.
    """

    source: PromptSource
    """Computed questions."""
    tool: float = 0.5
    """Probability that a question is answered with the tool."""
    slip: float = 0.0
    """Probability that the first call of the tool cannot be read."""
    bare: float = 0.0
    """Probability that no call gives the answer."""
    seed: int = 0
    """Seed of what is drawn."""

    def __post_init__(self) -> None:
        for name in ("tool", "slip", "bare"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")

    def demonstrations(self) -> Sequence[Demonstration]:
        """One a prompt. Raises DataError for prompts that are no computed questions."""
        return [self._demonstration(prompt) for prompt in self.source.prompts()]

    def _demonstration(self, prompt: Prompt) -> Demonstration:
        expression, lines = prompt.metadata.get("expression"), prompt.metadata.get("lines")
        if not isinstance(expression, str) or not isinstance(lines, list):
            raise DataError(f"prompt {prompt.prompt_id} is no computed question: its metadata hold no expression")
        tool, slip, bare = generator("demonstration", self.seed, prompt.prompt_id).random(3)
        answer = str(prompt.reference)
        told = answer if bare < self.bare else _call("answer", answer=f"\\boxed{{{answer}}}")
        if tool >= self.tool:
            return Demonstration(prompt, (f"<think>{_joined(lines)}</think>{told}",))
        call = _call("python", code=f"print({expression})")
        turns: list[str] = [f"<think>run</think>{call}"]
        expected: list[str | None] = [answer]
        if slip < self.slip:
            unclosed = call.replace(')"', ")")
            turns.insert(0, f"<think>run</think>{unclosed}")
            expected.insert(0, None)
        return Demonstration(prompt, (*turns, f"<think>done</think>{told}"), tuple(expected))


def _call(name: str, **arguments: str) -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def _joined(lines: Sequence[Any]) -> str:
    return "\n".join(map(str, lines))
