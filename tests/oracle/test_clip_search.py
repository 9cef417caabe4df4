"""The search against a 50-digit search, on ties, and on groups whose answer is plain to see."""

from fractions import Fraction

import mpmath
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refquant.errors import NumericalError, UsageError
from refquant.oracle import BINARY32, SCHEMES, Uniform, quantize_row, search_clip
from refquant.oracle import clip_search as module
from refquant.oracle.clip_search import power_from_below

F = Fraction


@settings(max_examples=15, deadline=None)
@given(
    numbers=st.lists(st.integers(-30, 30), min_size=1, max_size=6),
    scheme=st.sampled_from(SCHEMES),
    bits=st.integers(2, 4),
    rounded=st.sampled_from([BINARY32, lambda x: x]),
)
def test_against_fifty_digits(numbers, scheme, bits, rounded):
    values = [F(n, 8) for n in numbers]
    quantizer = Uniform(scheme, bits, rounded)
    found = search_clip(values, quantizer)
    with mpmath.workdps(50):
        best = None
        for step in range(80):
            grid = quantizer.fit(values, 1 - step / 100)
            errors = [quantizer.decode(quantizer.encode(x, grid), grid) - x for x in values]
            total = mpmath.fsum((mpmath.mpf(abs(e.numerator)) / e.denominator) ** mpmath.mpf("2.4") for e in errors)
            if best is None or total < best[0] * (1 - mpmath.mpf(10) ** -45):
                best = (total, step, grid)
        assert mpmath.almosteq(mpmath.mpf(found.errors[best[1]].numerator) / found.errors[best[1]].denominator, best[0], 1e-12, 1e-30)
    assert (found.index, found.grid) == (best[1], best[2])
    assert found.shrink == 1 - found.index / 100


def test_the_first_of_equal_errors_wins():
    """One number of one sign, exactly on the grid at p = 1: no step can be better than error 0."""
    found = search_clip([F(3)], Uniform("asym_incl0", 2))
    assert (found.index, found.errors[0], found.margin) == (0, 0, None)


def test_equal_terms_in_another_order_are_a_tie():
    """Mirror images: the same errors on the other side of zero."""
    values = [F(n, 7) for n in (5, 3, -1, 2)]
    mirrored = [-x for x in values]
    assert search_clip(values, Uniform("sym_narrow", 3)).index == search_clip(mirrored, Uniform("sym_narrow", 3)).index


def test_an_outlier_is_clipped():
    values = [F(n, 4) for n in (-3, -2, -1, 1, 2, 3) * 8] + [F(3, 2)]
    found = search_clip(values, Uniform("sym_narrow", 3))
    assert 0 < found.index < 50  # at p = 1/2 all but the outlier would be coded exactly
    assert F(1, 4) < found.grid.scale < quantize_row(values, Uniform("sym_narrow", 3)).grids[0].scale == F(1, 2)
    assert found.errors[found.index] == min(found.errors) < found.errors[50] < found.errors[0]
    assert found.margin > 0


def test_one_step_is_plain_minmax():
    values = [F(1), F(-3), F(1, 3)]
    found = search_clip(values, Uniform("sym_full", 3), steps=1)
    assert found.grid == Uniform("sym_full", 3).fit(values)


def test_the_factor_is_a_binary64_number_rounded_to_the_working_format():
    """And the shrunken end is rounded before it is divided: on some ranges that shows in the scale."""
    quantizer = Uniform("sym_narrow", 8, BINARY32)
    shown = 0
    for n in range(100, 160):
        shrunken = F(n) * BINARY32(F(0.99))
        scale = quantizer.fit([F(n)], 1 - 1 / 100).scale
        assert scale == BINARY32(BINARY32(shrunken) / 127)
        shown += scale != BINARY32(shrunken / 127)
    assert shown


@given(x=st.fractions(0, 100), bits=st.integers(4, 200))
def test_power_from_below(x, bits):
    found = power_from_below(x, F(12, 5), bits)
    # found <= x^(12/5) < found (1 + 2^-bits), compared as fifth powers: all exact
    assert found**5 <= x**12
    if x:
        assert (found * (1 + F(1, 2**bits))) ** 5 > x**12


def test_undecided_is_told(monkeypatch):
    monkeypatch.setattr(module, "MOST_BITS", 64)
    root = power_from_below(F(2), F(5, 12), 400)  # its 12/5-th power is 2 to 400 bits
    assert module._is_less([F(1), F(1)], [F(3)], F(12, 5))
    with pytest.raises(NumericalError, match="agree to 64 bits"):
        module._is_less([F(1), F(1)], [root], F(12, 5))
    monkeypatch.setattr(module, "MOST_BITS", 2048)
    assert module._is_less([root], [F(1), F(1)], F(12, 5))
    assert not module._is_less([F(1), F(1)], [root], F(12, 5))
    assert not module._is_less([F(1)], [F(1)], F(12, 5))


@pytest.mark.parametrize(("steps", "divisions", "power"), [(0, 100, 2), (101, 100, 2), (80, 100, 0)])
def test_misuse(steps, divisions, power):
    with pytest.raises(UsageError, match="are needed"):
        search_clip([F(1)], Uniform("sym_full", 4), steps, divisions, F(power))
