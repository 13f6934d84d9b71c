"""Reading arithmetic statements: what is one, what is none, and that the arithmetic is exact."""

import re
import time
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from thinkrl.rewards.arithmetic import MAX_SIDE, numbers_in, read_steps

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("First, 3 * 4 = 12, then 12 + 5 = 17.", [("3 * 4 = 12", True), ("12 + 5 = 17", True)]),
        ("(2+3)*(4-1)=15 15-1=13", [("( 2 + 3 ) * ( 4 - 1 ) = 15", True), ("15 - 1 = 13", False)]),
        ("2 + 3 * 4 = 14", [("2 + 3 * 4 = 14", True)]),
        ("2 + 3 * 4 = 20", [("2 + 3 * 4 = 20", False)]),
        ("20 - 5 - 3 = 12", [("20 - 5 - 3 = 12", True)]),
        ("100 / 10 / 2 = 5", [("100 / 10 / 2 = 5", True)]),
        ("0.1 + 0.2 = 0.3", [("0.1 + 0.2 = 0.3", True)]),
        ("10 / 3 = 3.33", [("10 / 3 = 3.33", False)]),
        ("1,000 - 1 = 999", [("1,000 - 1 = 999", True)]),
        ("12 = 3*4", [("12 = 3 * 4", True)]),
        ("2*3*4 = 6*4 = 24", [("2 * 3 * 4 = 6 * 4 = 24", True)]),
        ("2*3*4 = 6*5 = 24", [("2 * 3 * 4 = 6 * 5 = 24", False)]),
        (
            "7−2=5; 3×4=12; 8÷2=4; 3 x 4 = 12",
            [(t, True) for t in ("7 - 2 = 5", "3 * 4 = 12", "8 / 2 = 4", "3 * 4 = 12")],
        ),
        (r"3 \times 4 = 12", [("3 * 4 = 12", True)]),
        ("- 3 + 4 = 7", [("3 + 4 = 7", True)]),
        ("so -3 + 4 = 1", [("- 3 + 4 = 1", True)]),
        ("5 - -3 = 8", [("5 - - 3 = 8", True)]),
        ("1) 3 + 4 = 7\n2. 7 - 2 = 5", [("3 + 4 = 7", True), ("7 - 2 = 5", True)]),
        ("**3 + 4 = 7**", [("3 + 4 = 7", True)]),
        ("$3 + $4 = $7", [("3 + 4 = 7", True)]),
        ("x = 3 + 4 = 7", [("3 + 4 = 7", True)]),
        ("Is 3 + 4 = 7? Yes!", [("3 + 4 = 7", True)]),
        ("3 * 4 = 12!", [("3 * 4 = 12", True)]),
        # No statements: what touches them has a value that is not known here.
        ("7 = 7", []),
        ("x + 3 * 2 = 7", []),
        ("2x + 3 = 7", []),
        ("3 + 4 = 7x", []),
        ("3^2 + 1 = 10", []),
        ("1 + 3^2 = 10", []),
        ("50 * 10% = 5", []),
        ("10% + 5 = 15", []),
        ("3 + 4 = 7 + x", []),
        ("(3 + 4 = 7", []),
        ("3 + = 7", []),
        ("1/0 = 3", []),
        ("3.5.2 + 1 = 4", []),
        ("3 + 4 == 7", []),
        ("3 apples + 4 apples = 7 apples", []),
        ("__import__('os') + 1 = 2", []),
    ],
)
def test_statements(text: str, expected: list[tuple[str, bool]]) -> None:
    assert [(step.text, step.true) for step in read_steps(text)] == expected


def test_operands_and_result() -> None:
    step = read_steps("12.5 = (3 + 2) * 2.5")[0]
    assert (step.operands, step.result) == ((3, 2, Fraction(5, 2)), Fraction(25, 2))
    step = read_steps("2 * 3 * 4 = 6 * 4 = 24")[0]
    assert (step.operands, step.result) == ((2, 3, 4), 24)


def expressions() -> st.SearchStrategy[str]:
    leaves = st.integers(0, 999).map(str)
    return st.recursive(
        leaves,
        lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        max_leaves=8,
    )


@given(expressions(), expressions(), st.sampled_from("+-*/"))
def test_value_is_pythons(left: str, right: str, sign: str) -> None:
    """Against Python's evaluation of the same expression over fractions."""
    text = f"{left} {sign} {right}"
    assume(len(re.findall(r"\d+|[-+*/()]", text)) + 4 <= MAX_SIDE)
    over_fractions = re.sub(r"\d+", lambda m: f"F({m[0]})", text)
    try:
        value = eval(over_fractions, {"F": Fraction})
    except ZeroDivisionError:
        assert read_steps(f"{text} = 1") == []
        return
    # Written as a quotient, the value is exact.
    shown = f"{value.numerator} / {value.denominator}" if value >= 0 else f"-{-value.numerator} / {value.denominator}"
    for claim, true in ((shown, True), (f"{shown} + 1", False)):
        steps = read_steps(f"{text} = {claim}")
        if value.numerator.bit_length() < 90 and value.denominator.bit_length() < 90:
            assert [step.true for step in steps] == [true]


@given(st.text(alphabet="0123456789+-*/=(). ,x%^\n", max_size=80))
def test_any_text_is_read(text: str) -> None:
    for step in read_steps(text):
        assert len(step.operands) > 1


def test_a_side_that_is_too_long_is_not_read() -> None:
    ones = " + ".join(["1"] * (MAX_SIDE // 2))
    assert [step.true for step in read_steps(f"{ones} = {MAX_SIDE // 2}")] == [True]
    assert read_steps(f"{ones} + 1 = {MAX_SIDE // 2 + 1}") == []


def test_numbers_in_a_question() -> None:
    assert numbers_in("Tom has 1,200 apples and 3.5 pears; x2 and 10^5 do not count, 7.") == {1200, Fraction(7, 2), 7}


@pytest.mark.parametrize("piece", ["(", "1+", "=1", "9", "1+1=2 ", "-", "1 ", ",111", "1/", "x ", "*"])
def test_linear_time(piece: str) -> None:
    begin = time.process_time()
    read_steps(piece * 50_000)
    assert time.process_time() - begin < 3.0
