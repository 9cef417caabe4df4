"""The arithmetic lane: how products, sums, factorizations and elementary functions are done.

Everything that may differ between machines (BLAS, LAPACK, transcendental functions, reduction order) is reached through an
:class:`Arithmetic`; the rest of the package uses only operations that IEEE 754 fixes to the bit: ``+ - * / sqrt``, comparisons,
rounding, scaling by powers of two. A test forbids ``@``, ``np.exp`` and their kin outside this folder.

``FAST`` hands them to BLAS, LAPACK and NumPy: results carry the usual error bounds, and their last bits depend on the machine.
``ORDERED`` (:mod:`refquant.numerics.ordered`) gives the same bytes everywhere.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import scipy.linalg
import scipy.linalg.blas
import scipy.special

from refquant.errors import InputError, NotPositiveDefiniteError
from refquant.numerics.arrays import Array
from refquant.numerics.gram_digits import GramDigits

Axis = int | tuple[int, ...] | None


class Arithmetic(ABC):
    """The operations whose last bits depend on who computes them.

    Every operation keeps the floating dtype of its arguments (float32 or float64) and writes into none but those called `out` and `total`,
    and where its name says so.
    """

    name: str
    regroups: bool = False
    """Whether a method may take its sums in whatever order is fast: last bits are promised to nobody."""

    @abstractmethod
    def matmul(self, a: Array, b: Array) -> Array:
        """Product of stacks of matrices: ``[..., M, K] x [..., K, N] -> [..., M, N]``."""

    @abstractmethod
    def gram(self, x: Array) -> Array:
        """Symmetric product ``x^T x`` of ``[tokens, features]``: ``[features, features]``, exactly symmetric."""

    def add_gram(self, total: Array, x: Array) -> None:
        """Add :meth:`gram` of `x` to the upper triangle of a C-contiguous matrix; what is below it afterwards is not said."""
        total += self.gram(x)

    def gram_digits(self, x: Array) -> GramDigits | None:
        """What :meth:`gram` can be merged from without a bit depending on the grouping; None where there is no such thing."""
        return None

    @abstractmethod
    def sum(self, x: Array, axis: Axis = None, keepdims: bool = False) -> Array:
        """Sum along `axis`."""

    def mean(self, x: Array, axis: Axis = None, keepdims: bool = False) -> Array:
        """Arithmetic mean along `axis`: the sum divided by the count; of nothing there is none (InputError)."""
        if not x.size:
            raise InputError(f"the mean of an empty array (shape {x.shape}) is not defined")
        total = self.sum(x, axis=axis, keepdims=keepdims)
        return np.asarray(total / (x.size // max(np.size(total), 1)), dtype=x.dtype)

    @abstractmethod
    def exp(self, x: Array) -> Array:
        """Natural exponential, elementwise."""

    @abstractmethod
    def log(self, x: Array) -> Array:
        """Natural logarithm, elementwise."""

    @abstractmethod
    def power(self, x: Array, exponent: Array | float, out: Array | None = None) -> Array:
        """``x ** exponent`` for non-negative `x`, elementwise; into `out`, which may be `x`, if it is given."""

    @abstractmethod
    def sin(self, x: Array) -> Array:
        """Sine, elementwise."""

    @abstractmethod
    def cos(self, x: Array) -> Array:
        """Cosine, elementwise."""

    @abstractmethod
    def erf(self, x: Array) -> Array:
        """Gauss error function, elementwise."""

    @abstractmethod
    def cholesky(self, h: Array) -> Array:
        """Lower factor ``L`` with ``h = L L^T``.

        Raises
        ------
        NotPositiveDefiniteError
            If a pivot is not positive.
        """

    @abstractmethod
    def inverse_lower(self, lower: Array) -> Array:
        """Inverse of a lower triangular matrix with a non-zero diagonal."""

    def cholesky_in_place(self, h: Array) -> Array:
        """:meth:`cholesky` for whoever has no more use for `h`, a float64 matrix in Fortran order: the result may lie in its memory.

        After a failure the strict upper triangle of `h` is what it was.
        """
        return self.cholesky(h)

    def inverse_lower_in_place(self, lower: Array) -> Array:
        """:meth:`inverse_lower` likewise."""
        return self.inverse_lower(lower)

    def softmax(self, x: Array, axis: int = -1) -> Array:
        """Softmax along `axis`: ``exp(x - max) / sum``, in the dtype of `x`."""
        shifted = self.exp(x - np.max(x, axis=axis, keepdims=True))
        return np.asarray(shifted / self.sum(shifted, axis=axis, keepdims=True))

    def logsumexp(self, x: Array, axis: int = -1) -> Array:
        """``log(sum(exp(x)))`` along `axis`, shifted by the maximum; the axis is dropped."""
        top = np.max(x, axis=axis, keepdims=True)
        return np.asarray(np.squeeze(top, axis) + self.log(self.sum(self.exp(x - top), axis=axis)))

    def __repr__(self) -> str:
        return self.name.upper()


class FastArithmetic(Arithmetic):
    """BLAS, LAPACK and NumPy's own elementary functions."""

    name = "fast"
    regroups = True

    def matmul(self, a: Array, b: Array) -> Array:
        """Product through BLAS."""
        return np.asarray(np.matmul(a, b))

    def gram(self, x: Array) -> Array:
        """``x^T x``; NumPy recognises the pattern and calls SYRK, which computes one triangle and mirrors it."""
        if not (x.flags.c_contiguous or x.flags.f_contiguous):
            x = np.ascontiguousarray(x)  # other strides do not reach SYRK, and two triangles computed apart may differ
        return np.asarray(np.matmul(x.T, x))

    def add_gram(self, total: Array, x: Array) -> None:
        """``total += x^T x`` by SYRK in the memory of `total`: one triangle, and no second matrix."""
        if not x.size:
            return
        if not total.flags.c_contiguous or total.dtype != x.dtype:  # SYRK would write into a copy
            super().add_gram(total, x)
            return
        syrk = scipy.linalg.blas.ssyrk if x.dtype == np.float32 else scipy.linalg.blas.dsyrk
        # BLAS reads columns first: rows of ours are its columns, and our upper triangle its lower one (in OpenBLAS the faster of the two).
        syrk(1.0, np.ascontiguousarray(x).T, beta=1.0, c=total.T, lower=1, overwrite_c=1)

    def sum(self, x: Array, axis: Axis = None, keepdims: bool = False) -> Array:
        """Sum with NumPy's pairwise order."""
        return np.asarray(np.sum(x, axis=axis, keepdims=keepdims))

    def exp(self, x: Array) -> Array:
        """Exponential by NumPy."""
        return np.exp(x)

    def log(self, x: Array) -> Array:
        """Logarithm by NumPy."""
        return np.log(x)

    def power(self, x: Array, exponent: Array | float, out: Array | None = None) -> Array:
        """Power by NumPy."""
        return np.asarray(np.power(x, exponent, out=out))

    def sin(self, x: Array) -> Array:
        """Sine by NumPy."""
        return np.sin(x)

    def cos(self, x: Array) -> Array:
        """Cosine by NumPy."""
        return np.cos(x)

    def erf(self, x: Array) -> Array:
        """Error function by SciPy."""
        return np.asarray(scipy.special.erf(x))

    def cholesky(self, h: Array) -> Array:
        """Lower factor by LAPACK's ``potrf``."""
        return _factored(*_lapack("potrf", h)(h, lower=1, clean=1))

    def inverse_lower(self, lower: Array) -> Array:
        """Triangular inverse by LAPACK's ``trtri``."""
        return _inverted(*_lapack("trtri", lower)(lower, lower=1))

    def cholesky_in_place(self, h: Array) -> Array:
        """The same factor, by the same ``potrf``, in the memory of `h`."""
        lower = _factored(*_lapack("potrf", h)(h, lower=1, clean=0, overwrite_a=1))
        for column in range(1, len(lower)):
            lower[:column, column] = 0  # contiguous in Fortran order
        return lower

    def inverse_lower_in_place(self, lower: Array) -> Array:
        """The same inverse, by the same ``trtri``, in the memory of `lower`."""
        return _inverted(*_lapack("trtri", lower)(lower, lower=1, overwrite_c=1))


def _lapack(name: str, a: Array) -> Any:
    """LAPACK's routine for the dtype of `a`: single precision for float32, double for everything else."""
    return getattr(scipy.linalg.lapack, ("s" if a.dtype == np.float32 else "d") + name)


def _factored(lower: Array, info: int) -> Array:
    if info > 0:
        raise NotPositiveDefiniteError(f"the matrix is not positive definite: pivot {info - 1} is not positive", info - 1)
    return np.asarray(lower)


def _inverted(inverse: Array, info: int) -> Array:
    if info > 0:
        raise NotPositiveDefiniteError(f"the triangular matrix is singular: entry {info - 1} of its diagonal is 0", info - 1)
    return np.asarray(inverse)


FAST: Arithmetic = FastArithmetic()
