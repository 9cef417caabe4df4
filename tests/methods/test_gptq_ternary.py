"""The recorded Hessians of IST-DASLab/gptq, and its ternary mode, which no option here repeats: a sweep over plain columns does."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import cholesky

from refquant.core import hessian
from refquant.numerics.arrays import Array
from tests.methods.istdaslab import tensors


def test_hessians() -> None:
    """Two over the number of sequences, times the sum: float64 to rounding, float32 to 2^-20, four calls count as four sequences."""
    data = tensors()
    ours = 2 * hessian(data["X"])
    scale = np.abs(ours).max()
    assert np.abs(np.diag(ours) - data["H.f64.diag"]).max() <= 1e-14 * scale
    assert np.abs(ours - data["H.f32"]).max() <= 2.0**-20 * scale
    assert np.abs(np.diag(ours) / 4 - data["H.f32.4batches.diag"]).max() <= 2.0**-20 * scale


def ternary_sweep(weight: Array, h: Array) -> tuple[Array, Array]:
    """Columns in order: a number above half the row's largest becomes it, one below half the least becomes that, the rest 0."""
    top, bottom = np.maximum(weight.max(axis=1), 0), np.minimum(weight.min(axis=1), 0)
    empty = (top == 0) & (bottom == 0)
    top, bottom = np.where(empty, 1, top), np.where(empty, -1, bottom)
    w, dead = weight.copy(), np.diag(h) == 0
    h = h + np.diag(dead.astype(float))
    w[:, dead] = 0
    h = h + np.eye(len(h)) * 0.01 * np.diag(h).mean()
    factor = cholesky(np.linalg.inv(h))
    q, loss = np.zeros_like(w), 0.0
    for column in range(w.shape[1]):
        x = w[:, column]
        q[:, column] = np.where(x > top / 2, top, 0) + np.where(x < bottom / 2, bottom, 0)
        step = (x - q[:, column]) / factor[column, column]
        loss += float(np.sum(step * step)) / 2
        w[:, column:] -= np.outer(step, factor[column, column:])
    return q, np.float64(loss)


@pytest.mark.parametrize(("dtype", "differing"), [("f64", 0.001), ("f32", 0.05)])
def test_ternary_mode(dtype: str, differing: float) -> None:
    """Its scale and zero are the ends of a row, and 0 is kept: a codebook of another table for each row."""
    data, case = tensors(), f"gptq.bits2_sym0_trits1.{dtype}"
    weight = data["W"].astype(np.float64)
    q, loss = ternary_sweep(weight, 2 * hessian(data["X"]))
    top, bottom = np.maximum(weight.max(axis=1), 0), np.minimum(weight.min(axis=1), 0)
    some = (top > 0) | (bottom < 0)
    np.testing.assert_array_equal(data[f"{case}.scale"][some, 0], top[some])
    np.testing.assert_array_equal(data[f"{case}.zero"][some, 0], bottom[some])
    apart = np.abs(q - data[f"{case}.Q"]) > 1e-6 * np.abs(weight).max(axis=1, keepdims=True)
    assert apart.mean() <= differing
    assert data[f"{case}.error"][0] == pytest.approx(loss, rel=1e-3)


def test_recorded_numbers_are_those_of_recorded_codes() -> None:
    data = tensors()
    cases = [key.removesuffix(".Q") for key in data if key.startswith("gptq.") and key.endswith(".Q") and "trits" not in key]
    assert len(cases) >= 2
    for case in cases:
        codes, group = data[f"{case}.codes"], data.get(f"{case}.g_idx", np.zeros(256, int))
        kind = data[f"{case}.scale"].dtype.type
        numbers = data[f"{case}.scale"][:, group] * (codes.astype(kind) - data[f"{case}.zero"][:, group])
        np.testing.assert_array_equal(numbers, data[f"{case}.Q"])
