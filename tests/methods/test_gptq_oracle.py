"""GPTQ against exact arithmetic: the oracle's LDL^T version in Fractions, on small layers of every kind.

A row is compared in the order of quantization, up to its first decision (of a code, or of a fitted zero point) that lies within 1e-9 steps
of its boundary: behind one that went the other way the row is another problem.
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from refquant import oracle
from refquant.core import hessian, spec
from refquant.methods.compensate.gptq import gptq_trace
from refquant.oracle.ieee import BINARY16, BINARY64
from refquant.oracle.uniform import Uniform

NAMES = {  # ours: the oracle's
    "asym_incl0": "asym_incl0",
    "asym_minmax": "asym_minmax",
    "sym_full": "sym_full",
    "sym_narrow": "sym_narrow",
    "sym_gptq": "sym_gptq",
    "sym_gptq_half_range": "sym_gptq_compat",
}
BOUND = 1e-9


@dataclass(frozen=True, kw_only=True)
class Layer:
    weight: np.ndarray
    hessian: np.ndarray
    scheme: str
    bits: int
    group: int | None
    static: bool
    act_order: bool
    damping: float
    block: int
    lazy: bool
    scale_format: str | None


def random_layer(seed, grouping, act_order):
    """One of every kind. All from one seed: hypothesis by itself prefers a single column, where there is nothing to compensate."""
    rng = np.random.default_rng(seed)
    rows, columns, tokens = (
        rng.integers(1, 4),
        rng.choice([1, 2, 3, 4, 5, 6, 7], p=[0.04, 0.06, 0.1, 0.2, 0.2, 0.2, 0.2]),
        rng.integers(1, 10),
    )
    w, x = rng.normal(size=(rows, columns)), np.rint(rng.normal(size=(tokens, columns)) * 8) / 8
    if rng.random() < 0.3:
        w = np.rint(w * 4) / 4  # exact ties
    if rng.random() < 0.3:
        w = np.abs(w)
    x[:, rng.random(columns) < rng.choice([0.0, 0.0, 0.3])] = 0  # dead columns
    return Layer(
        weight=w,
        hessian=hessian(x),
        scheme=str(rng.choice(sorted(NAMES))),
        bits=int(rng.integers(2, 6)),
        group=None if grouping == "rows" else int(rng.integers(1, columns + 2)),
        static=grouping == "static",
        act_order=act_order,
        damping=float(rng.choice([0.01, 0.1, 1.0])),
        block=int(rng.integers(1, columns + 2)),
        lazy=grouping == "lazy",
        scale_format="float16" if rng.random() < 0.3 else None,
    )


def ours(layer):
    how = spec(f"int{layer.bits}", group_size=layer.group, scheme=layer.scheme, scale_format=layer.scale_format)
    return gptq_trace(
        layer.weight,
        layer.hessian,
        how,
        damping=layer.damping,
        block_size=layer.block,
        act_order=layer.act_order,
        static_groups=layer.static,
        compat="lazy" if layer.lazy else None,
    )


def exact(layer):
    scheme = Uniform(NAMES[layer.scheme], layer.bits, rounded=BINARY64, scale_format=BINARY16 if layer.scale_format else None)
    w, h = oracle.matrix(layer.weight), oracle.matrix(layer.hessian)
    alive = [[value if h[c][c] else Fraction(0) for c, value in enumerate(line)] for line in w]
    size = layer.group or len(h)
    fixed = layer.group is None or layer.static
    grids = [[scheme.fit(line[k : k + size]) for k in range(0, len(h), size)] for line in alive] if fixed else scheme.fit
    return oracle.gptq(
        w,
        h,
        grids,
        group=layer.group,
        percdamp=Fraction(layer.damping),
        act_order=layer.act_order,
        lazy_block=layer.block if layer.lazy else None,
        stored=BINARY64,
    )


def column_grid(trace, row, place):
    """Scale and zero that `trace` used for the column at a place of the quantization order."""
    q, column = trace.quantized, int(trace.order[place])
    size = q.spec.tiling.extents[1] or q.shape[1]
    tile = (place if q.permutation is not None else column) // size
    return float(q.scale[row, tile]), 0 if q.zero is None else int(q.zero[row, tile])


def agree(layer, trace, found):
    """Compare row by row; returns whether every decision of every row was comparable."""
    complete = True
    for row, line in enumerate(found.decisions):
        for place, column in enumerate(found.order):
            decision = line[column]
            scale, zero = column_grid(trace, row, place)
            if scale != pytest.approx(float(decision.grid.scale), rel=1e-9) or zero != decision.grid.zero:
                # A float16 scale or a zero point, fitted to compensated weights, on a boundary of its own: one step away, no more.
                assert place > 0, "the first grid is fitted to the weights themselves"
                if min(scale, float(decision.grid.scale)) < 1e-12:
                    return False  # all that is left of the group is rounding error of one of the two
                assert scale == pytest.approx(float(decision.grid.scale), rel=1e-9 if layer.scale_format is None else 1e-3)
                assert abs(zero - decision.grid.zero) <= 1
                return False
            code = int(trace.quantized.codes[row, column])
            margin = float(decision.margin)
            if code != decision.code:
                assert margin <= BOUND, f"row {row}, column {column}: exact code {decision.code}, found {code}, margin {margin:g}"
                complete = False
                break
            if np.isfinite(trace.margins[row, place]):
                assert trace.margins[row, place] == pytest.approx(margin, abs=BOUND * max(1, margin))
            if margin <= BOUND:
                complete = False
                break
    return complete


@pytest.mark.parametrize("grouping", ["rows", "static", "dynamic", "lazy"])
@pytest.mark.parametrize("act_order", [False, True])
@settings(max_examples=60)
@given(seed=st.integers(0, 2**63))
def test_every_decision_is_that_of_exact_arithmetic(grouping, act_order, seed):
    """[GPTQ-2] [GPTQ-3] [GPTQ-4] [GPTQ-5] [GPTQ-6] [GPTQ-7]"""
    layer = random_layer(seed, grouping, act_order)
    trace, found = ours(layer), exact(layer)
    assert trace.order.tolist() == found.order
    assert trace.damping == pytest.approx(float(found.damping), rel=1e-12)
    pivots = [float(p) for p in found.pivots]
    np.testing.assert_allclose(1 / np.diagonal(trace.factor) ** 2, pivots, rtol=1e-9)
    complete = agree(layer, trace, found)
    event(f"complete: {complete}")
    if complete:
        assert 2 * trace.loss() == pytest.approx(float(found.loss), rel=1e-9, abs=1e-18)


def test_most_layers_are_compared_to_their_end():
    """The comparison may stop early at ties; on generic weights it must not, or it would compare nothing."""
    rng = np.random.default_rng(3)
    for k in range(30):
        w, x = rng.normal(size=(2, 6)), rng.normal(size=(8, 6))
        layer = Layer(
            weight=w, hessian=hessian(x), scheme="asym_incl0", bits=3, group=(None, 2, 4)[k % 3], static=k % 2 == 0,
            act_order=k % 4 < 2, damping=0.01, block=1 + k % 6, lazy=k % 5 == 0, scale_format=None,
        )  # fmt: skip
        assert agree(layer, ours(layer), exact(layer))


def test_equal_diagonals_keep_their_order_and_dead_columns_count_as_1():
    """[GPTQ-3] Diagonal (dead -> 1, 2, 1, 2): order 1, 3, 0, 2, by the oracle too."""
    layer = Layer(
        weight=np.array([[0.3, -0.7, 0.9, 0.1]]), hessian=np.diag([0.0, 2.0, 1.0, 2.0]), scheme="asym_incl0", bits=2, group=None,
        static=False, act_order=True, damping=0.5, block=4, lazy=False, scale_format=None,
    )  # fmt: skip
    trace = ours(layer)
    assert trace.order.tolist() == exact(layer).order == [1, 3, 0, 2]
    assert trace.damping == 0.75
    assert trace.dead.tolist() == [True, False, False, False]
    assert trace.quantized.dequantize()[0, 0] == 0
