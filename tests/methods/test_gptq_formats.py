"""GPTQ on grids that are not of integers: floats, codebooks and nested scales."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from refquant.core import spec
from refquant.errors import UsageError
from refquant.methods.compensate.gptq import gptq, gptq_trace
from refquant.methods.compensate.obq import obq
from refquant.methods.grid.rtn import rtn

DYNAMIC = ("mxfp4", "mxfp8_e4m3", "mxint8", "nf4", "e4m3fn", "e2m1", "ternary")
STATIC = ("nvfp4", "nvfp4_compressed_tensors", "q6_k_grid")


def problem(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((400, 64)) * np.exp(rng.standard_normal(64))
    x[:, 1:] += 0.7 * x[:, :-1]
    return rng.standard_normal((8, 64)), x.T @ x


@pytest.mark.parametrize("name", [*DYNAMIC, *STATIC])
def test_without_correlation_it_is_rtn(name: str) -> None:
    w, _ = problem()
    how, static = spec(name), name in STATIC
    ours, plain = gptq(w, np.eye(64), how, static_groups=static), rtn(w, how)
    assert ours.digest() == plain.digest()


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("name", [*DYNAMIC, *STATIC])
def test_its_codes_decode_to_what_the_sweep_decided(name: str, act_order: bool) -> None:
    """The loss identity GPTQ-8 holds for any grid, and so does that the recorded errors are those of the returned tensor."""
    w, h = problem()
    trace = gptq_trace(w, h, spec(name), static_groups=name in STATIC, act_order=act_order)
    back = trace.quantized.dequantize(np.dtype(np.float64))
    delta = (w - back)[:, trace.order]
    np.testing.assert_allclose(np.einsum("ij,jk,ik->", delta, trace.hessian, delta), 2 * trace.loss(), rtol=1e-6)
    assert (trace.margins >= 0).all()


@pytest.mark.parametrize("name", [*DYNAMIC, *STATIC])
def test_it_has_less_loss_than_rtn(name: str) -> None:
    w, h = problem(3)
    losses = []
    for q in (gptq(w, h, spec(name), static_groups=name in STATIC), rtn(w, spec(name))):
        delta = w - q.dequantize(np.dtype(np.float64))
        losses.append(np.einsum("ij,jk,ik->", delta, h, delta))
    assert losses[0] < losses[1]


def test_what_a_sweep_cannot_use_is_said() -> None:
    w, h = problem()
    with pytest.raises(UsageError, match="static_groups=True"):
        gptq(w, h, spec("nvfp4"))
    with pytest.raises(UsageError, match="coded_by='raw'"):
        gptq(w, h, spec("nf4_double"), static_groups=True)
    with pytest.raises(UsageError, match="not an integer format"):
        obq(w[:1, :4], h[:4, :4], replace(spec("e2m1"), tiling=spec("int4").tiling))
