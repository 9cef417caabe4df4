"""What the elementary functions are made of: every table entry and coefficient is the number it is said to be, and no operation but
correctly rounded ones is used."""

from __future__ import annotations

import ast
from fractions import Fraction
from pathlib import Path

import mpmath
import numpy as np
import pytest

from refquant.numerics import elementary
from refquant.numerics.arrays import Float64Array
from refquant.numerics.elementary import error_function, exponential, logarithm, series, trigonometric
from refquant.numerics.elementary.compensated import fast_two_sum, halves, two_product, two_sum

CONTEXT = mpmath.mp.clone()
CONTEXT.prec = 300
mpf = CONTEXT.mpf
PACKAGE = Path(elementary.__file__).parent


def assert_pairs(high: Float64Array, low: Float64Array, true: list[mpmath.mpf]) -> None:
    """`high` is the nearest float64 number, and `low` the nearest to what is missing."""
    for h, rest, value in zip(high, low, true, strict=True):
        assert h == float(value)
        assert rest == float(value - mpf(float(h)))


def bits(value: float) -> int:
    """How many significant bits a number has."""
    numerator = abs(Fraction(float(value)).numerator)
    return (numerator // (numerator & -numerator)).bit_length() if numerator else 0


def test_constants_are_right_to_the_last_of_many_bits() -> None:
    with CONTEXT.workprec(1500):
        for made, true in (
            (series.pi(1300), CONTEXT.pi),
            (series.log(Fraction(2), 1300), CONTEXT.log(2)),
            (series.log(Fraction(5, 7), 1300), CONTEXT.log(mpf(5) / 7)),
            (series.atan(Fraction(1, 3), 1300), CONTEXT.atan(mpf(1) / 3)),
            (series.root_of_two(13, 6, 1300), CONTEXT.power(2, mpf(13) / 64)),
            (series.exp_negative(Fraction(9, 4), 1300), CONTEXT.exp(mpf(-9) / 4)),
        ):
            assert abs(made - true * mpf(2) ** 1300) <= 2


def test_roots_of_two() -> None:
    assert_pairs(exponential.ROOTS_HIGH, exponential.ROOTS_LOW, [CONTEXT.power(2, mpf(j) / 64) for j in range(64)])


def test_steps_of_exp() -> None:
    step = CONTEXT.log(2) / 64
    assert float(1 / step) == exponential.STEPS_PER_UNIT
    assert bits(exponential.STEP_HIGH) <= 34
    assert abs(exponential.STEP_HIGH / step - 1) < mpf(2) ** -33
    assert float(step - exponential.STEP_HIGH) == exponential.STEP_LOW


def test_logarithms_of_reciprocals() -> None:
    c = logarithm.RECIPROCALS
    assert_pairs(logarithm.LOGS_HIGH, logarithm.LOGS_LOW, [-CONTEXT.log(mpf(float(v))) for v in c])
    assert max(bits(v) for v in c) <= 19
    # Every mantissa falls between two entries that reduce it to less than 0.0028, and next to 1 the entry is 1.
    index = np.arange(logarithm.FIRST, logarithm.LAST + 1)
    ends = (index[:, None] + np.array([-0.5, 0.5])) / logarithm.PLACES
    assert np.abs(ends * c[:, None] - 1).max() < 0.0028
    assert c[index == logarithm.PLACES] == 1
    assert index[0] <= np.rint(256 * 2**-0.5)
    assert index[-1] >= np.rint(256 * 2**0.5)
    log2 = CONTEXT.log(2)
    assert bits(logarithm.LOG2_HIGH) <= 42
    assert float(log2 - mpf(logarithm.LOG2_HIGH)) == logarithm.LOG2_LOW


def test_parts_of_half_pi() -> None:
    rest = CONTEXT.pi / 2
    for part in trigonometric.PARTS[:3]:
        assert bits(part) <= 33
        assert 0 <= rest - mpf(part) < rest * mpf(2) ** -32
        rest -= mpf(part)
    assert trigonometric.PARTS[3] == float(rest)
    assert float(2 / CONTEXT.pi) == trigonometric.QUADRANTS_PER_UNIT


def taylor(function: object, at: mpmath.mpf, degree: int) -> list[float]:
    return [float(c) for c in CONTEXT.taylor(function, at, degree)]


def test_coefficients_are_taylors() -> None:
    assert list(exponential.TAYLOR) == taylor(CONTEXT.exp, 0, 6)[:1:-1]
    assert list(logarithm.TAYLOR) == taylor(CONTEXT.log, 1, 9)[:2:-1]
    assert list(trigonometric.SINE_TAYLOR) == taylor(CONTEXT.sin, 0, 17)[17:3:-2]
    assert list(trigonometric.COSINE_TAYLOR) == taylor(CONTEXT.cos, 0, 18)[18:2:-2]
    unity = [2 / CONTEXT.sqrt(CONTEXT.pi) * (-1) ** k / (CONTEXT.factorial(k) * (2 * k + 1)) - mpf(9) / 8 * (k == 0) for k in range(11)]
    assert list(error_function.MACLAURIN) == [float(c) for c in unity[::-1]]


@pytest.mark.parametrize("j", [8, 9, 16, 32, 45, 100, 160, 192])
def test_rows_of_erf(j: int) -> None:
    value, low, *coefficients = (float(column[j - error_function.FIRST]) for column in error_function.columns())
    c = mpf(j) / 32
    assert_pairs(np.array([value]), np.array([low]), [CONTEXT.erf(c)])
    # Derivatives by Hermite polynomials: an independent way to the same numbers.
    slope = 2 / CONTEXT.sqrt(CONTEXT.pi) * CONTEXT.exp(-c * c)
    true = [slope * (-1) ** n * CONTEXT.hermite(n, c) / CONTEXT.factorial(n + 1) for n in range(error_function.DEGREE)]
    assert coefficients == [float(t) for t in true]
    assert len(error_function.columns()[0]) == 192 - 8 + 1


def test_sums_and_products_lose_nothing() -> None:
    rng = np.random.default_rng(40)
    a, b = (np.ldexp(rng.uniform(-1, 1, 500), rng.integers(-40, 40, 500)) for _ in range(2))
    upper, lower = halves(a)
    total, error = two_sum(a, b)
    larger, smaller = np.where(np.abs(a) > np.abs(b), (a, b), (b, a))
    quick = fast_two_sum(larger, smaller)
    product, missing = two_product(a, b)
    exact = [Fraction(float(v)) for v in a], [Fraction(float(v)) for v in b]
    for i, (x, y) in enumerate(zip(*exact, strict=True)):
        assert Fraction(float(total[i])) + Fraction(float(error[i])) == x + y
        assert Fraction(float(quick[0][i])) + Fraction(float(quick[1][i])) == x + y
        assert Fraction(float(upper[i])) + Fraction(float(lower[i])) == x
        assert bits(upper[i]) <= 26
        assert bits(lower[i]) <= 27
        assert product[i] == float(x * y)
        assert abs(Fraction(float(product[i])) + Fraction(float(missing[i])) - x * y) <= abs(x * y) / 2**105


# Correctly rounded, exact, or no arithmetic at all.
NUMPY = frozenset(
    "abs maximum minimum rint where copysign copyto signbit isnan isinf flatnonzero "
    "array asarray empty broadcast_to broadcast_shapes result_type errstate "
    "float32 float64 int64 dtype ndarray generic inf nan".split()
)
MATH = frozenset("factorial isqrt isfinite nan".split())  # of Python integers
METHODS = frozenset("view astype reshape any all append as_integer_ratio bit_length".split())


def forbidden(tree: ast.AST) -> list[str]:
    """Uses of anything that could be rounded differently elsewhere."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("np", "math"):
            if node.attr not in (NUMPY if node.value.id == "np" else MATH):
                found.append(f"{node.value.id}.{node.attr}")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value
            if not (isinstance(owner, ast.Name) and owner.id in ("np", "math", "series")) and node.func.attr not in METHODS:
                found.append(f".{node.func.attr}()")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("pow", "sum", "round"):
            found.append(node.func.id)
        elif isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.MatMult | ast.Mod):
            found.append(ast.unparse(node))
        elif isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Pow):
            if not (isinstance(node, ast.BinOp) and ast.unparse(node.left) in ("2", "-1")):  # Python integers
                found.append(ast.unparse(node))
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name not in ("numpy", "math")]
        elif isinstance(node, ast.ImportFrom):
            allowed = ("fractions", "functools", "typing", "collections.abc", "__future__", "refquant.")
            found += [node.module or "."] if not (node.module or "").startswith(allowed) else []
    return found


def test_only_correctly_rounded_operations_are_used() -> None:
    files = sorted(PACKAGE.glob("*.py"))
    assert len(files) == 9
    assert {f"{p.name}: {what}" for p in files for what in forbidden(ast.parse(p.read_text(encoding="utf-8")))} == set()


@pytest.mark.parametrize(
    "text",
    [
        "np.exp(x)",
        "np.ldexp(x, 2)",
        "f = np.floor_divide",
        "math.exp(1.0)",
        "x @ y",
        "x**2",
        "2.0**k",
        "x %= 2",
        "x.sum()",
        "x.dot(y)",
        "pow = np.power",
        "pow(x, 2)",
        "import scipy.special",
        "import cmath",
        "from math import exp as e",
        "from numpy import dot",
        "np.einsum('i,i', x, x)",
        "x **= 2",
    ],
)
def test_planted_operations_are_found(text: str) -> None:
    assert forbidden(ast.parse(text))
