"""The problem that error compensation solves: minimize ``(w - q) H (w - q)^T`` over codes, one row at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from refquant.core.spec import QuantSpec
from refquant.errors import InputError
from refquant.methods.compensate.gptq import gptq_trace
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array, Float64Array
from refquant.numerics.casting import as_working


@dataclass(frozen=True, slots=True, kw_only=True)
class Quadratic:
    """Weight and damped Hessian as GPTQ prepares them, with the Hessian's inverse and root.

    Parameters
    ----------
    weight : float64 ndarray ``[out, n]``
        Columns of dead inputs are 0.
    hessian : float64 ndarray ``[n, n]``
        Damped.
    inverse : float64 ndarray ``[n, n]``
    root : float64 ndarray ``[n, n]``
        Upper triangular ``R`` with ``H = R^T R``.
    """

    weight: Float64Array
    hessian: Float64Array
    inverse: Float64Array
    root: Float64Array

    @classmethod
    def of(cls, weight: Array, hessian: Array, spec: QuantSpec, damping: float, arithmetic: Arithmetic = FAST) -> Quadratic:
        """Let GPTQ prepare a problem, so that all methods solve the same one; errors as in :func:`refquant.gptq`."""
        trace = gptq_trace(weight, hessian, spec, damping=damping, arithmetic=arithmetic)
        w = np.where(trace.dead, 0.0, as_working(weight).astype(np.float64))
        inverse = arithmetic.matmul(trace.factor.T, trace.factor)
        return cls(weight=w, hessian=trace.hessian, inverse=inverse, root=arithmetic.cholesky(trace.hessian).T)

    def loss(self, values: Array, arithmetic: Arithmetic = FAST) -> Float64Array:
        """Loss of every row ``[out]`` for dequantized values ``[out, n]``."""
        if values.shape != self.weight.shape:
            raise InputError(f"values have shape {values.shape}; the weight has {self.weight.shape}")
        delta = self.weight - values
        return np.asarray(arithmetic.sum(arithmetic.matmul(delta, self.hessian) * delta, axis=1))
