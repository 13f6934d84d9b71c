"""Every case of the truth table gets its verdict, and symmetric cases get it both ways."""

import json
from pathlib import Path
from typing import Any

import pytest

from thinkrl.grading.extraction import AnswerExtractor
from thinkrl.grading.grader import Grader
from thinkrl.grading.mathematics import MathGrader
from thinkrl.grading.number import NumberGrader
from thinkrl.grading.sets import SetGrader
from thinkrl.grading.strings import ChoiceGrader, ExactGrader

CASES = [json.loads(line) for line in (Path(__file__).parent / "truth_table.jsonl").read_text("utf-8").splitlines()]
KINDS = {"number": NumberGrader, "exact": ExactGrader, "choice": ChoiceGrader, "set": SetGrader, "math": MathGrader}


def build_grader(spec: str | dict[str, Any], slow: bool) -> Grader:
    options = {"kind": spec} if isinstance(spec, str) else dict(spec)
    kind = KINDS[options.pop("kind")]
    if kind is MathGrader:
        # Generous where the verdict does not depend on the clock, short where the clock is the point.
        options.setdefault("timeout_seconds", 1.0 if slow else 60.0)
    return kind(**options)


def spell_out(answer: Any) -> Any:
    if isinstance(answer, dict):
        return answer.get("before", "") + answer["text"] * answer["times"] + answer.get("after", "")
    return answer


@pytest.mark.parametrize("case", CASES, ids=[f"{i}-{case['reason'][:40]}" for i, case in enumerate(CASES, 1)])
def test_verdict(case: dict[str, Any]) -> None:
    grader = build_grader(case["grader"], case.get("slow", False))
    answer = spell_out(case["answer"])
    if "extract" in case:
        answer = AnswerExtractor(**case["extract"]).extract(answer)
    grade = grader.grade(answer, case["reference"])
    assert grade.verdict == case["verdict"], grade
    assert "cannot be compared" not in grade.note
    if case["both_ways"]:
        turned = grader.grade(case["reference"], answer)
        assert turned.verdict == case["verdict"], turned
        assert "cannot be compared" not in turned.note


def test_table_is_a_table() -> None:
    """No case twice, every kind and verdict present."""
    keys = [json.dumps([case[k] for k in ("grader", "reference", "answer")] + [case.get("extract")]) for case in CASES]
    assert len(set(keys)) == len(keys) >= 130
    assert {case["verdict"] for case in CASES} == {"correct", "wrong", "ungradable", "timeout"}
    assert all(case["reason"] for case in CASES)
