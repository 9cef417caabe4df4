"""The integer linear against its equations in Python's integers and fractions, each float operation rounded by the oracle's IEEE 754."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import numpy as np
import pytest

import refquant as rq
from refquant.core import Grid, QTensor, Tiling, encode, find_scheme, fit_grid, spec
from refquant.errors import InputError, NumericalError, UsageError
from refquant.methods.compensate.gptq import gptq
from refquant.methods.grid.rtn import rtn
from refquant.methods.kernels.integer_linear import activation_codes, integer_linear
from refquant.methods.kernels.integer_weight import prepare_weight
from refquant.numerics.arithmetic import FastArithmetic
from refquant.oracle.ieee import BINARY32, BINARY64

F32, F64 = np.dtype(np.float32), np.dtype(np.float64)
ROUNDED = {F32: BINARY32, F64: BINARY64}
UNIT = {"sym_full": "unit_scale"}


def exact(value):
    return Fraction(float(value))


def weight_groups(q):
    """Group of every column: a run of the order in which columns were quantized."""
    size, count = q.spec.tiling.extents[1], q.shape[1]
    order = list(range(count)) if q.permutation is None else q.permutation.tolist()
    return [0 if size is None else order.index(column) // size for column in range(count)]


def tile(array, spec, row, group):
    """A grid's number for a row, whatever the tiling shares along rows."""
    extent = spec.tiling.extents[0]
    return array[0 if extent is None else row // extent, group]


def by_hand(codes, grid, q, how, bias, dtype):
    """[INT-1] to [INT-5], one output after the other: segments by sets of columns, sums by Python's integers."""
    rounded, groups = ROUNDED[dtype], weight_groups(q)
    size = how.tiling.extents[1]
    features = [0 if size is None else column // size for column in range(q.shape[1])]
    y = np.zeros((len(codes), q.shape[0]), dtype=dtype)
    for t in range(len(codes)):
        row = 0 if len(grid.scale) == 1 else t
        for o in range(q.shape[0]):
            total = Fraction(0)
            for h in sorted(set(features)):
                inner = Fraction(0)
                for g in sorted({g for g, f in zip(groups, features, strict=True) if f == h}):
                    columns = [k for k in range(q.shape[1]) if (groups[k], features[k]) == (g, h)]
                    z_a = 0 if grid.zero is None else int(grid.zero[row, h])
                    z_w = 0 if q.zero is None else int(tile(q.zero, q.spec, o, g))
                    assert abs(sum(int(codes[t, k]) * int(q.codes[o, k]) for k in columns)) <= 2**31 - 1  # [INT-1]
                    d = sum((int(codes[t, k]) - z_a) * (int(q.codes[o, k]) - z_w) for k in columns)  # [INT-2] before it is multiplied out
                    s_w = rounded(exact(tile(q.scale, q.spec, o, g)))
                    inner = rounded(inner + rounded(s_w * rounded(Fraction(d))))  # [INT-3]
                total = rounded(total + rounded(rounded(exact(grid.scale[row, h])) * inner))  # [INT-4]
            y[t, o] = float(total if bias is None else rounded(total + exact(bias[o])))  # [INT-5]
    return y


def weight_of(scheme, bits, rng, out=5, columns=13, act_order=False, **how):
    weight = rng.standard_normal((out, columns)) * rng.choice([0.1, 1, 30], (out, 1))
    to = spec(f"int{bits}", scheme=scheme, **how)
    if not act_order:
        return rtn(weight, to)
    x = rng.standard_normal((40, columns)) * rng.permutation(np.arange(1, columns + 1))
    return gptq(weight, x.T @ x, to, act_order=True)


def check(q, how, dtype, rng, static=None, tokens=4):
    """The product of one weight with random tokens, one of them 0, by bytes."""
    x = (rng.standard_t(3, (tokens, q.shape[1])) + 0.3).astype(dtype)
    x[-1] = 0
    codes, grid = activation_codes(x, how, static)
    bias = rng.standard_normal(q.shape[0]).astype(dtype)
    prepared = prepare_weight(q, how, dtype)
    for b in (None, bias):
        found, expected = integer_linear(codes, grid, prepared, b), by_hand(codes, grid, q, how, b, dtype)
        assert found.dtype == dtype
        assert found.tobytes() == expected.tobytes()
    return prepared


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@pytest.mark.parametrize("w_scheme", ["sym_full", "sym_narrow", "sym_gptq", "asym_incl0", "asym_minmax", "asym_omni"])
@pytest.mark.parametrize("a_scheme", ["sym_full", "sym_gptq", "asym_incl0", "asym_omni"])
def test_every_kind_of_zero_point_by_bytes(w_scheme, a_scheme, dtype):
    """[INT-1] [INT-2] [INT-3] [INT-4] [INT-5] none, midpoint, integer and wide integer zeros on either side, ragged groups."""
    rng = np.random.default_rng([3, len(w_scheme), len(a_scheme)])
    how = spec("int8", scheme=a_scheme, empty=UNIT.get(a_scheme))
    check(weight_of(w_scheme, 4, rng, group_size=5, scale_format="float16"), how, dtype, rng)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("a_bits", [1, 2, 3, 4, 5, 6, 7, 8, 16])
def test_every_width_by_bytes(bits, a_bits):
    rng = np.random.default_rng([bits, a_bits])
    check(weight_of("asym_incl0", bits, rng, group_size=4), spec(f"int{a_bits}"), F32, rng, tokens=2)


def test_sixteen_bits_where_the_bound_allows():
    rng = np.random.default_rng(16)
    prepared = check(weight_of("sym_full", 16, rng, group_size=1), spec("int16", scheme="sym_full"), F32, rng)
    assert prepared.bound == 2**30
    assert prepared.codes.dtype == np.float64


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@pytest.mark.parametrize("group", [1, 3, 4, 13, 64])
@pytest.mark.parametrize("features", [None, 1, 3, 4, 8])
def test_every_cut_of_columns_by_bytes(group, features, dtype):
    """Weight groups and groups of features that share borders, cross each other, leave a tail, or are longer than a row."""
    rng = np.random.default_rng([group, features or 0])
    check(weight_of("asym_incl0", 4, rng, group_size=group), spec("int6", group_size=features), dtype, rng)


@pytest.mark.parametrize(
    "tiling", [Tiling.tensor(), Tiling.block(2, 4), Tiling((3, None)), Tiling((None, 5))], ids=lambda t: str(t.extents)
)
def test_rows_that_share_scales_by_bytes(tiling):
    rng = np.random.default_rng(9)
    check(weight_of("asym_incl0", 4, rng, tiling=tiling), spec("int8", scheme="sym_full"), F32, rng)


@pytest.mark.parametrize("features", [None, 4])
@pytest.mark.parametrize("scheme", ["asym_incl0", "sym_full"])
def test_activation_order_by_bytes(scheme, features):
    """The columns of a group lie apart."""
    rng = np.random.default_rng(11)
    q = weight_of(scheme, 4, rng, act_order=True, group_size=5)
    assert q.permutation is not None
    assert q.permutation.tolist() != sorted(q.permutation.tolist())
    prepared = check(q, spec("int8", group_size=features), F64, rng)
    assert prepared.order is not None
    assert len(prepared.segments) > 3 or features is None


@pytest.mark.parametrize("scheme", ["sym_full", "asym_incl0"])
@pytest.mark.parametrize("tiling", [Tiling.tensor(), Tiling((None, 4)), Tiling((None, 1))], ids=lambda t: str(t.extents))
def test_static_grids_by_bytes(scheme, tiling):
    rng = np.random.default_rng(12)
    how = spec("int8", scheme=scheme, tiling=tiling)
    grid = fit_grid(rng.standard_normal((6, 13)), how)
    check(weight_of("asym_incl0", 4, rng, group_size=5), how, F32, rng, static=grid)


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
def test_codes_are_those_of_the_fake_quantized_linear(dtype):
    """What is decoded from them is what `quantize_per_token` and `quantize_static` return."""
    from refquant.core import decode
    from refquant.methods.activation.per_token import quantize_per_token
    from refquant.methods.activation.static import quantize_static

    x = np.random.default_rng(2).standard_t(2, (6, 13)).astype(dtype)
    how = spec("int4", group_size=5)
    codes, grid = activation_codes(x, how)
    assert decode(codes, grid, how, dtype).tobytes() == quantize_per_token(x, how).tobytes()
    how = spec("int4", granularity="tensor")
    grid = fit_grid(x[:2], how)
    codes, same = activation_codes(x, how, grid)
    assert same is grid
    assert decode(codes, grid, how, dtype).tobytes() == quantize_static(x, grid, how).tobytes()


def test_sums_beyond_float32_round_once_to_it():
    """[INT-3] D = 2^24 + 1 is a tie in float32, to even, and its own float in float64; with all scales 1 nothing else rounds."""
    parts = [28827] * 5 + [28826]
    assert 97 * sum(parts) == 2**24 + 1
    how, one = spec("int16", scheme="sym_full"), np.ones((1, 1), np.float32)
    q = QTensor(codes=np.full((1, 6), 97, np.int8), scale=one, zero=None, spec=spec("int8", scheme="sym_full"))
    codes, grid = np.array([parts], np.int16), Grid(scale=one, zero=None)
    assert integer_linear(codes, grid, prepare_weight(q, how, F32)).item() == 2**24
    assert integer_linear(codes, grid, prepare_weight(q, how, F64)).item() == 2**24 + 1


class Backwards(FastArithmetic):
    """Sums the columns of a product in the opposite order, in two halves."""

    def matmul(self, a, b):
        half = a.shape[-1] // 2
        return np.matmul(a[..., half:][..., ::-1], b[half:][::-1]) + np.matmul(a[..., :half], b[:half])


@pytest.mark.parametrize("bits", [4, 8])
def test_the_order_of_sums_is_of_no_consequence(bits):
    rng = np.random.default_rng(bits)
    q, how = weight_of("asym_incl0", bits, rng, out=9, columns=301, group_size=100), spec("int8")
    codes, grid = activation_codes(rng.standard_normal((7, 301)), how)
    there = integer_linear(codes, grid, prepare_weight(q, how, F32))
    back = integer_linear(codes, grid, prepare_weight(q, how, F32, Backwards()), None, Backwards())
    assert there.tobytes() == back.tobytes()


@pytest.mark.parametrize("shape", [(0, 13, 5), (4, 13, 0), (1, 1, 1)])
def test_empty_and_smallest_shapes(shape):
    tokens, columns, out = shape
    rng = np.random.default_rng(0)
    q = rtn(rng.standard_normal((out, columns)), spec("int4", group_size=5))
    how = spec("int8")
    codes, grid = activation_codes(rng.standard_normal((tokens, columns)).astype(F32), how)
    found = integer_linear(codes, grid, prepare_weight(q, how, F32))
    assert (found.shape, found.dtype) == ((tokens, out), F32)
    assert found.tobytes() == by_hand(codes, grid, q, how, None, F32).tobytes()


def test_a_token_depends_on_itself_alone():
    rng = np.random.default_rng(4)
    q, how = weight_of("asym_incl0", 4, rng, group_size=5), spec("int8")
    x = rng.standard_normal((6, 13))
    prepared = prepare_weight(q, how, F64)
    whole = integer_linear(*activation_codes(x, how), prepared)
    for t in range(6):
        assert integer_linear(*activation_codes(x[t : t + 1], how), prepared).tobytes() == whole[t : t + 1].tobytes()


def test_nothing_is_written_to():
    rng = np.random.default_rng(4)
    q, how = weight_of("asym_incl0", 4, rng, group_size=5), spec("int8")
    x, bias = rng.standard_normal((6, 13)), rng.standard_normal(5)
    before, prepared = (x.copy(), bias.copy(), q.digest()), prepare_weight(q, how, F64)
    codes, grid = activation_codes(x, how)
    kept = codes.copy()
    integer_linear(codes, grid, prepared, bias)
    assert (x == before[0]).all()
    assert (bias == before[1]).all()
    assert (codes == kept).all()
    assert q.digest() == before[2]
    assert not any(a.flags.writeable for a in (prepared.codes, prepared.segments[0].scale, prepared.segments[0].sums))


# What it cannot do.

REAL = dataclasses.replace(find_scheme("asym_incl0"), name="asym_real", zero="real")


def test_real_zero_points_and_float_weights_are_refused():
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((3, 8))
    real = rtn(weight, spec("int4", scheme=REAL))
    with pytest.raises(
        UsageError, match="the weight's scheme asym_real has real zero points; integer arithmetic needs integer ones or none"
    ):
        prepare_weight(real, spec("int8"), F32)
    with pytest.raises(UsageError, match="the activation's scheme asym_real has real zero points"):
        prepare_weight(rtn(weight, spec("int4")), spec("int8", scheme=REAL), F32)
    with pytest.raises(UsageError, match=r"multiplies a QTensor \[out, in\], whose codes are integers; found a ndarray"):
        prepare_weight(weight, spec("int8"), F32)
    with pytest.raises(UsageError, match="works in float32 or float64, not float16"):
        prepare_weight(rtn(weight, spec("int4")), spec("int8"), np.dtype(np.float16))
    with pytest.raises(UsageError, match=r"found a tensor of shape \(8,\)"):
        prepare_weight(rtn(weight[0], spec("int4", tiling=Tiling((None,)))), spec("int8"), F32)
    with pytest.raises(UsageError, match="has 3 axes"):
        prepare_weight(rtn(weight, spec("int4")), spec("int8", tiling=Tiling((1, 1, None))), F32)


def test_accumulators_that_could_overflow_are_refused_before_anything_is_multiplied():
    """By the formats' ends, whatever the codes are: all of these are 0."""
    weight = np.zeros((1, 33026))
    with pytest.raises(UsageError, match=r"33026 products of codes of magnitude up to 255 and 255 may sum to 2147515650; .* 2147483647"):
        prepare_weight(rtn(weight, spec("int8")), spec("int8"), F32)
    assert prepare_weight(rtn(weight[:, 1:], spec("int8")), spec("int8"), F32).bound == 33025 * 255**2
    assert prepare_weight(rtn(weight, spec("int8", group_size=128)), spec("int8"), F32).bound == 128 * 255**2
    with pytest.raises(UsageError, match="magnitude up to 32768 and 32768"):
        prepare_weight(rtn(weight[:, :2], spec("int16", scheme="sym_full")), spec("int16", scheme="sym_full"), F32)


def test_corrected_sums_beyond_float64_are_refused():
    how = spec("int8", scheme="asym_omni")
    q = QTensor(
        codes=np.zeros((1, 200), np.uint8),
        scale=np.ones((1, 1), np.float32),
        zero=np.full((1, 1), 1 << 23),
        spec=spec("int8", scheme="asym_omni"),
    )
    prepared = prepare_weight(q, how, F64)
    codes = np.zeros((1, 200), np.uint8)
    fits = Grid(scale=np.ones((1, 1)), zero=np.full((1, 1), 1 << 22))
    assert integer_linear(codes, fits, prepared).item() == 200 * 2**45
    with pytest.raises(UsageError, match=f"200 products may sum to {200 * (2**23 + 255) ** 2}; sums up to 2\\^53"):
        integer_linear(codes, Grid(scale=np.ones((1, 1)), zero=np.full((1, 1), 1 << 23)), prepared)


def test_results_that_overflow_are_not_returned():
    q = QTensor(codes=np.array([[127]], np.int8), scale=np.full((1, 1), 1e36, np.float32), zero=None, spec=spec("int8", scheme="sym_full"))
    how, grid = spec("int8", scheme="sym_full"), Grid(scale=np.ones((1, 1), np.float32), zero=None)
    codes = np.array([[1], [127]], np.int8)
    assert integer_linear(codes[:1], grid, prepare_weight(q, how, F32)).item() == np.float32(127) * np.float32(1e36)
    with pytest.raises(NumericalError, match="output 0 of token 1 is inf in float32; compute in float64 or rescale"):
        integer_linear(codes, grid, prepare_weight(q, how, F32))
    assert integer_linear(codes, grid, prepare_weight(q, how, F64)).shape == (2, 1)


def test_operands_that_do_not_fit_are_refused():
    rng = np.random.default_rng(0)
    how = spec("int8", scheme="sym_full")
    prepared = prepare_weight(rtn(rng.standard_normal((3, 8)), spec("int4")), how, F32)
    codes, grid = activation_codes(rng.standard_normal((2, 8)).astype(F32), how)
    good = np.zeros(3, F32)
    integer_linear(codes, grid, prepared, good)
    for wrong, message in (
        ((codes[:, :7], grid, prepared, None), r"integers \[tokens, 8\], not int8 of shape \(2, 7\)"),
        ((codes.astype(F32), grid, prepared, None), "not float32"),
        ((np.full((2, 8), 128, np.int16), grid, prepared, None), r"of int8 lie in -128\.\.127; found 128\.\.128"),
        ((np.full((2, 8), -129, np.int16), grid, prepared, None), r"found -129\.\.-129"),
        ((codes, Grid(scale=np.ones((3, 1)), zero=None), prepared, None), r"shape \(3, 1\); allowed: \(2, 1\) or \(1, 1\)"),
        (
            (codes, grid, prepared, np.zeros(2, F32)),
            r"the bias is float32 of shape \(2,\); allowed beside this weight: float32 of shape \(3,\)",
        ),
        ((codes, grid, prepared, np.zeros(3)), "the bias is float64"),
    ):
        with pytest.raises(InputError, match=message):
            integer_linear(*wrong)
    with pytest.raises(UsageError, match="zero points are float64; integer arithmetic needs integer ones"):
        integer_linear(codes, Grid(scale=np.ones((1, 1)), zero=np.ones((1, 1))), prepared)
    with pytest.raises(InputError, match=r"per-token activations need a tiling \(1, ...\), not \(None, None\)"):
        activation_codes(np.ones((2, 8)), spec("int8", granularity="tensor"))
    with pytest.raises(InputError, match=r"a static grid needs a tiling \(None, ...\), not \(1, None\)"):
        activation_codes(np.ones((2, 8)), how, grid)


def test_encode_is_what_makes_the_codes():
    x, how = np.random.default_rng(0).standard_normal((2, 8)), rq.spec("int8")
    codes, grid = activation_codes(x, how)
    assert codes.tobytes() == encode(x, grid, how).tobytes()
