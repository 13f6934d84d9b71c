"""Numbers to be made into another one, a line of arithmetic at a time: puzzles with several right solutions."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, islice
from typing import Any

from thinkrl.config.component import PromptCount
from thinkrl.data.source import DataError, PromptSource, different_questions, fill_template, question_messages
from thinkrl.data.traces import Trace
from thinkrl.grading.grader import Grader, judged, ungradable, wrong
from thinkrl.grading.verdict import Grade
from thinkrl.rollouts.prompt import Prompt
from thinkrl.rollouts.streams import generator

_DRAWS_PER_PROMPT = 200
_PUZZLE = re.compile(r"\s*(\d{1,9}(?:\s+\d{1,9})*)\s*->\s*(\d{1,9})\s*", re.ASCII)
_LINE = re.compile(
    r"\s*(\d{1,18})\s*([-+*/])\s*(\d{1,18})\s*=\s*(\d{1,18})\s*(?:\(\s*left\s*:\s*([\d\s]{0,200})\))?\s*", re.ASCII
)

State = tuple[int, ...]
"""The numbers that are left, rising."""


@dataclass(frozen=True)
class Puzzle:
    """Numbers, rising, and what they are to be made into; the reference `2 3 4 -> 10` in prompts."""

    numbers: State
    target: int

    @classmethod
    def read(cls, reference: object) -> "Puzzle | None":
        """The puzzle of a prompt's reference, or None where it is none."""
        found = _PUZZLE.fullmatch(reference) if isinstance(reference, str) else None
        return cls(tuple(sorted(map(int, found[1].split()))), int(found[2])) if found else None

    def __str__(self) -> str:
        return f"{' '.join(map(str, self.numbers))} -> {self.target}"


@dataclass(frozen=True)
class Walk:
    """How far a text gets: its lines in one form each, what is left after each of them, and what ended it, in words."""

    lines: tuple[str, ...]
    states: tuple[State, ...]
    fault: str = ""


def moves(state: State, operators: str) -> list[tuple[str, State]]:
    """Every line that can be written, with what it leaves, in a fixed order.

    A line takes two of the numbers and gives a whole number of 0 or more. Sums and products name the smaller number
    first, so that each pair has one line an operator; differences and quotients are written where they are whole.
    """
    found: dict[str, State] = {}
    for i, j in combinations(range(len(state)), 2):
        low, high = state[i], state[j]
        rest = state[:i] + state[i + 1 : j] + state[j + 1 :]
        made = {"+": (low, high, low + high), "*": (low, high, low * high), "-": (high, low, high - low)}
        if low and high % low == 0:
            made["/"] = (high, low, high // low)
        for operator in operators:
            if operator in made:
                left, right, result = made[operator]
                found[f"{left}{operator}{right}={result}"] = tuple(sorted((*rest, result)))
    return list(found.items())


def walk(text: str, puzzle: Puzzle, operators: str) -> Walk:
    """Reads `text` line after line, until one is not true, not allowed, or not about numbers that are there."""
    state, lines, states = puzzle.numbers, list[str](), list[State]()
    for line in text.strip().splitlines():
        found = _LINE.fullmatch(line)
        if found is None:
            return Walk(tuple(lines), tuple(states), f"no line of arithmetic: {line[:40]!r}")
        left, operator, right, result = int(found[1]), found[2], int(found[3]), int(found[4])
        if operator in "+*" and left > right:
            left, right = right, left
        after = dict(moves(state, operators)).get(move := f"{left}{operator}{right}={result}")
        if after is None:
            return Walk(tuple(lines), tuple(states), f"not a step from {' '.join(map(str, state))}: {line[:40]!r}")
        if found[5] is not None and tuple(sorted(map(int, found[5].split()))) != after:
            return Walk(tuple(lines), tuple(states), f"other numbers are left: {line[:40]!r}")
        state = after
        lines.append(move)
        states.append(state)
    return Walk(tuple(lines), tuple(states))


@lru_cache(maxsize=100_000)
def solutions(numbers: State, target: int, operators: str) -> tuple[tuple[str, ...], ...]:
    """Every solution, as its lines, in a fixed order; those that differ in the order of lines count apart."""
    if len(numbers) == 1:
        return ((),) if numbers[0] == target else ()
    return tuple(
        (line, *rest) for line, after in moves(numbers, operators) for rest in solutions(after, target, operators)
    )


@dataclass(frozen=True)
class TargetGrader(Grader):
    """Right where the whole answer is true lines that use every number once and leave the target alone."""

    operators: str = "+-*/"
    """What lines may hold."""

    def __post_init__(self) -> None:
        check_operators(self.operators)

    def grade(self, response_answer: str | None, reference: Any) -> Grade:
        """Judges a solution against a puzzle such as `2 3 4 -> 10`."""
        puzzle = Puzzle.read(reference)
        if puzzle is None:
            return ungradable(f"no puzzle in the reference {str(reference)[:40]!r}")
        found = walk(response_answer or "", puzzle, self.operators)
        left = found.states[-1] if found.states else puzzle.numbers
        if found.fault or len(left) > 1:
            return wrong(found.fault or f"{len(left)} numbers are left")
        return judged(left[0] == puzzle.target, "" if left[0] == puzzle.target else f"{left[0]} is left")

    def solution(self, answer: str, reference: Any) -> str:
        """The one form in which a right answer is written, by which different solutions are told apart."""
        puzzle = Puzzle.read(reference)
        return answer if puzzle is None else "\n".join(walk(answer, puzzle, self.operators).lines)


@dataclass(frozen=True)
class TargetActions:
    """The steps that can be written next, for exploration that does not ask the policy."""

    operators: str = "+-*/"
    """What lines may hold."""
    left: bool = False
    """Whether lines say what is left."""

    def __post_init__(self) -> None:
        check_operators(self.operators)

    def next(self, prompt: Prompt, written: str) -> list[str]:
        """Lines that may follow what is written, in a fixed order; none at the end, or after a fault."""
        puzzle = Puzzle.read(prompt.reference)
        if puzzle is None:
            return []
        found = walk(written, puzzle, self.operators)
        state = found.states[-1] if found.states else puzzle.numbers
        return [] if found.fault else [_shown(line, after, self.left) for line, after in moves(state, self.operators)]

    def steps(self, prompt: Prompt) -> int:
        """Lines of a whole solution."""
        puzzle = Puzzle.read(prompt.reference)
        return len(puzzle.numbers) - 1 if puzzle else 0


@dataclass(frozen=True)
class TargetPrompts:
    """Questions such as `2 3 4 -> 10`, all of which have at least `min_solutions` solutions.

    The numbers are drawn, and the target among what can be made of them, each as likely (or `target`, where it is
    given, among numbers that make it). Question i is a function of (seed, i).
    """

    count: int = 3
    """Numbers of a puzzle."""
    largest: int = 9
    """Largest of them."""
    target: int | None = None
    """What all puzzles ask for, such as 24; null asks for different ones."""
    largest_target: int = 99
    """Largest target, where different ones are asked for."""
    operators: str = "+-*/"
    """What lines may hold."""
    min_solutions: int = 1
    """Fewest solutions of a puzzle."""
    size: PromptCount = 500
    """How many prompts, all with different puzzles."""
    seed: int = 0
    """Seed of the puzzles."""
    system: str = ""
    """System turn; empty for none."""
    template: str = "{numbers} -> {target}"
    """User turn: {numbers}, {target}."""
    disjoint_from: PromptSource | None = None
    """Leaves out every puzzle that this source yields."""

    def __post_init__(self) -> None:
        check_operators(self.operators)
        if not 2 <= self.count <= 5:
            raise ValueError(f"count must be between 2 and 5, got {self.count}")
        for name in ("largest", "largest_target", "min_solutions", "size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.target is not None and self.target < 0:
            raise ValueError(f"target must be 0 or more, got {self.target}")
        for name in ("numbers", "target"):
            if f"{{{name}}}" not in self.template:
                raise ValueError(f"template must contain {{{name}}}, got {self.template!r}")

    def prompts(self) -> Sequence[Prompt]:
        """`size` prompts with ids `target-<seed>-<index>`. Raises DataError when too few puzzles differ."""
        kept = list(islice(different_questions(self._drawn(), self.disjoint_from), self.size))
        if len(kept) < self.size:
            raise DataError(f"{len(kept)} different puzzles were found, but size is {self.size}: allow larger numbers")
        return kept

    def _drawn(self) -> Iterator[Prompt]:
        for index in range(self.size * _DRAWS_PER_PROMPT):
            stream = generator("target numbers", self.seed, index)
            numbers = tuple(sorted(int(number) for number in stream.integers(1, self.largest + 1, self.count)))
            target = self.target
            if target is None:
                targets = [one for one in reachable(numbers, self.operators) if one <= self.largest_target]
                if not targets:
                    continue
                target = targets[int(stream.integers(len(targets)))]
            ways = len(solutions(numbers, target, self.operators))
            if ways < self.min_solutions:
                continue
            puzzle = Puzzle(numbers, target)
            order = " ".join(str(numbers[place]) for place in stream.permutation(self.count))
            yield Prompt(
                prompt_id=f"target-{self.seed}-{index}",
                messages=question_messages(
                    fill_template(self.template, {"numbers": order, "target": target}), self.system
                ),
                reference=str(puzzle),
                source="target_numbers",
                metadata={"question": str(puzzle), "solutions": ways, "difficulty": self.count},
            )


@dataclass(frozen=True)
class TargetTraces:
    """A solution of each puzzle, one line a step: the first, as `solutions` orders them, or a random one."""

    source: PromptSource
    """Puzzles."""
    operators: str = "+-*/"
    """What lines may hold."""
    varied: float = 1.0
    """Share of puzzles that are solved in a random way; the others are solved in the first."""
    left: bool = False
    """Whether lines say what is left."""
    seed: int = 0
    """Seed of what is random."""

    def __post_init__(self) -> None:
        check_operators(self.operators)
        if not 0 <= self.varied <= 1:
            raise ValueError(f"varied must be between 0 and 1, got {self.varied}")

    def traces(self) -> Sequence[Trace]:
        """One trace a prompt. Raises DataError for prompts that are no puzzles, or have no solution."""
        return [Trace(prompt, self._response(prompt)) for prompt in self.source.prompts()]

    def _response(self, prompt: Prompt) -> str:
        puzzle = Puzzle.read(prompt.reference)
        ways = solutions(puzzle.numbers, puzzle.target, self.operators) if puzzle else ()
        if puzzle is None or not ways:
            raise DataError(f"prompt {prompt.prompt_id} is no puzzle with a solution: {str(prompt.reference)[:40]!r}")
        stream = generator("target trace", self.seed, prompt.prompt_id)
        way = ways[int(stream.integers(len(ways)))] if stream.random() < self.varied else ways[0]
        states = walk("\n".join(way), puzzle, self.operators).states
        return "\n".join(_shown(line, after, self.left) for line, after in zip(way, states, strict=True))


@lru_cache(maxsize=100_000)
def reachable(numbers: State, operators: str) -> tuple[int, ...]:
    """Every number that all of `numbers` can be made into, rising."""
    if len(numbers) == 1:
        return numbers
    return tuple(sorted({end for _, after in moves(numbers, operators) for end in reachable(after, operators)}))


def check_operators(operators: str) -> None:
    """Raises ValueError unless each operator is one of + - * /, and there is one."""
    if not operators or set(operators) - set("+-*/"):
        raise ValueError(f"operators must be some of + - * /, got {operators!r}")


def _shown(line: str, after: State, left: bool) -> str:
    return f"{line} (left: {' '.join(map(str, after))})" if left else line
