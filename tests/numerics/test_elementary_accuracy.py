"""Elementary functions against mpmath: the error in units of the last place stays below the bound that each docstring states."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import scipy.special

from refquant.numerics.arrays import Array
from refquant.numerics.elementary import cos, erf, exp, log, power, sin
from refquant.numerics.elementary.logarithm import log_as_pair

PRECISION = 140
CONTEXT = mpmath.mp.clone()
CONTEXT.prec = PRECISION
mpf = CONTEXT.mpf


def units(result: Array, true: list[mpmath.mpf]) -> np.ndarray:
    """Error of each finite result in units of the last place of the true value, down to the spacing of subnormal numbers."""
    lowest, digits = (-1074, 53) if result.dtype == np.float64 else (-149, 24)
    errors = []
    for got, want in zip(result.astype(np.float64), true, strict=True):
        exponent = int(CONTEXT.frexp(want)[1]) if want else -5000
        errors.append(float(abs(mpf(float(got)) - want) * mpf(2) ** -max(exponent - digits, lowest)))
    return np.array(errors)


def spread(rng: np.random.Generator, low: float, high: float, n: int) -> Array:
    """Numbers of either sign whose magnitudes are ``2**low`` to ``2**high``, evenly over the exponents."""
    whole = rng.uniform(low, high, n)
    return np.ldexp(rng.uniform(1, 2, n) * rng.choice([-1, 1], n), np.floor(whole).astype(int))


def exp_arguments(rng: np.random.Generator, n: int) -> Array:
    steps = rng.integers(-1000 * 64, 1000 * 64, n) * (np.log(2) / 64)
    edges = np.nextafter(steps + np.log(2) / 128, rng.choice([-1e9, 1e9], n))
    x = np.concatenate([rng.uniform(-708, 709.7, 3 * n), spread(rng, -60, 0, n), steps, edges])
    return x[(x > -708.3) & (x < 709.78)]


def log_arguments(rng: np.random.Generator, n: int) -> Array:
    near_one = 1 + spread(rng, -52, -2, n)
    breaks = (rng.integers(181, 363, n) + 0.5) / 256
    subnormal = rng.integers(1, 2**52, n).view(np.float64)
    return np.concatenate([np.abs(spread(rng, -1022, 1023, n)), rng.uniform(0.5, 2, 2 * n), near_one, breaks, subnormal])


def angles(rng: np.random.Generator, n: int) -> Array:
    multiples = rng.integers(-667_000, 667_000, 2 * n) * (np.pi / 2)
    near = multiples[:n] + spread(rng, -30, 0, n)
    return np.concatenate([rng.uniform(-4, 4, n), rng.uniform(-(2**20), 2**20, n), spread(rng, -1022, 1023, n), multiples, near])


def erf_arguments(rng: np.random.Generator, n: int) -> Array:
    breaks = (rng.integers(8, 192, n) + 0.5) / 32
    return np.concatenate([rng.uniform(-6.5, 6.5, 2 * n), spread(rng, -1000, 0, n), rng.uniform(0.2, 0.3, n), breaks])


CASES: dict[str, tuple[Callable[[Array], Array], Callable[..., mpmath.mpf], Callable[..., Array], float]] = {
    "exp": (exp, CONTEXT.exp, exp_arguments, 0.53),
    "log": (log, CONTEXT.log, log_arguments, 0.501),
    "sin": (sin, CONTEXT.sin, angles, 0.7),
    "cos": (cos, CONTEXT.cos, angles, 0.7),
    "erf": (erf, CONTEXT.erf, erf_arguments, 0.6),
}
SIZES = [pytest.param(700, id="few"), pytest.param(50_000, id="many", marks=pytest.mark.slow)]


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("name", CASES)
def test_float64_is_within_the_stated_bound(name: str, n: int) -> None:
    function, true, arguments, bound = CASES[name]
    x = arguments(np.random.default_rng(20), n)
    error = units(function(x), [true(mpf(float(v))) for v in x])
    assert error.max() <= bound, f"{error.max()} ulp at {x[error.argmax()].hex()}"


@pytest.mark.parametrize("n", SIZES)
def test_float64_powers_are_within_the_stated_bound(n: int) -> None:
    rng = np.random.default_rng(21)
    x = np.concatenate([np.abs(spread(rng, -1022, 1023, n)), rng.uniform(0.5, 2, n), np.abs(1 + spread(rng, -50, -3, n))])
    y = rng.uniform(-707, 707, x.size) / np.log(x)
    error = units(power(x, y), [CONTEXT.power(mpf(float(a)), mpf(float(b))) for a, b in zip(x, y, strict=True)])
    worst = error.argmax()
    assert error.max() <= 0.6, f"{error.max()} ulp at {x[worst].hex()} to the power {y[worst].hex()}"


def test_subnormal_results_are_within_the_stated_bound() -> None:
    rng = np.random.default_rng(22)
    x = rng.uniform(-745.2, -708, 2000)
    assert units(exp(x), [CONTEXT.exp(mpf(float(v))) for v in x]).max() <= 0.8
    y = rng.uniform(-1074, -1022, 2000)
    assert units(power(np.full(2000, 2.0), y), [CONTEXT.power(2, mpf(float(v))) for v in y]).max() <= 0.8
    tiny = np.concatenate([rng.integers(1, 2**53, 2000).view(np.float64), np.arange(1, 200).view(np.float64)])
    assert units(erf(tiny), [CONTEXT.erf(mpf(float(v))) for v in tiny]).max() <= 1
    for function in (sin, np.negative):  # the second one shows that the first comparison could fail
        assert (function(tiny).tobytes() == tiny.tobytes()) == (function is sin)


def test_logarithms_as_pairs_carry_thirteen_more_bits() -> None:
    x = log_arguments(np.random.default_rng(23), 300)
    x = x[x != 1]
    with np.errstate(over="ignore"):
        pairs = zip(*log_as_pair(x), x, strict=True)
    assert max(abs((mpf(float(a)) + mpf(float(b))) / CONTEXT.log(mpf(float(v))) - 1) for a, b, v in pairs) < mpf(2) ** -66


def test_angles_are_reduced_exactly_however_large() -> None:
    # The float64 number nearest to a multiple of pi/2, relatively: 61 bits cancel.
    hard = np.array([6381956970095103.0 * 2.0**797, np.finfo(np.float64).max, 2.0**1023, 1e22, 2.0**20 + 2.0**-32, -(2.0**53) - 2])
    with CONTEXT.workprec(1400):
        sines, cosines = ([f(mpf(float(v))) for v in hard] for f in (CONTEXT.sin, CONTEXT.cos))
    assert abs(cosines[0]) < 1e-18
    assert units(sin(hard), sines).max() <= 0.7
    assert units(cos(hard), cosines).max() <= 0.7


def test_angles_next_to_multiples_of_half_pi_keep_all_their_bits() -> None:
    # For a spacing 2**e, the mantissa m that brings m 2**e nearest to a multiple of pi/2 is the denominator of a best fraction.
    with CONTEXT.workprec(2500):
        inverse = 2 / CONTEXT.pi
        turns = [Fraction(int(inverse * mpf(2) ** (2400 + e)), 2**2400) for e in range(-52, 971, 11)]
        mantissas = [t.limit_denominator(2**53 - 1).denominator for t in turns]
        hard = np.ldexp(np.array(mantissas, dtype=np.float64), np.arange(-52, 971, 11))
        sines, cosines = ([f(mpf(float(v))) for v in hard] for f in (CONTEXT.sin, CONTEXT.cos))
    assert min(abs(s) for s in sines + cosines) < mpf(2) ** -55
    assert units(sin(hard), sines).max() <= 0.7
    assert units(cos(hard), cosines).max() <= 0.7


def float32_numbers(low: float, high: float) -> Array:
    """A million from `low` to `high`, and of every exponent both ends, the middle and their neighbours, for either sign."""
    mantissas = np.array([0, 1, 2, 0x3504F3, 0x3504F4, 0x3FFFFF, 0x400000, 0x400001, 0x7FFFFE, 0x7FFFFF], dtype=np.uint32)
    signs_and_exponents = np.arange(512, dtype=np.uint32) << 23
    edges = (signs_and_exponents[:, None] | mantissas).reshape(-1).view(np.float32)
    return np.concatenate([np.random.default_rng(24).uniform(low, high, 1_000_000).astype(np.float32), edges])


@pytest.mark.parametrize(
    ("function", "true", "low", "high"),
    [
        (exp, np.exp, -104, 89),
        (log, np.log, 0, 4),
        (sin, np.sin, -(2**17), 2**17),
        (cos, np.cos, -(2**17), 2**17),
        (erf, scipy.special.erf, -4, 4),
        (lambda x: power(x, 2.4), lambda x: np.power(x, float(np.float32(2.4))), 0, 10),
        (lambda x: power(x, -1.5), lambda x: np.power(x, -1.5), 0, 10),
    ],
    ids=["exp", "log", "sin", "cos", "erf", "power 2.4", "power -1.5"],
)
def test_float32_is_the_float64_result_of_others_rounded(
    function: Callable[[Array], Array], true: Callable[[Array], Array], low: float, high: float
) -> None:
    x = float32_numbers(low, high)
    with np.errstate(all="ignore"):
        want = np.asarray(true(x.astype(np.float64)))
        rounded = want.astype(np.float32)
    got = function(x)
    assert np.array_equal(np.isfinite(got), np.isfinite(rounded))
    finite = np.isfinite(rounded)
    assert np.array_equal(got[~finite], rounded[~finite], equal_nan=True)
    got, want = got[finite].astype(np.float64), want[finite]
    unit = np.spacing(np.maximum(np.abs(want), np.finfo(np.float32).smallest_normal).astype(np.float32)).astype(np.float64)
    assert (np.abs(got - want) / unit).max() <= 0.50001  # theirs is a few units off in the last place of float64


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("function", [exp, log])
def test_neighbours_keep_their_order(function: Callable[[Array], Array], dtype: type) -> None:
    rng = np.random.default_rng(25)
    steps = rng.integers(1, 50_000, 50_000) / 64
    x = np.concatenate([rng.uniform(0.5, 80, 200_000), 1 + spread(rng, -20, -2, 100_000), steps]).astype(dtype)
    following = np.nextafter(x, dtype(np.inf))
    assert np.all(function(following) >= function(x))
