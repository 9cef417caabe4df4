"""The bound on the distance between the two linears: never exceeded, never idle, and with the roundings that its derivation counts."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import DenseLinear
from refquant.core import Grid, QTensor, decode, fit_grid, spec
from refquant.errors import UsageError
from refquant.methods.compensate.gptq import gptq
from refquant.methods.grid.rtn import rtn
from refquant.methods.kernels.integer_bound import difference_bound, gamma
from refquant.methods.kernels.integer_linear import activation_codes, integer_linear
from refquant.methods.kernels.integer_weight import prepare_weight

DTYPES = [np.dtype(np.float32), np.dtype(np.float64)]


def both(x, q, how, bias=None, static=None):
    """Both linears in the dtype of `x`, and the bound."""
    codes, grid = activation_codes(x, how, static)
    prepared = prepare_weight(q, how, x.dtype)
    fake = DenseLinear(q.dequantize(x.dtype), bias)(decode(codes, grid, how, x.dtype))
    return integer_linear(codes, grid, prepared, bias), fake, difference_bound(codes, grid, prepared, bias)


def distance(a, b):
    """Exactly: float64 would round what separates two of its own."""
    flat = [abs(Fraction(float(p)) - Fraction(float(q))) for p, q in zip(a.ravel(), b.ravel(), strict=True)]
    return np.array(flat, dtype=object).reshape(a.shape)


@settings(max_examples=150)
@given(
    seed=st.integers(0, 2**32),
    dtype=st.sampled_from(DTYPES),
    columns=st.integers(1, 70),
    bits=st.sampled_from([1, 2, 4, 8]),
    a_bits=st.sampled_from([2, 4, 8]),
    group=st.sampled_from([-1, 1, 5, 16]),
    features=st.sampled_from([-1, 3, 16]),
    schemes=st.tuples(st.sampled_from(["asym_incl0", "sym_gptq", "asym_omni"]), st.sampled_from(["asym_incl0", "asym_omni", "sym_gptq"])),
    positive=st.booleans(),
    power=st.integers(-160, 30),
    has_bias=st.booleans(),
)
def test_the_bound_holds(seed, dtype, columns, bits, a_bits, group, features, schemes, positive, power, has_bias):
    """[INT-6] Any sizes of numbers, down to where every product underflows, and sums that cancel or do not."""
    rng = np.random.default_rng(seed)
    w, x = rng.standard_t(3, (4, columns)), rng.standard_t(3, (3, columns))
    if positive:
        w, x = np.abs(w), np.abs(x)
    shift = 7 if dtype == np.float64 and power < 0 else 1
    # A step of subnormal numbers gives scales that float32 still holds: powers stay above 2^-149 for each operand.
    x = (x * 2.0 ** max(power * shift, -1060 if dtype == np.float64 else -140)).astype(dtype)
    w = w * 2.0 ** (rng.integers(-20, 20) if dtype == np.float32 else rng.integers(-60, 60))
    q = rtn(w.astype(dtype), spec(f"int{bits}", scheme=schemes[0], group_size=group))
    bias = (rng.standard_normal(4) * np.abs(x).max() * np.abs(w).max()).astype(dtype) if has_bias else None
    integer, fake, bound = both(x, q, spec(f"int{a_bits}", scheme=schemes[1], group_size=features), bias)
    assert (distance(integer, fake) <= [[Fraction(b) for b in row] for row in bound.tolist()]).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("columns", [8, 64, 512])
def test_the_bound_is_not_idle(columns, dtype):
    """The worst of many sums comes within a thousandth of it: errors add like steps of a random walk, the bound adds them all up."""
    rng = np.random.default_rng(columns)
    q = rtn(np.abs(rng.standard_normal((64, columns))).astype(dtype), spec("int4", group_size=32))
    integer, fake, bound = both(np.abs(rng.standard_normal((64, columns))).astype(dtype), q, spec("int8"))
    ratio = np.abs(integer.astype(np.float64) - fake.astype(np.float64)) / bound
    assert 1e-3 < ratio.max() <= 1


def test_the_roundings_that_are_counted_can_happen():
    """One column, nothing exact: of 4 + 3 + 1 + ... possible roundings a search finds inputs that use a fifth of the bound."""
    rng, best = np.random.default_rng(0), 0.0
    for _ in range(30):
        q = rtn(rng.standard_normal((64, 1)).astype(np.float32), spec("int4", scheme="sym_full", scale_format="float32"))
        integer, fake, bound = both(rng.standard_normal((64, 1)).astype(np.float32), q, spec("int8", scheme="sym_full"))
        best = max(best, (np.abs(integer.astype(float) - fake) / bound).max())
    assert 0.2 < best <= 1


def test_underflow_is_in_the_bound():
    """Products of 2^-150 vanish in one of them, and add up in the other; the relative part of the bound is next to nothing."""
    x = np.full((1, 64), 2.0**-75, np.float32)
    q = QTensor(
        codes=np.full((1, 64), 1, np.int8),
        scale=np.full((1, 1), 2.0**-76, np.float32),
        zero=None,
        spec=spec("int2", scheme="sym_full"),
    )
    how = spec("int2", scheme="sym_full", granularity="tensor")
    static = Grid(scale=np.full((1, 1), 2.0**-75, np.float32), zero=None)
    integer, fake, bound = both(x, q, how, static=static)
    assert integer.item() == 64 * 2.0**-151
    assert fake.item() == 0
    assert integer.item() <= bound.item() < 64 * 2.0**-146


def test_the_definition_by_fractions():
    """[INT-6] gamma_(n+3) + gamma_(G+H+2) on the sum of magnitudes, with groups of features across groups of an activation order."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal((30, 13))
    x[:, :4] *= 10  # quantized first, in one group
    q = gptq(rng.standard_normal((3, 13)), x.T @ x, spec("int4", group_size=5), act_order=True)
    how, x, bias = spec("int8", group_size=4), x[:2].astype(np.float32), rng.standard_normal(3).astype(np.float32)
    codes, grid = activation_codes(x, how)
    found = difference_bound(codes, grid, prepare_weight(q, how, x.dtype), bias)
    unit = Fraction(1, 2**24)

    def g(m):
        return m * unit / (1 - m * unit)

    place = {column: i // 5 for i, column in enumerate(q.permutation.tolist())}
    counts = [len({place[k] for k in range(13) if k // 4 == h}) for h in range(4)]
    most = max(counts)
    assert counts[0] < most  # otherwise the case says little
    for t in range(2):
        for o in range(3):
            total = Fraction(0)
            for k in range(13):
                x_k = Fraction(float(grid.scale[t, k // 4])) * (int(codes[t, k]) - int(grid.zero[t, k // 4]))
                s_w = Fraction(float(np.float32(q.scale[o, place[k]])))
                total += abs(x_k * s_w * (int(q.codes[o, k]) - int(q.zero[o, place[k]])))
            expected = (g(13 + 3) + g(most + 4 + 2)) * (total + abs(Fraction(float(bias[o]))))
            assert expected <= Fraction(float(found[t, o])) <= expected * (1 + Fraction(1, 2**19))


def test_static_grids_and_permutations_keep_the_bound():
    rng = np.random.default_rng(6)
    x = rng.standard_normal((50, 40))
    q = gptq(rng.standard_normal((7, 40)), x.T @ x, spec("int4", group_size=8, scale_format="float16"), act_order=True)
    how = spec("int8", granularity="tensor")
    x = x.astype(np.float32)
    integer, fake, bound = both(x, q, how, static=fit_grid(x[:10], how))
    assert (integer != fake).any()
    assert (np.abs(integer.astype(float) - fake) <= bound).all()


def test_gamma():
    assert Fraction(gamma(3, np.dtype(np.float32))) == pytest.approx(Fraction(3, 2**24 - 3), rel=1e-15)
    assert gamma(2**23, np.dtype(np.float32)) == 1
    with pytest.raises(UsageError, match="8388609 roundings in float32 have no bound; at most 8388608 have"):
        gamma(2**23 + 1, np.dtype(np.float32))
