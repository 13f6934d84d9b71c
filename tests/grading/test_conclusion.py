import pytest

from thinkrl.grading.conclusion import ConclusionExtractor
from thinkrl.grading.mathematics import MathGrader
from thinkrl.grading.verdict import Verdict


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so \\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{1}</think>then \\boxed{2}", "2"),
        ("\\boxed{1}</think>it is 3", "3"),  # a box before the mark is not read
        ("<think>\\boxed{1}</think>**Final Answer** 7 <conclude> \\boxed{9}", "9"),
        ("<conclude>\\boxed{9}**Final Answer** 7", "7"),  # the last mark of any kind
        ("The answer is 4. The final answer is: 12.", "12"),
        ("the answer is 12\nand 7 more", "12"),
        ("The answer is \\boxed{3}, not 4", "3"),
        ("first 3, then 1,024", "1,024"),
        ("The answer is", None),
        ("the answer is \n", None),
        ("nothing", None),
        ("\\boxed{", None),
        ("\\boxed{(B) 12}", "B"),
        ("the answer is (C)", "C"),
        ("\\boxed{D: 5}", "D"),
        ("\\boxed{A}", "A"),
        ("\\boxed{P(A)}", "P(A)"),
        ("\\boxed{x = 5}", "5"),
        ("\\boxed{a = b = 7}", "7"),
        ("\\boxed{\\pi \\approx 3.14}", "3.14"),
        ("\\boxed{x >= 5}", "x >= 5"),
        ("\\boxed{x \\ne 3, y != 4}", "x \\ne 3, y != 4"),
        ("\\boxed{x =}", "x ="),
    ],
)
def test_the_answer_of_a_conclusion(text: str, answer: str | None) -> None:
    assert ConclusionExtractor().extract(text) == answer


def test_other_marks_and_other_sources() -> None:
    extractor = ConclusionExtractor(sources=("last_line",), marks=("###",))
    assert extractor.extract("</think>1\n### done\n  6 ") == "6"
    assert extractor.extract("</think>1\n2") == "2"


def test_what_is_cut_down_is_still_equal_to_its_reference() -> None:
    answers = [ConclusionExtractor().extract(text) for text in ("\\boxed{x = \\frac{2}{4}}", "the answer is $0.5$.")]
    grades = MathGrader().grade_all(answers, ["x = 1/2", "\\frac12"])
    assert [grade.verdict for grade in grades] == [Verdict.CORRECT, Verdict.CORRECT]
