"""Random numbers and matrices that need elementary functions: Gaussians, and orthogonal matrices uniform over the group.

Both are made of raw words (:mod:`refquant.numerics.draws`) by an Arithmetic, so they are as reproducible as that is.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator

from refquant.errors import UsageError
from refquant.numerics.arithmetic import FAST, Arithmetic
from refquant.numerics.arrays import Float64Array
from refquant.numerics.draws import uniforms


def gaussians(rng: Generator, count: int, arithmetic: Arithmetic = FAST) -> Float64Array:
    """Draw independent standard normal numbers, float64 ``[count]``, by Box and Muller's transform.

    The i-th pair of uniform numbers ``u, v`` gives ``r cos(2 pi v)`` and ``r sin(2 pi v)`` with ``r = sqrt(-2 log(1 - u))``, one after the
    other; of an odd count the last is thrown away.

    Examples
    --------
    >>> gaussians(np.random.default_rng(5), 3).round(6).tolist()
    [0.643831, -1.689681, -0.268459]
    """
    pairs = uniforms(rng, ((count + 1) // 2, 2))
    radius = np.sqrt(-2.0 * arithmetic.log(1.0 - pairs[:, 0]))  # 1 - u is exact and never 0
    angle = 2.0 * math.pi * pairs[:, 1]
    drawn = np.stack([radius * arithmetic.cos(angle), radius * arithmetic.sin(angle)], axis=1)
    return np.asarray(drawn.reshape(-1)[:count])


def random_orthogonal(rng: Generator, size: int, arithmetic: Arithmetic = FAST) -> Float64Array:
    """Draw an orthogonal matrix, uniform over all of them (Haar's measure), float64 ``[size, size]``.

    It is the Q of the QR factorization of a Gaussian matrix with the signs of R's diagonal made positive, but without the matrix: a product
    of reflections that carry Gaussian vectors of length ``size, size - 1, ..., 2`` to the first axis (G. W. Stewart, SIAM J. Numer. Anal.
    17, 1980). Cost: ``size`` outer products, 2/3 size^3 multiplications.

    Raises
    ------
    UsageError
        If `size` is not a positive integer.

    Examples
    --------
    >>> q = random_orthogonal(np.random.default_rng(5), 3)
    >>> bool(np.abs(np.inner(q, q) - np.eye(3)).max() < 1e-15)
    True
    """
    if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
        raise UsageError(f"the size of an orthogonal matrix is a positive integer, not {size!r}")
    q = np.eye(size)
    signs = np.empty(size)
    signs[-1] = 1.0 if gaussians(rng, 1, arithmetic)[0] >= 0 else -1.0
    for length in range(2, int(size) + 1):  # from the smallest reflection outwards: each acts on the block that is already mixed
        x = gaussians(rng, length, arithmetic)
        sign = 1.0 if x[0] >= 0 else -1.0
        signs[size - length] = -sign
        v = x.copy()
        v[0] += sign * np.sqrt(arithmetic.sum(x * x))
        tail = q[size - length :, size - length :]
        image = arithmetic.matmul(v[None, :], tail)  # [1, length]
        tail -= v[:, None] * (image * (2.0 / arithmetic.sum(v * v)))
    return np.asarray(q * signs[:, None] if size > 1 else signs[:, None].copy())
