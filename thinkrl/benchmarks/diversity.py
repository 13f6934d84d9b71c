"""How many different right solutions are found: per prompt that is solved, and by one method alone."""

from collections.abc import Mapping, Sequence
from math import nan
from typing import Any, Protocol, runtime_checkable

from thinkrl.grading.verdict import Verdict

Solutions = Mapping[str, frozenset[str]]
"""The different right solutions found of each prompt, by its id."""


@runtime_checkable
class SolutionForm(Protocol):
    """A grader that can tell different right answers apart."""

    def solution(self, answer: str, reference: Any) -> str:
        """The one form in which a right answer is written."""
        ...


def right_solutions(
    prompt_ids: Sequence[str],
    answers: Sequence[Sequence[str | None]],
    verdicts: Sequence[Sequence[Verdict]],
    references: Sequence[Any],
    form: SolutionForm,
) -> dict[str, frozenset[str]]:
    """The different right solutions of each prompt; none where it was not solved."""
    return {
        name: frozenset(
            form.solution(answer, reference)
            for answer, verdict in zip(said, marks, strict=True)
            if verdict is Verdict.CORRECT and answer is not None
        )
        for name, said, marks, reference in zip(prompt_ids, answers, verdicts, references, strict=True)
    }


def solved_share(found: Solutions) -> float:
    """The share of prompts with a right solution among their samples: accuracy as arXiv 2406.05673 counts it."""
    return sum(bool(one) for one in found.values()) / len(found) if found else nan


def distinct_solutions(found: Solutions) -> float:
    """Mean number of different right solutions of the prompts that were solved; NaN where none was."""
    solved = [len(one) for one in found.values() if one]
    return sum(solved) / len(solved) if solved else nan


def creativity(methods: Mapping[str, Solutions], method: str) -> float:
    """The share of the right solutions of all methods together that `method` alone found; NaN where there are none."""
    pairs = {
        name: {(prompt, one) for prompt, several in found.items() for one in several} for name, found in methods.items()
    }
    every = set().union(*pairs.values())
    others = set().union(*(known for name, known in pairs.items() if name != method))
    return len(pairs[method] - others) / len(every) if every else nan
