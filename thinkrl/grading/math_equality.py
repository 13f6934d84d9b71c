"""Are two expressions equal? By exact arithmetic, certified numerical difference, and sampling of the variables."""

import random
from fractions import Fraction

import sympy
from sympy.core.evalf import PrecisionExhausted

CERTIFIED_DIGITS = 300
"""A difference that vanishes to this many digits beside its terms counts as zero."""
POINTS = 10
"""How often the variables are sampled."""
_LAZY = (sympy.Integral, sympy.Sum, sympy.Product, sympy.Derivative, sympy.Limit)


def same_expression(a: sympy.Expr, b: sympy.Expr, tolerance: Fraction = Fraction(0)) -> bool:
    """Whether a = b for all real values of their variables at which both are real.

    Without variables: the difference is not certified to be other than 0, or lies within `tolerance`
    relative to the greater magnitude. With variables: the same at random rational points; a point where
    only one side is real tells them apart.
    """
    if a == b:
        return True
    a, b = _worked(a), _worked(b)
    if any(side.has(sympy.oo, -sympy.oo, sympy.nan, sympy.zoo) for side in (a, b)):
        return bool(a == b)
    variables = sorted(a.free_symbols | b.free_symbols, key=lambda symbol: symbol.name)
    if not variables:
        return _same_constant(a, b, tolerance)
    return _same_function(a, b, variables)


def same_up_to_factor(a: sympy.Expr, b: sympy.Expr, positive: bool) -> bool:
    """Whether a = c * b for a constant c other than 0 (above 0 if `positive`): the test of equations' two sides."""
    variables = sorted(a.free_symbols | b.free_symbols, key=lambda symbol: symbol.name)
    if not variables:
        return False
    for point in _points(variables, whole=False):
        at_a, at_b = a.subs(point), b.subs(point)
        if _sign(at_b) and _sign(at_a) is not None:
            factor = at_a / at_b
            sign = _sign(factor)
            return bool(sign) and (not positive or sign == 1) and same_expression(a, factor * b)
    return False


def _worked(expression: sympy.Expr) -> sympy.Expr:
    return expression.doit() if expression.has(*_LAZY) else expression


def _same_constant(a: sympy.Expr, b: sympy.Expr, tolerance: Fraction) -> bool:
    difference = a - b
    if difference.is_Rational and not tolerance:
        return bool(difference == 0)
    size = _certified(difference)
    if size is None:
        return bool(sympy.simplify(difference) == 0)
    if size == 0 or not tolerance:
        return bool(size == 0)
    allowed = sympy.Rational(tolerance.numerator, tolerance.denominator)
    return bool(abs(size) <= allowed * sympy.Max(abs(sympy.N(a, 30)), abs(sympy.N(b, 30))))


def _certified(expression: sympy.Expr) -> sympy.Expr | None:
    """The value to 15 certified digits; 0 if it vanishes to CERTIFIED_DIGITS; None if it has no numerical value."""
    try:
        value = expression.evalf(15, maxn=CERTIFIED_DIGITS, strict=True)
    except PrecisionExhausted:
        # One of the real and imaginary parts vanishes; the other need not.
        value = expression.evalf(15, maxn=CERTIFIED_DIGITS)
        if all(part.is_Number and abs(part) < sympy.Float("1e-100") for part in value.as_real_imag()):
            return sympy.Integer(0)
    return value if value.is_number and not value.has(sympy.nan, sympy.zoo) and _is_numeral(value) else None


def _is_real(value: sympy.Expr) -> bool:
    """Whether the imaginary part vanishes beside the real one; 15 digits are certified."""
    real, imaginary = value.as_real_imag()
    return bool(abs(imaginary) <= abs(real) * sympy.Float("1e-12"))


def _is_numeral(value: sympy.Expr) -> bool:
    return all(part.is_Number for part in value.as_real_imag())


def _same_function(a: sympy.Expr, b: sympy.Expr, variables: list[sympy.Symbol]) -> bool:
    whole = any(_wants_whole(side) for side in (a, b))
    shared, skipped = 0, []
    for point in _points(variables, whole):
        at_a, at_b = a.subs(point), b.subs(point)
        value_a, value_b = _certified(at_a), _certified(at_b)
        if value_a is None and value_b is None:
            continue
        if value_a is None or value_b is None or _is_real(value_a) != _is_real(value_b):
            return False
        if not _is_real(value_a):
            skipped.append((at_a, at_b))
            continue
        shared += 1
        if not _same_constant(at_a, at_b, Fraction(0)):
            return False
    if shared:
        return True
    return bool(skipped) and all(_same_constant(at_a, at_b, Fraction(0)) for at_a, at_b in skipped)


def _wants_whole(expression: sympy.Expr) -> bool:
    """Whether the variables are counters: in factorials, binomials, or as exponents of a negative number."""
    if any(call.free_symbols for call in expression.atoms(sympy.factorial, sympy.binomial)):
        return True
    return any(power.base.is_negative and power.exp.free_symbols for power in expression.atoms(sympy.Pow))


def _points(variables: list[sympy.Symbol], whole: bool) -> list[dict[sympy.Symbol, sympy.Rational]]:
    """Points with coordinates of both signs; the first ones are all positive. The same ones in every run."""
    draw = random.Random(20240229)
    points = []
    for index in range(POINTS):
        point = {}
        for variable in variables:
            if whole:
                point[variable] = sympy.Integer(draw.randint(1, 12))
            else:
                sign = 1 if index < POINTS // 2 else draw.choice((1, -1, -1))
                point[variable] = sympy.Rational(sign * draw.randint(1, 9973), draw.choice((97, 1009, 3571)))
        points.append(point)
    return points


def _sign(value: sympy.Expr) -> int | None:
    """-1, 0 or 1 of a real number; None of anything else."""
    size = _certified(value)
    if size is None or not _is_real(size):
        return None
    return int(sympy.sign(sympy.re(size)))
