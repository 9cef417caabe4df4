"""The ordered arithmetic: the same bytes on every machine, BLAS, number of threads and SIMD level.

Products, sums and Gram matrices are made of integers that BLAS adds exactly, factorizations of those products and of elementwise operations
in a fixed order, elementary functions of elementwise operations alone. The modules state what each promises.
"""

from __future__ import annotations

from refquant.numerics import elementary, exact_product, exact_sum, triangular
from refquant.numerics.arithmetic import Arithmetic, Axis
from refquant.numerics.arrays import Array
from refquant.numerics.gram_digits import GramDigits


class OrderedArithmetic(Arithmetic):
    """Sliced exact products and sums, factorizations on top of them, and elementary functions of our own.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[1e-20, 1.0], [1.0, -1.0]])
    >>> ORDERED.sum(x), ORDERED.matmul(x, x)[0, 0] == 1
    (array(1.), np.True_)
    """

    name = "ordered"

    def matmul(self, a: Array, b: Array) -> Array:
        """Sliced exact product: two slices for float32, three for float64."""
        return exact_product.product(a, b)

    def gram(self, x: Array) -> Array:
        """``x^T x`` that does not depend on how tokens are grouped or ordered."""
        return GramDigits.of(x).total().astype(x.dtype, copy=False)

    def gram_digits(self, x: Array) -> GramDigits | None:
        """The integers behind :meth:`gram`."""
        return GramDigits.of(x)

    def sum(self, x: Array, axis: Axis = None, keepdims: bool = False) -> Array:
        """Sliced exact sum."""
        return exact_sum.total(x, axis, keepdims)

    def exp(self, x: Array) -> Array:
        """Exponential by :mod:`refquant.numerics.elementary`."""
        return elementary.exp(x)

    def log(self, x: Array) -> Array:
        """Logarithm by :mod:`refquant.numerics.elementary`."""
        return elementary.log(x)

    def power(self, x: Array, exponent: Array | float, out: Array | None = None) -> Array:
        """Power by :mod:`refquant.numerics.elementary`."""
        found = elementary.power(x, exponent)
        if out is None:
            return found
        out[...] = found
        return out

    def sin(self, x: Array) -> Array:
        """Sine by :mod:`refquant.numerics.elementary`."""
        return elementary.sin(x)

    def cos(self, x: Array) -> Array:
        """Cosine by :mod:`refquant.numerics.elementary`."""
        return elementary.cos(x)

    def erf(self, x: Array) -> Array:
        """Error function by :mod:`refquant.numerics.elementary`."""
        return elementary.erf(x)

    def cholesky(self, h: Array) -> Array:
        """Lower factor, blocked, on top of the sliced product."""
        return triangular.cholesky(h, exact_product.product)

    def inverse_lower(self, lower: Array) -> Array:
        """Triangular inverse, blocked, on top of the sliced product."""
        return triangular.inverse_lower(lower, exact_product.product)


ORDERED: Arithmetic = OrderedArithmetic()
