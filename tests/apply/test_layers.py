"""The stand-ins for linears and attention products against their definitions, by bytes where they promise bytes."""

from __future__ import annotations

import numpy as np
import pytest

import refquant as rq
from model import DenseAttentionProduct, DenseLinear
from refquant.apply.layers import PerTokenQuantizer, QuantizedAttentionProduct, QuantizedLinear, QuantizedScoreOperands, StaticQuantizer
from refquant.apply.parts import Activations, Values
from refquant.apply.quantize import quantize_model
from refquant.apply.recipe import find_recipe
from refquant.core import Grid
from tests.apply.tiny import tiny

RNG = np.random.default_rng(5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bias", [False, True])
def test_a_quantized_linear_is_the_dense_one_of_its_dequantized_weight(dtype, bias):
    weight, x = RNG.standard_normal((6, 8)), RNG.standard_normal((2, 3, 8)).astype(dtype)
    b = RNG.standard_normal(6).astype(dtype) if bias else None
    q = rq.gptq(weight, np.eye(8) + 0.5, rq.spec("int3", group_size=4, scale_format="float16"), act_order=True)
    layer = QuantizedLinear(q, b, None, np.dtype(dtype))
    dense = DenseLinear(q.dequantize(np.dtype(dtype)), b)
    assert layer(x).tobytes() == dense(x).tobytes()
    assert layer(x).dtype == dtype
    assert layer.weight is q
    plain = QuantizedLinear(weight.astype(dtype), b, None, np.dtype(dtype))
    assert plain(x).tobytes() == DenseLinear(weight.astype(dtype), b)(x).tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("group_size", [-1, 3])
def test_per_token_inputs_by_loops(dtype, group_size):
    x = RNG.standard_normal((2, 3, 8)).astype(dtype)
    x[1, 2] = 0
    got = PerTokenQuantizer(Activations(method="per_token", bits=4, group_size=group_size).spec())(x)
    assert got.dtype == dtype
    size = 8 if group_size == -1 else group_size
    for b in range(2):
        for t in range(3):
            for start in range(0, 8, size):
                part = x[b, t, start : start + size]
                top = np.abs(part).max()
                s = top / dtype(7) if top else dtype(1)
                expected = s * np.clip(np.rint(part / s), -8, 7)
                assert (got[b, t, start : start + size] == expected).all()


def test_inputs_are_quantized_before_the_product():
    weight, x = RNG.standard_normal((6, 8)), RNG.standard_normal((2, 3, 8))
    quantizer = PerTokenQuantizer(Activations(method="per_token", bits=3).spec())
    before = x.copy()
    assert QuantizedLinear(weight, None, quantizer, np.dtype(np.float64))(x).tobytes() == DenseLinear(weight)(quantizer(x)).tobytes()
    assert (x == before).all()


@pytest.mark.parametrize("scheme", ["sym_full", "asym_incl0"])
def test_static_inputs_saturate_outside_what_was_calibrated(scheme):
    spec = Activations(method="static", bits=4, scheme=scheme).spec()
    zero = None if scheme == "sym_full" else np.array([[5]])
    quantizer = StaticQuantizer(Grid(scale=np.array([[0.5]]), zero=zero), spec)
    got = quantizer(np.array([[[-100.0, -0.2, 0.3, 100.0]]]))
    assert got.tolist() == [[[-4.0, 0.0, 0.5, 3.5]]] if scheme == "sym_full" else [[[-2.5, 0.0, 0.5, 5.0]]]


def attention(heads=4, kv=2, dtype=np.float64):
    scores = np.exp(RNG.standard_normal((2, heads, 5, 5)))
    return (scores / scores.sum(-1, keepdims=True)).astype(dtype), RNG.standard_normal((2, kv, 5, 6)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_product_with_nothing_quantized_is_the_dense_one(dtype):
    a, v = attention(dtype=dtype)
    assert QuantizedAttentionProduct(0, "unit", None, None)(a, v).tobytes() == DenseAttentionProduct()(a, v).tobytes()


@pytest.mark.parametrize("kind", ["unit", "row_max"])
@pytest.mark.parametrize("bits", [1, 4, 16])
def test_the_softmax_output_on_its_grid(kind, bits):
    a, v = attention()
    product = QuantizedAttentionProduct(bits, kind, None, None)
    steps = 2**bits - 1
    for row, got in zip(a.reshape(-1, 5), product.quantize_probabilities(a).reshape(-1, 5), strict=True):
        s = (1.0 if kind == "unit" else row.max()) / steps
        assert (got == np.rint(row / s) * s).all()
    assert product(a, v).tobytes() == DenseAttentionProduct()(product.quantize_probabilities(a), v).tobytes()


@pytest.mark.parametrize("per", ["head", "feature"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_static_scales_of_v_belong_to_heads_and_features(per, dtype):
    """A scale per kv head, or per kv head and feature, whichever sequence and token."""
    _, v = attention(dtype=dtype)
    shape = (2, 1, 1) if per == "head" else (2, 1, 6)
    scale = (0.1 + RNG.random(shape)).astype(np.float32)
    zero = RNG.integers(3, 12, shape).astype(np.int32)
    spec = Values(method="minmax", bits=4, per=per).spec()
    got = QuantizedAttentionProduct(0, "unit", spec, Grid(scale=scale, zero=zero)).quantize_values(v)
    assert got.dtype == dtype
    assert got.shape == v.shape
    for b in range(2):
        for head in range(2):
            for t in range(5):
                for j in range(6):
                    at = (head, 0, 0) if per == "head" else (head, 0, j)
                    s, z = dtype(scale[at]), dtype(zero[at])
                    expected = s * (np.clip(np.rint(v[b, head, t, j] / s) + z, 0, 15) - z)
                    assert got[b, head, t, j] == expected


def test_dynamic_v_has_a_scale_a_token_of_a_head():
    _, v = attention()
    spec = Values(method="per_token", bits=4, range_ratio=0.9).spec()
    got = QuantizedAttentionProduct(0, "unit", spec, None).quantize_values(v)
    for row, quantized in zip(v.reshape(-1, 6), got.reshape(-1, 6), strict=True):
        lo, hi = min(row.min(), 0) * 0.9, max(row.max(), 0) * 0.9
        s = np.float64(np.float32((hi - lo) / 15))
        z = np.rint(-lo / s)
        assert (quantized == s * (np.clip(np.rint(row / s) + z, 0, 15) - z)).all()


def test_both_operands_at_once():
    a, v = attention()
    spec = Values(method="per_token", bits=4).spec()
    product = QuantizedAttentionProduct(4, "unit", spec, None)
    assert product(a, v).tobytes() == DenseAttentionProduct()(product.quantize_probabilities(a), product.quantize_values(v)).tobytes()


def test_a_range_ratio_is_for_dynamic_v_only():
    """Static ranges are calibrated, and IA-AQ chooses its own factor: a ratio on top would shrink them twice."""
    for method in ("minmax", "ia_aq"):
        assert Values(method=method, bits=4, range_ratio=0.5).spec() == Values(method=method, bits=4).spec()
    assert Values(method="per_token", bits=4, range_ratio=0.5).spec() != Values(method="per_token", bits=4).spec()


def test_queries_and_keys_are_quantized_by_head_and_token():
    """Against loops; and a recipe puts it before the product, in calibration and at run time."""
    rng = np.random.default_rng(5)
    q, k = rng.standard_normal((2, 4, 3, 8)), rng.standard_normal((2, 2, 3, 8))
    spec = find_recipe("rtn-w4a16").replace(queries_keys={"method": "per_token", "bits": 4}).queries_keys.spec()
    for before, after in zip((q, k), QuantizedScoreOperands(spec)(q, k), strict=True):
        for index in np.ndindex(before.shape[:3]):
            scale = np.abs(before[index]).max() / 7
            assert np.array_equal(after[index], np.rint(before[index] / scale) * scale)
    m = tiny()
    recipe = find_recipe("rtn-w4a16").replace(weights={"method": "none"}, queries_keys={"method": "per_token", "bits": 4})
    coarse = quantize_model(m, recipe, ()).attach(m)
    assert all(isinstance(operands, QuantizedScoreOperands) for operands in coarse.score_operands)
    ids = np.array([[5, 6, 7, 8]])
    assert not np.array_equal(coarse.logits(ids), m.logits(ids))
