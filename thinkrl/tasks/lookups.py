"""Multi-step lookups: follow arrows between letters. Every step must be looked up, none can be guessed."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from thinkrl.config.component import PromptCount
from thinkrl.data.source import DataError, PromptSource, different_questions, fill_template, question_messages
from thinkrl.data.traces import Trace
from thinkrl.rollouts.prompt import Prompt
from thinkrl.rollouts.streams import generator
from thinkrl.tasks.thinking_style import PLAIN, Line, ThinkingStyle

LETTERS = "abcdefghijklmnopqrstuvwxyz"
_DRAWS_PER_PROMPT = 100


@dataclass(frozen=True)
class LookupPrompts:
    """Questions such as `a>c b>a c>b d>d; from a, 2 steps:` with the answer `b`.

    Arrows are a random function on the letters, written in random order. Difficulty is the number of
    steps, and of letters. Question i is a function of (seed, i).
    """

    letters: int = 6
    """Letters that arrows run between."""
    min_steps: int = 2
    """Fewest steps asked for."""
    max_steps: int = 4
    """Most steps asked for."""
    size: PromptCount = 500
    """How many prompts, all with different questions."""
    seed: int = 0
    """Seed of the questions."""
    system: str = ""
    """System turn; empty for none."""
    template: str = "{arrows}; from {start}, {steps} steps:"
    """User turn: {arrows}, {start}, {steps}."""
    disjoint_from: PromptSource | None = None
    """Leaves out every question that this source yields."""

    def __post_init__(self) -> None:
        if not 2 <= self.letters <= len(LETTERS):
            raise ValueError(f"letters must be between 2 and {len(LETTERS)}, got {self.letters}")
        if not 1 <= self.min_steps <= self.max_steps:
            raise ValueError(f"min_steps must be from 1 to max_steps {self.max_steps}, got {self.min_steps}")
        if self.size < 1:
            raise ValueError(f"size must be at least 1, got {self.size}")
        for name in ("arrows", "start", "steps"):
            if f"{{{name}}}" not in self.template:
                raise ValueError(f"template must contain {{{name}}}, got {self.template!r}")

    def prompts(self) -> Sequence[Prompt]:
        """`size` prompts with ids `lookup-<seed>-<index>`. Raises DataError when too few questions differ."""
        kept = list(islice(different_questions(self._drawn(), self.disjoint_from), self.size))
        if len(kept) < self.size:
            raise DataError(
                f"{len(kept)} different lookup questions were found, but size is {self.size}: use more letters"
            )
        return kept

    def _drawn(self) -> Iterator[Prompt]:
        for index in range(self.size * _DRAWS_PER_PROMPT):
            stream = generator("lookup", self.seed, index)
            names = LETTERS[: self.letters]
            arrows = {name: names[int(stream.integers(self.letters))] for name in names}
            steps = int(stream.integers(self.min_steps, self.max_steps + 1))
            path = walk(arrows, names[int(stream.integers(self.letters))], steps)
            order = [names[place] for place in stream.permutation(self.letters)]
            fields = {"arrows": " ".join(f"{a}>{arrows[a]}" for a in order), "start": path[0], "steps": steps}
            question = fill_template(self.template, fields)
            yield Prompt(
                prompt_id=f"lookup-{self.seed}-{index}",
                messages=question_messages(question, self.system),
                reference=path[-1],
                source="lookup",
                metadata={"question": question, "path": list(path), "difficulty": steps, "letters": names},
            )


def walk(arrows: Mapping[str, str], start: str, steps: int) -> tuple[str, ...]:
    """`start` and the letters reached from it, steps + 1 in all."""
    path = [start]
    for _ in range(steps):
        path.append(arrows[path[-1]])
    return tuple(path)


@dataclass(frozen=True)
class LookupTraces:
    """Thinking as the arrows followed, one a line, then the answer."""

    source: PromptSource
    """Lookup prompts."""
    line: str = "{here}>{there}"
    """One line of thinking: {here}, {there}."""
    separator: str = "\n"
    """Between the lines."""
    response: str = "<think>{steps}</think><answer>{answer}</answer>"
    """The whole response: {steps} and {answer}."""
    style: ThinkingStyle = PLAIN
    """What the thinking holds beside the necessary lines."""
    seed: int = 0
    """Seed of what `style` draws."""

    def traces(self) -> Sequence[Trace]:
        """One trace a prompt. Raises DataError for prompts that are no lookups."""
        return [Trace(prompt, self._response(prompt)) for prompt in self.source.prompts()]

    def _response(self, prompt: Prompt) -> str:
        path: Any = prompt.metadata.get("path")
        if not isinstance(path, list) or len(path) < 2:
            raise DataError(f"prompt {prompt.prompt_id} is no lookup: its metadata hold no path")
        stream = generator("lookup trace", self.seed, prompt.prompt_id)
        names = str(prompt.metadata["letters"])
        lines = [self._line(a, b, names, stream) for a, b in itertools.pairwise(path)]
        steps = self.separator.join(self.style.written(lines, stream))
        return fill_template(self.response, {"steps": steps, "answer": path[-1]})

    def _line(self, here: str, there: str, names: str, stream: np.random.Generator) -> Line:
        other = names[(names.index(there) + 1 + int(stream.integers(len(names) - 1))) % len(names)]
        right, wrong = (fill_template(self.line, {"here": here, "there": end}) for end in (there, other))
        return Line(right, wrong)
