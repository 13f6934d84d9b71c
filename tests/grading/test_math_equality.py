"""Equality of expressions against identities and near misses that rounding would let pass."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sympy = pytest.importorskip("sympy")

from thinkrl.grading.latex import split, tidy  # noqa: E402
from thinkrl.grading.math_check import check  # noqa: E402
from thinkrl.grading.math_equality import same_expression, same_up_to_factor  # noqa: E402

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

x, y = sympy.symbols("x y")
CUBIC = sympy.cbrt(2 + 11 * sympy.I) + sympy.cbrt(2 - 11 * sympy.I)
"""Cardano's form of 4: real, written with complex roots."""


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        (CUBIC, sympy.Integer(4), True),
        (CUBIC, sympy.Integer(5), False),
        (
            sympy.cos(sympy.pi / 7) - sympy.cos(2 * sympy.pi / 7) + sympy.cos(3 * sympy.pi / 7),
            sympy.Rational(1, 2),
            True,
        ),
        (sympy.sqrt(2) + sympy.Rational(1, 10**60), sympy.sqrt(2), False),
        (sympy.pi + sympy.Rational(1, 10**200) * sympy.E, sympy.pi, False),
        # Ramanujan's constant misses an integer by 7.5e-13.
        (sympy.exp(sympy.pi * sympy.sqrt(163)), sympy.Integer(640320**3 + 744), False),
        (16 * sympy.atan(sympy.Rational(1, 5)) - 4 * sympy.atan(sympy.Rational(1, 239)), sympy.pi, True),
        (sympy.factorial(2004) ** -1, sympy.factorial(2006) ** -1, False),
        (sympy.oo, sympy.oo, True),
        (sympy.oo, -sympy.oo, False),
        ((x**3 - 1) / (x - 1), x**2 + x + 1, True),
        (sympy.sqrt(x) * sympy.sqrt(y), sympy.sqrt(x * y), False),
        (sympy.log(sympy.exp(x)), x, True),
        (sympy.sin(3 * x), 3 * sympy.sin(x) - 4 * sympy.sin(x) ** 3, True),
        (x + y, x - y, False),
        (x**2, x**2 + sympy.Rational(1, 10**80), False),
        (sympy.I * x, -sympy.I * x, False),
        (sympy.I * x, x * sympy.I, True),
    ],
)
def test_identities_and_near_misses(a, b, equal: bool) -> None:
    assert same_expression(a, b) is equal
    assert same_expression(b, a) is equal


POLYNOMIALS = st.lists(st.integers(-9, 9), min_size=1, max_size=5)


@given(POLYNOMIALS, POLYNOMIALS)
def test_polynomials_are_equal_exactly_when_their_coefficients_are(p: list[int], q: list[int]) -> None:
    """Sampling ten points against the algebra of polynomials of degree 8 at most."""
    a, b = (sum(c * x**k for k, c in enumerate(poly)) for poly in (p, q))
    product = sympy.expand(a * b)
    assert same_expression(sympy.Mul(a, b, evaluate=False), product)
    assert not same_expression(sympy.Mul(a, b, evaluate=False), product + 1)
    assert same_expression(sympy.sympify(a), sympy.sympify(b)) == (sympy.expand(a - b) == 0)


def test_tolerance_is_relative() -> None:
    assert same_expression(sympy.pi, sympy.Rational("3.1416"), Fraction(1, 10**5))
    assert not same_expression(sympy.pi, sympy.Rational("3.1416"), Fraction(1, 10**6))
    tiny = sympy.pi / 10**50
    assert not same_expression(tiny, 2 * tiny, Fraction(1, 10**5))


def test_up_to_factor() -> None:
    assert same_up_to_factor(2 * x - 2, x - 1, positive=True)
    assert same_up_to_factor(1 - x, x - 1, positive=False)
    assert not same_up_to_factor(1 - x, x - 1, positive=True)
    assert not same_up_to_factor(x * (x - 1), x - 1, positive=False)
    assert not same_up_to_factor(sympy.Integer(0), x, positive=False)


@given(st.text(alphabet="0123456789x+-*/^(){}[]\\sqrtfacpi., =<>", max_size=25))
@settings(max_examples=60)
def test_any_text_gets_a_verdict(text: str) -> None:
    """Whatever is written, reading raises nothing, and unreadable text is not equal to itself."""
    if "^" in text or "!" in text:
        text = text.replace("^", "").replace("!", "")  # powers are for the clock, which is not here
    first = check(text, text, 0.0, 1e-6)
    assert first["verdict"] in ("correct", "ungradable"), first
    other = check(text, "17x+y", 0.0, 1e-6)
    assert other["verdict"] in ("correct", "wrong")


def test_tidy_by_example() -> None:
    assert tidy(r"\left( \dfrac12 \right)") == r"( \frac{1}{2} )"
    assert tidy("sqrt(x+1)^(2)") == r"\sqrt {x+1}^{2}"
    assert tidy("x**10") == "x^{10}"
    assert tidy(r"1 \text{ and } 2") == "1, 2"
    assert tidy("band") == "band"


def test_split_outside_brackets() -> None:
    import re

    comma = re.compile(",")
    assert split("a,(b,c),[d,e),f", comma) == (["a", "(b,c)", "[d,e)", "f"], [",", ",", ","])
    assert split(r"\begin{matrix}1,2\end{matrix},3", comma) == ([r"\begin{matrix}1,2\end{matrix}", "3"], [","])
