"""Numbers: equal rationals agree in every notation, and unequal ones in none."""

import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinkrl.grading.extraction import AnswerExtractor
from thinkrl.grading.number import NumberGrader
from thinkrl.grading.numbers import read_number
from thinkrl.grading.sets import SetGrader
from thinkrl.grading.strings import ChoiceGrader, ExactGrader
from thinkrl.grading.text import boxed, plain
from thinkrl.grading.verdict import Verdict

# The machine may be busy: a slow example is no failure here.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

INTEGERS = st.integers(-(10**40), 10**40)
NUMBERS = st.fractions(min_value=-(10**9), max_value=10**9, max_denominator=10**6)


def spellings_of_integer(value: int) -> list[str]:
    sign, digits = ("-" if value < 0 else ""), str(abs(value))
    return [
        f"{value}",
        f"{value:,}",
        f"{value}.0",
        f"{value}/1",
        f"{sign}{int(digits):,}".replace(",", "{,}"),
        str(value).replace("-", "−"),
        sign + "".join(chr(0x0660 + int(d)) for d in digits),
        f"\\frac{{{3 * value}}}{{3}}",
        f"{sign}{digits[0]}.{digits[1:] or '0'} \\times 10^{{{len(digits) - 1}}}",
        f"{sign}{digits[0]}.{digits[1:] or '0'}e{len(digits) - 1}",
        f"x = {value}",
        f"${value}$",
    ]


@given(INTEGERS)
def test_every_spelling_of_an_integer_agrees(value: int) -> None:
    for spelling in spellings_of_integer(value):
        number = read_number(spelling)
        assert number is not None, spelling
        assert number.worth == value, spelling


@given(NUMBERS)
def test_every_spelling_of_a_fraction_agrees(value: Fraction) -> None:
    top, bottom = value.numerator, value.denominator
    whole, part = divmod(abs(top), bottom)
    spellings = [
        f"{top}/{bottom}",
        f"{top * 7} / {bottom * 7}",
        f"\\frac{{{top}}}{{{bottom}}}",
        f"\\dfrac{{{top}}}{{{bottom}}}",
    ]
    if whole and part:
        spellings.append(f"{'-' if top < 0 else ''}{whole} {part}/{bottom}")
    for spelling in spellings:
        number = read_number(spelling)
        assert number is not None, spelling
        assert number.worth == value, spelling


@given(INTEGERS, st.integers(0, 12))
def test_decimals_are_exact(digits: int, places: int) -> None:
    value = Fraction(digits, 10**places)
    text = f"{abs(digits):0{places + 1}d}"
    text = ("-" if digits < 0 else "") + (
        f"{text[: len(text) - places]}.{text[len(text) - places :]}" if places else text
    )
    number = read_number(text)
    assert number is not None
    assert number.worth == value


@given(NUMBERS, NUMBERS)
def test_grade_is_equality_and_symmetric(a: Fraction, b: Fraction) -> None:
    grader = NumberGrader()
    for left, right in ((a, b), (b, a), (a, a)):
        correct = grader.grade(str(left), str(right)).verdict is Verdict.CORRECT
        assert correct == (left == right)


@given(NUMBERS, st.sampled_from([0.0, 0.001, 0.1]), st.fractions(-1, 1, max_denominator=1000))
def test_tolerance_is_relative_to_the_greater_magnitude(a: Fraction, tolerance: float, nudge: Fraction) -> None:
    b = a * (1 + nudge)
    expected = abs(a - b) <= Fraction(str(tolerance)) * max(abs(a), abs(b))
    grader = NumberGrader(relative_tolerance=tolerance)
    assert (grader.grade(str(a), str(b)).verdict is Verdict.CORRECT) == expected
    assert (grader.grade(str(b), str(a)).verdict is Verdict.CORRECT) == expected


@given(st.text(max_size=200))
def test_any_text_gets_a_verdict(text: str) -> None:
    """No text raises, and text that is no reference is never CORRECT, not even against itself."""
    graders = (NumberGrader(), ExactGrader(), ChoiceGrader(), SetGrader())
    for grader in graders:
        for reference in (text, "5", "B"):
            assert grader.grade(text, reference).verdict in Verdict
        assert grader.grade(None, text).verdict in (Verdict.WRONG, Verdict.UNGRADABLE)
    if NumberGrader().grade("5", text).verdict is Verdict.UNGRADABLE:
        assert NumberGrader().grade(text, text).verdict is Verdict.UNGRADABLE


@given(st.text(alphabet="{}\\boxed 1", max_size=60))
def test_boxes_are_balanced(text: str) -> None:
    for content in boxed(text):
        if content is not None:
            unescaped = content.replace("\\{", "").replace("\\}", "")
            assert unescaped.count("{") == unescaped.count("}") or "\\\\" in content


@given(st.text(max_size=100))
def test_plain_text_is_stable(text: str) -> None:
    assert plain(plain(text)) == plain(text)


HOSTILE = {
    "keywords": "answer " * 30_000,
    "keywords with a colon": "option is: " * 20_000,
    "spaces": " " * 200_000 + "1",
    "thousands without end": "1" + ",111" * 50_000 + "1",
    "open brackets": "(" * 200_000,
    "open boxes": "\\boxed{" * 30_000,
    "closed boxes": "\\boxed{1}" * 20_000,
    "open tags": "<think><answer>" * 20_000,
    "closed tags": "<answer>1</answer>" * 20_000,
    "digits": "9" * 200_000,
    "letters": "A B or " * 30_000,
    "fractions": "\\frac" * 30_000,
    "vulgar fractions": "½" * 50_000,
    "superscripts": "²" * 100_000,
    "wrappers": "$" * 100_000,
    "a list": "1," * 100_000,
    "units": "5 " + "m/" * 1_900,
    "words": "a and " * 40_000,
    "null bytes": "\x00" * 100_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_read_in_linear_time(name: str) -> None:
    """In-process graders have no clock of their own, so none may need one: seconds would mean a power of the length."""
    text = HOSTILE[name]
    extractors = [AnswerExtractor(sources=(source,)) for source in ("answer_tag", "boxed", "last_number", "last_line")]
    graders = [(NumberGrader(), "5"), (ExactGrader(), "a"), (ChoiceGrader(), "B"), (SetGrader(), "1,2")]
    begin = time.process_time()
    for extractor in extractors:
        extractor.extract(text)
    for grader, reference in graders:
        assert grader.grade(text, reference).verdict is Verdict.WRONG
    assert time.process_time() - begin < 3.0


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: NumberGrader(relative_tolerance=-0.1), "relative_tolerance must be in"),
        (lambda: NumberGrader(decimal_tolerance=1.0), "decimal_tolerance must be in"),
        (lambda: ChoiceGrader(letters="abc"), "letters must be upper-case"),
        (lambda: SetGrader(max_elements=0), "max_elements must be at least 1"),
        (lambda: AnswerExtractor(sources=()), "sources must name"),
    ],
)
def test_bad_fields_are_named(build, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        build()
