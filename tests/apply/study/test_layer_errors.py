"""A linear's own error and the one that arrives, by hand."""

from __future__ import annotations

import numpy as np

from refquant.apply.quantize import quantize_model
from refquant.apply.recipe import find_recipe
from refquant.apply.study.layer_errors import layer_errors
from tests.apply.tiny import tiny

IDS = np.random.default_rng(0).integers(0, 37, (2, 9))


def test_own_and_arriving_errors():
    """Before anything is quantized both are the same; behind it the second has the error of the input as well."""
    m = tiny()
    quantized = quantize_model(m, find_recipe("rtn-w4a16"), ())
    found = layer_errors(m, quantized, quantized.attach(m), IDS)
    assert [error.linear for error in found] == list(m.linears)
    first = found[0]
    x = m.embed(IDS)
    gain = m.parameters["model.transformer.blocks.0.attn_norm.weight"]
    normed = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + m.config.norm_eps) * gain
    w = m.linears[first.linear].weight
    off = quantized.weights[first.linear].dequantize(np.dtype("float64")) - w
    bias = m.linears[first.linear].bias
    true = normed @ w.T + (0 if bias is None else bias)
    np.testing.assert_allclose(first.isolated, ((normed @ off.T) ** 2).sum() / (true**2).sum(), rtol=1e-6)
    assert first.propagated == first.isolated
    assert found[-1].propagated > found[-1].isolated


def test_nothing_is_lost_where_nothing_is_quantized():
    m = tiny()
    quantized = quantize_model(m, find_recipe("rtn-w4a16").replace(weights={"method": "none"}), ())
    assert {(e.isolated, e.propagated) for e in layer_errors(m, quantized, quantized.attach(m), IDS)} == {(0.0, 0.0)}
