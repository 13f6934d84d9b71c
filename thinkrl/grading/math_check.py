"""Compares an answer with a reference as mathematics. Runs in the worker; may take for ever."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import sympy

from thinkrl.grading.math_equality import same_expression, same_up_to_factor
from thinkrl.grading.math_values import Collection, Relation, SetExpression, UnreadableError, Value, Words, read
from thinkrl.grading.number import NumberGrader
from thinkrl.grading.numbers import Number
from thinkrl.grading.text import shorten

_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!="}
_SETS = {"cup": sympy.Union, "cap": sympy.Intersection, "setminus": sympy.Complement}


def check(answer: str, reference: str, relative_tolerance: float, decimal_tolerance: float) -> dict[str, str]:
    """The verdict and its note."""
    try:
        gold = read(reference)
    except UnreadableError as error:
        return {"verdict": "ungradable", "note": f"the reference {shorten(reference)} cannot be read: {error}"}
    try:
        given = read(answer)
    except UnreadableError as error:
        return {"verdict": "wrong", "note": f"{shorten(answer)} cannot be read: {error}"}
    comparison = _Comparison(NumberGrader(relative_tolerance=relative_tolerance, decimal_tolerance=decimal_tolerance))
    try:
        return {"verdict": "correct" if comparison.same(gold, given) else "wrong", "note": ""}
    except MemoryError:
        raise
    except Exception as error:
        # Not ungradable: an answer must not escape its verdict by being odd enough.
        return {"verdict": "wrong", "note": f"{shorten(answer)} cannot be compared: {type(error).__name__}: {error}"}


class _Comparison:
    """Equality of values; symmetric in its two sides."""

    def __init__(self, numbers: NumberGrader) -> None:
        self.numbers = numbers

    def same(self, a: Value, b: Value) -> bool:
        a, b = _bare(a, b), _bare(b, a)
        if isinstance(a, Words) or isinstance(b, Words):
            return bool(a == b)
        if isinstance(a, Relation) and isinstance(b, Relation):
            return self._same_relation(a, b)
        if isinstance(a, Relation | SetExpression | sympy.Set) or isinstance(b, Relation | SetExpression | sympy.Set):
            return self._same_set(a, b)
        if isinstance(a, Collection) or isinstance(b, Collection):
            return isinstance(a, Collection) and isinstance(b, Collection) and self._same_collection(a, b)
        if isinstance(a, Number) and isinstance(b, Number):
            return (not a.unit or not b.unit or a.unit == b.unit) and self.numbers.same(a, b)
        return self._same_scalar(a, b)

    def _same_scalar(self, a: Any, b: Any) -> bool:
        matrices = [isinstance(side, sympy.MatrixBase) for side in (a, b)]
        if any(matrices):
            return all(matrices) and a.shape == b.shape and all(map(self._same_scalar, a.flat(), b.flat()))
        decimal = any(isinstance(side, Number) and side.decimal for side in (a, b))
        tolerance = max(self.numbers.relative_tolerance, self.numbers.decimal_tolerance if decimal else 0.0)
        return any(
            same_expression(x, y, Fraction(str(tolerance))) for x in self._readings(a) for y in self._readings(b)
        )

    def _readings(self, side: Value) -> list[sympy.Expr]:
        if not isinstance(side, Number):
            return [side]
        values = [side.worth, side.value] if side.percent and self.numbers.bare_percent else [side.worth]
        return [sympy.Rational(value.numerator, value.denominator) for value in values]

    def _same_collection(self, a: Collection, b: Collection) -> bool:
        loose = {"", "{}"}
        if a.kind in loose and b.kind in loose:
            return self._same_members(a.items, b.items)
        # Half-open and closed pairs are intervals and keep their brackets; longer rows are tuples in any brackets.
        intervals = len(a.items) == 2 and "" not in (a.kind, b.kind)
        if (intervals and a.kind != b.kind) or "{}" in (a.kind, b.kind):
            return False
        return len(a.items) == len(b.items) and all(map(self.same, a.items, b.items))

    def _same_members(self, a: Sequence[Value], b: Sequence[Value]) -> bool:
        a, left = self._different(a), self._different(b)
        if len(a) != len(left):
            return False
        for item in a:
            found = next((i for i, other in enumerate(left) if self.same(item, other)), None)
            if found is None:
                return False
            left.pop(found)
        return True

    def _different(self, items: Sequence[Value]) -> list[Value]:
        kept: list[Value] = []
        for item in items:
            if not any(self.same(item, other) for other in kept):
                kept.append(item)
        return kept

    def _same_relation(self, a: Relation, b: Relation) -> bool:
        if len(a.signs) != 1 or len(b.signs) != 1:
            return self._same_chain(a, b) or self._same_set(a, b)
        for turned in (b, _turned(b)):
            if a.signs == turned.signs and all(map(self.same, a.sides, turned.sides)):
                return True
        sides = [side for relation in (a, b) for side in relation.sides]
        if not all(isinstance(side, Number | sympy.Expr) for side in sides):
            return False
        left, right = (self._readings(s.sides[0])[0] - self._readings(s.sides[1])[0] for s in (a, b))
        if a.signs == b.signs and same_up_to_factor(left, right, positive=a.signs[0] not in ("=", "!=")):
            return True
        return a.signs == _turned(b).signs and same_up_to_factor(left, -right, positive=a.signs[0] not in ("=", "!="))

    def _same_chain(self, a: Relation, b: Relation) -> bool:
        turned = (b, _turned(b))
        return any(a.signs == t.signs and all(map(self.same, a.sides, t.sides)) for t in turned)

    def _same_set(self, a: Value, b: Value) -> bool:
        left, right = self._as_set(a), self._as_set(b)
        if left is None or right is None:
            return isinstance(a, SetExpression) and isinstance(b, SetExpression) and self._same_structure(a, b)
        return bool(left == right or sympy.SymmetricDifference(left, right).doit() == sympy.EmptySet)

    def _same_structure(self, a: SetExpression, b: SetExpression) -> bool:
        if {*a.operations, *b.operations} == {"cup"}:
            return self._same_members(a.parts, b.parts)
        return a.operations == b.operations and all(map(self.same, a.parts, b.parts))

    def _as_set(self, value: Value) -> sympy.Set | None:
        """The set of real numbers that `value` describes, or None if it is none or has parameters."""
        if isinstance(value, sympy.Set):
            return value
        if isinstance(value, SetExpression):
            parts = [self._as_set(part) for part in value.parts]
            if any(part is None for part in parts):
                return None
            joined = parts[0]
            for operation, part in zip(value.operations, parts[1:], strict=True):
                joined = _SETS[operation](joined, part)
            return joined
        if isinstance(value, Relation):
            return self._solutions(value)
        if not isinstance(value, Collection):
            return None
        items = [self._constant(item) for item in value.items]
        if any(item is None for item in items):
            return None
        if value.kind in ("", "{}"):
            return sympy.FiniteSet(*items)
        if len(items) != 2 or sympy.StrictLessThan(*items) != sympy.true:
            return None
        return sympy.Interval(*items, value.kind[0] == "(", value.kind[1] == ")")

    def _solutions(self, relation: Relation) -> sympy.Set | None:
        """Where a chain of inequalities about one symbol holds: `1 < x <= 2`, `x > 3`, `x != 0`."""
        found: sympy.Set = sympy.Reals
        symbols = {side for side in relation.sides if isinstance(side, sympy.Symbol)}
        if len(symbols) != 1:
            return None
        for left, sign, right in zip(relation.sides, relation.signs, relation.sides[1:], strict=False):
            if isinstance(right, sympy.Symbol):
                left, sign, right = right, _FLIPPED[sign], left
            bound = self._constant(right)
            if not isinstance(left, sympy.Symbol) or bound is None:
                return None
            found = sympy.Intersection(found, _half_line(sign, bound))
        return found

    def _constant(self, value: Value) -> sympy.Expr | None:
        if isinstance(value, Number | sympy.Expr):
            expression = self._readings(value)[0]
            return expression if not expression.free_symbols and expression.is_extended_real else None
        return None


def _bare(value: Value, other: Value) -> Value:
    """The value of an assignment such as `x = 5` or `x \\in [1, 2]`, where the other side names no variable."""
    if isinstance(value, Relation) and not _is_equation(other) and set(value.signs) == {"="}:
        name = value.sides[0]
        if isinstance(name, sympy.Symbol):
            return value.sides[-1]
    if isinstance(value, Collection) and value.kind == "" and isinstance(other, Collection):
        # x = 1, x = 2 against {1, 2}
        names = {item.sides[0] for item in value.items if isinstance(item, Relation) and set(item.signs) == {"="}}
        plain = not any(isinstance(item, Relation) for item in other.items)
        if plain and len(names) == 1 and all(isinstance(item, Relation) for item in value.items):
            return Collection("", tuple(item.sides[-1] for item in value.items if isinstance(item, Relation)))
    return value


def _is_equation(value: Value) -> bool:
    return isinstance(value, Relation) and "=" in value.signs


def _turned(relation: Relation) -> Relation:
    return Relation(relation.sides[::-1], tuple(_FLIPPED[sign] for sign in reversed(relation.signs)))


def _half_line(sign: str, bound: sympy.Expr) -> sympy.Set:
    if sign == "=":
        return sympy.FiniteSet(bound)
    if sign == "!=":
        return sympy.Complement(sympy.Reals, sympy.FiniteSet(bound))
    low, high = (-sympy.oo, bound) if sign[0] == "<" else (bound, sympy.oo)
    return sympy.Interval(low, high, "=" not in sign, "=" not in sign)
