"""Puzzles with several solutions: against a search of another kind, and what a verifier must refuse."""

import itertools

import pytest

from thinkrl.data.source import DataError
from thinkrl.grading.verdict import Verdict
from thinkrl.rollouts.prompt import Prompt
from thinkrl.tasks.target_numbers import (
    Puzzle,
    TargetActions,
    TargetGrader,
    TargetPrompts,
    TargetTraces,
    moves,
    reachable,
    solutions,
    walk,
)

CASES = {
    "a solution": ("4*6=24\n24-2=22\n22+2=24", "2 2 4 6 -> 24", Verdict.CORRECT),
    "operands the other way": ("6*4=24\n24-2=22\n2+22=24", "2 2 4 6 -> 24", Verdict.CORRECT),
    "what is left, as the paper writes it": (
        "6 - 2 = 4 (left: 4 4)\n4*4=16 (left: 16)",
        "2 4 6 -> 16",
        Verdict.CORRECT,
    ),
    "what is left is said wrongly": ("6 - 2 = 4 (left: 4 5)\n4*4=16", "2 4 6 -> 16", Verdict.WRONG),
    "a line that is not true": ("4*6=25\n25-1=24", "1 4 6 -> 24", Verdict.WRONG),
    "a number that is not there": ("4*7=28\n28-1=27", "1 4 6 -> 27", Verdict.WRONG),
    "a number twice": ("4+4=8\n8*6=48", "1 4 6 -> 48", Verdict.WRONG),
    "numbers are left": ("4*6=24", "1 4 6 -> 24", Verdict.WRONG),
    "another result": ("4*6=24\n24+1=25", "1 4 6 -> 24", Verdict.WRONG),
    "a quotient that is not whole": ("6/4=1\n1+1=2", "1 4 6 -> 2", Verdict.WRONG),
    "a division by 0": ("4-4=0\n6/0=0", "4 4 6 -> 0", Verdict.WRONG),
    "below 0": ("4-6=-2\n1--2=3", "1 4 6 -> 3", Verdict.WRONG),
    "words": ("the answer is 24", "1 4 6 -> 24", Verdict.WRONG),
    "a line too many": ("4*6=24\n24/1=24\n24=24", "1 4 6 -> 24", Verdict.WRONG),
    "an empty line within": ("4*6=24\n\n24/1=24", "1 4 6 -> 24", Verdict.WRONG),
    "nothing": ("", "1 4 6 -> 24", Verdict.WRONG),
    "digits of another script": ("٤*6=24\n24/1=24", "1 4 6 -> 24", Verdict.WRONG),
    "a number that is the target": ("", "7 -> 7", Verdict.CORRECT),
    "a reference that is none": ("4*6=24", "seven", Verdict.UNGRADABLE),
    "no reference": ("4*6=24", None, Verdict.UNGRADABLE),
    "a long number": ("9" * 5000 + "+1=2", "1 4 6 -> 24", Verdict.WRONG),
}


@pytest.mark.parametrize("name", CASES)
def test_verdicts(name: str) -> None:
    answer, reference, verdict = CASES[name]
    grade = TargetGrader().grade(answer, reference)
    assert grade.verdict is verdict
    assert (grade.verdict is Verdict.CORRECT) == (grade.note == "")


def test_operators_that_are_not_allowed_are_no_steps() -> None:
    assert TargetGrader(operators="+-").grade("4*6=24\n24-1=23", "1 4 6 -> 23").verdict is Verdict.WRONG


def trees(numbers: tuple[int, ...]) -> set[int]:
    """What numbers can be made into, by splitting them into two parts: no order of lines is needed."""
    if len(numbers) == 1:
        return set(numbers)
    made: set[int] = set()
    for size in range(1, len(numbers) // 2 + 1):
        for places in itertools.combinations(range(len(numbers)), size):
            part = tuple(numbers[i] for i in places)
            rest = tuple(number for i, number in enumerate(numbers) if i not in places)
            for a, b in itertools.product(trees(part), trees(rest)):
                low, high = min(a, b), max(a, b)
                made |= {a + b, a * b, high - low}
                if low and high % low == 0:
                    made.add(high // low)
    return made


@pytest.mark.parametrize("numbers", [(1, 2), (3, 3, 8), (1, 4, 6), (1, 5, 5, 5), (4, 4, 10, 10)])
def test_what_can_be_made_is_what_trees_of_expressions_give(numbers: tuple[int, ...]) -> None:
    assert set(reachable(numbers, "+-*/")) == trees(numbers)


def test_solutions_are_right_different_and_all_there_are() -> None:
    found = solutions((1, 2, 3, 4), 24, "+-*/")
    assert len(set(found)) == len(found)
    grader = TargetGrader()
    assert all(grader.grade("\n".join(way), "1 2 3 4 -> 24").verdict is Verdict.CORRECT for way in found)
    every = [
        (a, b, c)
        for a, after in moves((1, 2, 3, 4), "+-*/")
        for b, then in moves(after, "+-*/")
        for c, end in moves(then, "+-*/")
        if end == (24,)
    ]
    assert set(every) == set(found)


def test_the_classic_that_needs_fractions_has_no_solution_in_whole_numbers() -> None:
    assert solutions((3, 3, 8, 8), 24, "+-*/") == ()
    assert 24 not in reachable((1, 5, 5, 5), "+-*/")


def test_one_solution_has_one_form() -> None:
    grader, reference = TargetGrader(), "1 4 6 -> 24"
    assert grader.solution("6 * 4 = 24\n24 / 1 = 24", reference) == grader.solution(
        "4*6=24 (left: 1 24)\n24/1=24", reference
    )
    assert grader.solution("4/1=4\n4*6=24", reference) != grader.solution("4*6=24\n24/1=24", reference)


def test_prompts_are_solvable_different_and_a_function_of_the_seed() -> None:
    held_out = TargetPrompts(count=3, largest=9, operators="+-", min_solutions=2, size=40, seed=0)
    source = TargetPrompts(count=3, largest=9, operators="+-", min_solutions=2, size=60, seed=1, disjoint_from=held_out)
    prompts, others = source.prompts(), {prompt.reference for prompt in held_out.prompts()}
    assert prompts == source.prompts()
    assert len({prompt.reference for prompt in prompts}) == 60
    assert not others & {prompt.reference for prompt in prompts}
    for prompt in prompts:
        puzzle = Puzzle.read(prompt.reference)
        assert puzzle is not None
        assert len(solutions(puzzle.numbers, puzzle.target, "+-")) == prompt.metadata["solutions"] >= 2
        shown, _, target = prompt.messages[-1].content.partition(" -> ")
        assert (tuple(sorted(map(int, shown.split()))), int(target)) == (puzzle.numbers, puzzle.target)


def test_a_fixed_target_is_what_all_ask_for() -> None:
    prompts = TargetPrompts(count=4, largest=13, target=24, size=30).prompts()
    assert {prompt.reference.partition(" -> ")[2] for prompt in prompts} == {"24"}


def test_too_many_prompts_are_refused() -> None:
    with pytest.raises(DataError, match="different puzzles were found, but size is 500"):
        TargetPrompts(count=2, largest=2, operators="+", size=500).prompts()


@pytest.mark.parametrize("left", [False, True])
def test_traces_solve_their_puzzles_in_the_first_way_or_in_many(left: bool) -> None:
    source = TargetPrompts(count=3, operators="+-", min_solutions=3, size=40)
    grader = TargetGrader(operators="+-")
    first, varied = (TargetTraces(source, operators="+-", varied=share, left=left).traces() for share in (0.0, 1.0))
    for trace in (*first, *varied):
        assert grader.grade(trace.response, trace.prompt.reference).verdict is Verdict.CORRECT
        assert ("(left: " in trace.response) == left
    assert sum(a.response != b.response for a, b in zip(first, varied, strict=True)) > 10
    puzzle = Puzzle.read(first[0].prompt.reference)
    assert puzzle is not None
    way = solutions(puzzle.numbers, puzzle.target, "+-")[0]
    assert grader.solution(first[0].response, first[0].prompt.reference) == "\n".join(way)


def test_a_trace_of_what_is_no_puzzle_is_refused() -> None:
    class One:
        def prompts(self) -> list[Prompt]:
            return [Prompt("p", (), "2 2 -> 7")]

    with pytest.raises(DataError, match="prompt p is no puzzle with a solution"):
        TargetTraces(One()).traces()


def test_actions_are_the_lines_that_the_verifier_takes() -> None:
    prompt, actions = Prompt("p", (), "1 4 6 -> 24"), TargetActions(operators="+*")
    assert actions.steps(prompt) == 2
    assert set(actions.next(prompt, "")) == {"1+4=5", "1*4=4", "1+6=7", "1*6=6", "4+6=10", "4*6=24"}
    assert set(actions.next(prompt, "4*6=24\n")) == {"1+24=25", "1*24=24"}
    assert actions.next(prompt, "4*6=24\n1*24=24") == []
    assert actions.next(prompt, "4*6=25") == []
    assert not walk(actions.next(prompt, "")[0], Puzzle((1, 4, 6), 24), "+*").fault


@pytest.mark.parametrize(
    ("field", "value"), [("count", 1), ("operators", "%"), ("size", 0), ("target", -1), ("template", "{numbers}")]
)
def test_bad_values_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        TargetPrompts(**{field: value})
