"""A calculator for models: exact arithmetic with a few functions; nothing runs as code, everything is bounded."""

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Context, Decimal
from fractions import Fraction

EXPRESSION_LIMIT = 500
BITS_LIMIT = 4096
"""Of numerator and denominator of every number on the way: some 1,200 digits."""
SHOWN_DIGITS = 50
_ROUNDED_DIGITS = 30
_NUMBER = re.compile(r"(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?")
_PRECISE = Context(prec=60)


class NotCalculable(Exception):
    """The message says why, in words for the one who wrote the expression."""


@dataclass(frozen=True)
class Calculated:
    """`value` in decimal digits; `exact` is false where it was rounded."""

    value: str
    exact: bool


def calculate(expression: str) -> Calculated:
    """The value of an arithmetic expression. Raises `NotCalculable`."""
    if len(expression) > EXPRESSION_LIMIT:
        raise NotCalculable(f"the expression has {len(expression)} characters; at most {EXPRESSION_LIMIT} are read")
    if not expression.isascii():
        raise NotCalculable("write it in ASCII: + - * / // % ** and parentheses")
    source = expression.strip()
    try:
        tree = ast.parse(source, mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise NotCalculable("it is not an arithmetic expression such as (1 + 2) * 3") from error
    evaluation = _Evaluation(source)
    try:
        value = evaluation.value(tree.body)
    except ZeroDivisionError as error:
        raise NotCalculable("it divides by zero") from error
    return _shown(value, evaluation.exact)


class _Evaluation:
    """One walk over an expression; `exact` turns false when a root had to be rounded."""

    def __init__(self, source: str) -> None:
        self._source = source
        self.exact = True

    def value(self, node: ast.expr) -> Fraction:
        match node:
            case ast.Constant():
                return self._number(node)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self.value(operand)
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return self.value(operand)
            case ast.BinOp(left=left, op=ast.Pow(), right=right):
                return _power(self.value(left), self.value(right))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                return _bounded(_OPERATORS[type(op)](self.value(left), self.value(right)))
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
                return self._call(name, [self.value(each) for each in arguments])
            case ast.Tuple():
                raise NotCalculable("write numbers without thousands separators: 1000, not 1,000")
            case _:
                raise NotCalculable(f"it may hold numbers, + - * / // % **, parentheses and {', '.join(_FUNCTIONS)}")

    def _number(self, node: ast.Constant) -> Fraction:
        # From the text, not from the float that Python has made of it: 0.1 is a tenth.
        text = self._source[node.col_offset : node.end_col_offset]
        if not _NUMBER.fullmatch(text):
            raise NotCalculable(f"{text[:40]!r} is not a number such as 12, 0.5 or 2e6")
        return _bounded(Fraction(text))

    def _call(self, name: str, arguments: list[Fraction]) -> Fraction:
        if name not in _FUNCTIONS:
            raise NotCalculable(f"there is no function {name[:40]!r}; there are {', '.join(_FUNCTIONS)}")
        most, function = _FUNCTIONS[name]
        if not 1 <= len(arguments) <= most:
            raise NotCalculable(f"{name} does not take {len(arguments)} numbers")
        result = _bounded(function(arguments))
        if name == "sqrt" and result * result != arguments[0]:
            self.exact = False
        return result


def _round(arguments: list[Fraction]) -> Fraction:
    digits = arguments[1] if len(arguments) == 2 else Fraction(0)
    if digits.denominator != 1 or abs(digits) > SHOWN_DIGITS:
        raise NotCalculable(f"round takes a number of decimals between -{SHOWN_DIGITS} and {SHOWN_DIGITS}")
    return Fraction(round(arguments[0], int(digits)))


def _root(arguments: list[Fraction]) -> Fraction:
    value = arguments[0]
    if value < 0:
        raise NotCalculable("there is no square root of a negative number")
    whole = Fraction(math.isqrt(value.numerator), math.isqrt(value.denominator))
    return whole if whole * whole == value else Fraction(_PRECISE.sqrt(_decimal(value)))


_OPERATORS: Mapping[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: lambda left, right: Fraction(left // right),
    ast.Mod: operator.mod,
}
_FUNCTIONS: Mapping[str, tuple[int, Callable[[list[Fraction]], Fraction]]] = {
    "abs": (1, lambda arguments: abs(arguments[0])),
    "ceil": (1, lambda arguments: Fraction(math.ceil(arguments[0]))),
    "floor": (1, lambda arguments: Fraction(math.floor(arguments[0]))),
    "max": (EXPRESSION_LIMIT, max),
    "min": (EXPRESSION_LIMIT, min),
    "round": (2, _round),
    "sqrt": (1, _root),
    "sum": (EXPRESSION_LIMIT, lambda arguments: sum(arguments, Fraction(0))),
}
"""By name: how many numbers it takes at most, and what it makes of them."""


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        raise NotCalculable("an exponent must be a whole number; there is sqrt for roots")
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if bits * abs(exponent) > 2 * BITS_LIMIT:
        raise NotCalculable("a number in it becomes too large")
    return _bounded(Fraction(base ** int(exponent)))


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > BITS_LIMIT:
        raise NotCalculable("a number in it becomes too large")
    return value


def _decimal(value: Fraction) -> Decimal:
    return _PRECISE.divide(Decimal(value.numerator), Decimal(value.denominator))


def _shown(value: Fraction, exact: bool) -> Calculated:
    if exact and value.denominator == 1:
        return Calculated(str(value.numerator), True)
    shown = _decimal(value)
    if exact and Fraction(shown) == value and len(shown.as_tuple().digits) <= SHOWN_DIGITS:
        return Calculated(format(shown.normalize(_PRECISE), "f"), True)
    rounded = Context(prec=_ROUNDED_DIGITS).plus(shown).normalize(_PRECISE)
    return Calculated(str(rounded) if abs(rounded.adjusted()) > SHOWN_DIGITS else format(rounded, "f"), False)
