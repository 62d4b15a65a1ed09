r"""Whether two parsed answers are the same mathematics; `math_answer` calls it.

Numbers are compared here, exactly or by their first digits; lists and tuples part by part, so that
their numbers are too; functions with roots also by their values. The rest is math-verify's: sets,
relations, intervals, matrices, symbolic equality. It compares numbers to 15 digits after the point,
where all tiny numbers are equal.
"""

from typing import Any

NEARLY, EXACTLY = 2e-6, 1e-35
"""Largest relative difference of equal numbers: of a decimal and another, of irrational ones."""
FLOAT_NOISE = 1e-12
"""Relative difference that a computer's arithmetic leaves: 12.000000000000002."""
MOST_MATCHED = 12
"""Parts of a set that are matched one by one where sorting them did not."""
POINTS = (0.37, 1.83, 2.71, -0.61, -1.47, 5.29)
"""Where functions are compared; each of their variables is at another one."""
FEWEST_POINTS = 2


def same(gold: Any, given: Any, tolerance: float | None) -> bool:
    """Whether an answer equals the gold answer; both are sympy's."""
    gold, given = _without_names(gold, given)
    are_equal = _same_numbers(gold, given, tolerance)
    if are_equal is None:
        are_equal = _same_parts(gold, given, tolerance)
    if are_equal is not None:
        return are_equal
    from math_verify import verify

    is_same = verify(gold, given, allow_set_relation_comp=True, timeout_seconds=None)
    return bool(is_same) or _same_functions(gold, given)


def _without_names(gold: Any, given: Any) -> tuple[Any, Any]:
    """Return the right sides where both name the same variable, or one names it alone: x = 5, 5."""
    from math_verify.grader import is_assignment_relation, is_equation, take_last_relation
    from sympy import I, Symbol

    def side(value: Any) -> Any:
        return take_last_relation(value).rhs

    if is_assignment_relation(gold) and is_assignment_relation(given):
        if str(_first(gold).lhs) == str(_first(given).lhs):
            gold, given = side(gold), side(given)
    elif is_assignment_relation(gold) and not is_equation(given):
        gold = side(gold)
    elif is_equation(given) and not is_equation(gold):
        given = side(given)
    imaginary = [s for value in (gold, given) for s in value.free_symbols if s.name == "i"]
    units: dict[Symbol, Any] = dict.fromkeys(imaginary, I)
    return (gold.subs(units), given.subs(units)) if units else (gold, given)


def _first(value: Any) -> Any:
    from math_verify.grader import take_first_relation

    return take_first_relation(value)


def _same_numbers(gold: Any, given: Any, tolerance: float | None) -> bool | None:
    """Compare two finite numbers; None where one is none.

    Decimals are exact among themselves, and a decimal may be any other number's first six digits.
    A number with a percent sign stands for itself and for its hundredth.
    """
    from sympy import Float, nsimplify

    if not (_is_number(gold) and _is_number(given)):
        return None
    values = [_percent_of(number) for number in (gold, given)]
    if sum(len(found) == 2 for found in values) == 2:
        values = [found[:1] for found in values]
    for a in values[0]:
        for b in values[1]:
            decimals = [number.has(Float) for number in (a, b)]
            exact = [nsimplify(number, rational=True).doit() for number in (a, b)]
            if tolerance is not None:
                is_same = bool(abs((exact[0] - exact[1]).evalf(30)) <= tolerance)
            elif any(decimals) != all(decimals):
                is_same = _is_rounded(*((b, exact[1], exact[0]) if decimals[1] else (a, *exact)))
            elif all(number.is_Rational for number in exact):
                is_same = bool(exact[0] == exact[1])
            else:
                is_same = _is_near(exact[0], exact[1], EXACTLY)
            if is_same:
                return True
    return False


def _is_rounded(written: Any, decimal: Any, exact: Any) -> bool:
    """Whether a decimal is another number, rounded or cut off after its last digit."""
    if not _is_near(exact, decimal, NEARLY):
        return False
    if not decimal.is_Rational or _is_near(exact, decimal, FLOAT_NOISE):
        return True
    place = 0
    while (decimal * 10**place) % 1:
        place += 1
    while not written.is_Float and decimal and not decimal % 10 ** (1 - place):
        place -= 1  # the zeros of 2.99792e8 are not written
    return bool(abs(exact - decimal) * 10**place < 1)


def _is_near(gold: Any, given: Any, relative: float) -> bool:
    size = abs(gold.evalf(30))
    difference = (gold - given).evalf(30)
    if size == 0:
        return bool((gold - given).equals(0))
    return bool(abs(difference) <= relative * size)


def _is_number(value: Any) -> bool:
    from sympy import Expr

    return isinstance(value, Expr) and bool(value.is_number) and value.is_finite is not False


def _percent_of(number: Any) -> list[Any]:
    """Return a number's values: one, or of 50% 50 and a half."""
    from math_verify.grader import get_pct_val

    whole = get_pct_val(number)
    return [number] if whole is None else [whole, whole / 100]


def _same_parts(gold: Any, given: Any, tolerance: float | None) -> bool | None:
    """Compare lists, tuples and intervals part by part; None where they are not of one kind."""
    from sympy import FiniteSet, Interval, Tuple

    if isinstance(gold, Interval) and isinstance(given, Interval):
        ends = (gold.left_open, gold.right_open) == (given.left_open, given.right_open)
        return ends and all(
            same(a, b, tolerance) for a, b in ((gold.start, given.start), (gold.end, given.end))
        )
    if isinstance(gold, Tuple) and isinstance(given, Tuple):
        return len(gold) == len(given) and all(
            same(a, b, tolerance) for a, b in zip(gold, given, strict=True)
        )
    if not (isinstance(gold, FiniteSet) and isinstance(given, FiniteSet)):
        return None
    if len(gold) != len(given):
        return False
    golds, givens = list(gold.args), list(given.args)
    if all(same(a, b, tolerance) for a, b in zip(golds, givens, strict=True)):
        return True
    if len(golds) > MOST_MATCHED:
        return None
    for part in golds:
        match = next((other for other in givens if same(part, other, tolerance)), None)
        if match is None:
            return False
        givens.remove(match)
    return True


def _same_functions(gold: Any, given: Any) -> bool:
    r"""Compare expressions of the same variables by value; \sqrt{1/n} and 1/\sqrt{n}.

    Points where a value is not real do not count, so each must be real, or not, where the other is.
    """
    from sympy import Expr, Integral, Limit, Product, Sum

    if not (isinstance(gold, Expr) and isinstance(given, Expr)):
        return False
    symbols = sorted(gold.free_symbols, key=str)
    if not symbols or {str(s) for s in symbols} != {str(s) for s in given.free_symbols}:
        return False
    if gold.has(Sum, Product, Integral, Limit) or given.has(Sum, Product, Integral, Limit):
        return False
    num_real = 0
    for shift in range(len(POINTS)):
        at = {str(s): POINTS[(shift + i) % len(POINTS)] for i, s in enumerate(symbols)}
        values = [
            value.subs({s: at[str(s)] for s in value.free_symbols}).doit().evalf(20)
            for value in (gold, given)
        ]
        are_real = [bool(value.is_Float or value.is_Integer) for value in values]
        if are_real[0] != are_real[1]:
            return False
        if not are_real[0]:
            continue
        num_real += 1
        if abs(values[0] - values[1]) > 1e-12 * max(1e-300, abs(values[0])):
            return False
    return num_real >= FEWEST_POINTS
