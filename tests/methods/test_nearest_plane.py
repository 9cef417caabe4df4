"""GPTQ's fast sweep against the paper's: the same decisions wherever margins allow, whatever the cuts, grids, orders and dtypes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refquant.core import fit_grid, hessian, spec
from refquant.errors import InputError, NotPositiveDefiniteError, NumericalError, UsageError
from refquant.methods.compensate import nearest_plane
from refquant.methods.compensate.gptq import gptq, gptq_trace
from refquant.numerics import FAST, ORDERED
from refquant.numerics.arithmetic import FastArithmetic
from refquant.numerics.cholesky import lower_root_in_place, upper_factor_of_inverse
from tests.methods.agreement import Run, assert_same_decisions


class Plain(FastArithmetic):
    """BLAS, but the paper's sweep."""

    name = "plain"
    regroups = False


PLAIN = Plain()


def layer(seed, rows=7, columns=45, tokens=90, dead=()):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(tokens, columns)) @ (np.eye(columns) + 0.4 * rng.normal(size=(columns, columns)))
    x[:, list(dead)] = 0
    return rng.normal(size=(rows, columns)), hessian(x)


def as_run(trace):
    """A run in the form in which decisions are compared, every column on the grid that it was decided on."""
    q, place = trace.quantized, np.argsort(trace.order)
    width = q.spec.tiling.extents[1] or q.shape[1]
    tile = (place if q.permutation is not None else np.arange(q.shape[1])) // width
    zero = np.zeros(q.scale.shape) if q.zero is None else q.zero.astype(np.float64)
    rows = np.zeros(q.shape[0], int) if q.scale.shape[0] == 1 else np.arange(q.shape[0])
    return Run(
        codes=q.codes.astype(int),
        scale=q.scale.astype(np.float64)[rows][:, tile],
        zero=zero[rows][:, tile],
        lo=q.spec.format.lo,
        hi=q.spec.format.hi,
    )


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    group=st.sampled_from([None, 1, 5, 8, 16, 20, 64]),
    scheme=st.sampled_from(["asym_incl0", "asym_minmax", "sym_full", "sym_gptq"]),
    mode=st.sampled_from(["fitted", "static", "given"]),
    act_order=st.booleans(),
    columns=st.integers(1, 70),
    wide=st.sampled_from([1, 7, 32, 512]),
    leaf=st.sampled_from([1, 3, 16]),
    damping=st.sampled_from([1e-4, 0.01, 2.0]),
)
def test_it_decides_as_the_paper_does(seed, group, scheme, mode, act_order, columns, wide, leaf, damping):
    """[GPTQ-6] [GPTQ-7] [GPTQ-8] Values, codes, grids, errors."""
    w, h = layer(seed, rows=3, columns=columns, dead=[0] if columns > 3 else [])
    how = spec("int3", group_size=group, scheme=scheme)
    grid = fit_grid(w, how) if mode == "given" else None
    options = {"damping": damping, "act_order": act_order, "static_groups": mode == "static", "grid": grid}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest_plane, "WIDE", wide)
        patch.setattr(nearest_plane, "LEAF", leaf)
        fast = gptq_trace(w, h, how, **options)
        again = gptq(w, h, how, **options)
    plain = gptq_trace(w, h, how, **options, arithmetic=PLAIN)
    assert fast.quantized.digest() == again.digest()
    np.testing.assert_array_equal(fast.quantized.codes, plain.quantized.codes)
    np.testing.assert_allclose(fast.decided, plain.decided, rtol=0, atol=1e-10)
    np.testing.assert_allclose(fast.quantized.scale, plain.quantized.scale, rtol=1e-9)
    np.testing.assert_allclose(fast.errors, plain.errors, rtol=0, atol=1e-9 * (1 + np.abs(plain.errors).max()))
    np.testing.assert_allclose(fast.factor, plain.factor, rtol=0, atol=1e-10 * np.abs(plain.factor).max())


@pytest.mark.parametrize("name", ["mxfp4", "nvfp4", "nf4"])
def test_formats_other_than_integers_too(name):
    how = spec(name)
    w, h = layer(3, columns=64)
    static = how.scales is not None and how.scales.outer is not None
    fast, plain = (gptq_trace(w, h, how, static_groups=static, arithmetic=lane) for lane in (FAST, PLAIN))
    np.testing.assert_array_equal(fast.quantized.codes, plain.quantized.codes)
    np.testing.assert_allclose(fast.decided, plain.decided, rtol=0, atol=1e-9)


@pytest.mark.parametrize("compat", ["lazy", "istdaslab"])
def test_the_authors_faults_are_done_as_they_do_them(compat):
    w, h = layer(4)
    how = spec("int3", group_size=5)
    fast, plain = (gptq(w, h, how, compat=compat, block_size=8, arithmetic=lane) for lane in (FAST, PLAIN))
    assert fast.digest() == plain.digest()


def test_the_ordered_arithmetic_keeps_to_the_paper(monkeypatch):
    monkeypatch.setattr("refquant.methods.compensate.gptq.nearest_planes", lambda *_: pytest.fail("another order of sums"))
    w, h = layer(5, columns=20)
    gptq(w, h, spec("int4"), arithmetic=ORDERED)
    with pytest.raises(pytest.fail.Exception):
        gptq(w, h, spec("int4"))


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("group", [None, 16])
def test_in_float32_decisions_differ_only_below_its_rounding_error(act_order, group):
    """Every decision in float32, re-anchored on float64 arithmetic, misses the nearest code by no more than rounding."""
    w, h = layer(6, rows=40, columns=96, tokens=400)
    how = spec("int4", group_size=group)
    w = w.astype(np.float32)
    grid = fit_grid(w, how)
    wide, narrow = (gptq_trace(w, h, how, act_order=act_order, grid=grid, working=dtype) for dtype in ("float64", "float32"))
    assert narrow.decided.dtype == narrow.factor.dtype == np.float32
    assert_same_decisions(wide, w.astype(np.float64), as_run(narrow), 1e-3)
    same = (narrow.quantized.codes == wide.quantized.codes).mean()
    assert same > 0.99
    np.testing.assert_array_equal(narrow.quantized.codes, gptq(w, h, how, act_order=act_order, grid=grid, working="float32").codes)


@pytest.mark.parametrize("factor", [1e-30, 1e-200, 1e200])
def test_in_float32_the_size_of_the_hessian_does_not_matter(factor):
    w, h = layer(7)
    how = spec("int4", group_size=15)
    np.testing.assert_array_equal(gptq(w, h, how, working="float32").codes, gptq(w, factor * h, how, working="float32").codes)


def test_what_was_computed_in_stands_in_the_origin():
    w, h = layer(8)
    assert "working" not in gptq(w, h, spec("int4")).origin.parameters
    q = gptq(w, h, spec("int4"), working="float32")
    assert q.origin.parameters["working"] == "float32"
    assert q.scale.dtype == np.float32


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"working": "float16"}, UsageError, "working is 'float64' or 'float32', not 'float16'"),
        ({"working": "float32", "arithmetic": ORDERED}, UsageError, "the ordered arithmetic and compat='lazy_groups' compute in float64"),
        ({"working": "float32", "compat": "lazy"}, UsageError, "compute in float64"),
        ({"working": "float32", "weight": np.full((2, 45), 1e200)}, NumericalError, r"weight 1e\+200 at index \(0, 0\) overflows float32"),
        ({"weight": np.full((2, 45), np.nan), "working": "float32"}, InputError, "the weight holds nan"),
    ],
)
def test_refused(change, error, message):
    w, h = layer(9)
    with pytest.raises(error, match=message):
        gptq(**({"weight": w, "hessian": h, "spec": spec("int4")} | change))


def test_a_hessian_that_float32_cannot_factor_is_refused_with_a_damping_that_works():
    w, _ = layer(10, columns=6)
    x = np.random.default_rng(0).normal(size=(3, 6))
    h = hessian(np.vstack([x, 1e-6 * np.random.default_rng(1).normal(size=(9, 6))]))
    gptq(w, h, spec("int4"), damping=0.0)
    with pytest.raises(NotPositiveDefiniteError, match="would work") as failure:
        gptq(w, h, spec("int4"), damping=0.0, working="float32")
    works = float(str(failure.value).split("damping=")[1].split()[0])
    gptq(w, h, spec("int4"), damping=works, working="float32")


@pytest.mark.parametrize("arithmetic", [FAST, ORDERED], ids=repr)
@pytest.mark.parametrize("n", [1, 2, 17, 40])
def test_the_root_is_a_root_and_inverse_to_the_factor(arithmetic, n):
    """[GPTQ-5] ``G^T G = H`` and ``U = G^-T``."""
    x = np.random.default_rng(n).normal(size=(2 * n, n))
    h = x.T @ x + 0.1 * np.eye(n)
    g = lower_root_in_place(h.copy(), arithmetic)
    assert (np.triu(g, 1) == 0).all()
    assert (np.diag(g) > 0).all()
    np.testing.assert_allclose(g.T @ g, h, rtol=0, atol=1e-12 * np.abs(h).max())
    np.testing.assert_allclose(g.T @ upper_factor_of_inverse(h, arithmetic), np.eye(n), rtol=0, atol=1e-10)


def test_a_column_is_computed_with_every_column_before_it(monkeypatch):
    """Leaves, halves and wide blocks: sums over three levels, none of them empty."""
    monkeypatch.setattr(nearest_plane, "WIDE", 32)
    monkeypatch.setattr(nearest_plane, "LEAF", 4)
    w, h = layer(11, rows=2, columns=70, tokens=200)
    trace = gptq_trace(w, h, spec("int2", granularity="tensor"))
    delta = w - trace.quantized.dequantize()
    g = lower_root_in_place(trace.hessian.copy())
    by_hand = w + (delta @ np.tril(g, -1).T) / np.diag(g)
    np.testing.assert_allclose(trace.decided, by_hand, rtol=0, atol=1e-12)
    assert trace.loss() == pytest.approx(0.5 * ((delta @ g.T) ** 2).sum(), rel=1e-12)
