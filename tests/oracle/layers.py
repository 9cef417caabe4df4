"""Small layers with exact weights and Hessians, and an inversion that shares nothing with the oracle's elimination."""

from fractions import Fraction

from hypothesis import assume
from hypothesis import strategies as st

from refquant.oracle import weighted_hessian

F = Fraction
SMALL = st.integers(-12, 12).map(lambda n: F(n, 8))


@st.composite
def layers(draw, most=5, rows=2):
    """Weights and a positive definite Hessian of a few tokens, plus enough diagonal."""
    size = draw(st.integers(1, most))
    inputs = draw(st.lists(st.lists(SMALL, min_size=size, max_size=size), min_size=1, max_size=6))
    hessian = weighted_hessian(inputs)
    assume(any(hessian[i][i] for i in range(size)))
    count = draw(st.integers(1, rows))
    weights = draw(st.lists(st.lists(SMALL, min_size=size, max_size=size), min_size=count, max_size=count))
    return weights, hessian


def identity(size):
    return [[F(int(i == j)) for j in range(size)] for i in range(size)]


def multiply(a, b):
    return [[sum((x * y for x, y in zip(line, column, strict=True)), F(0)) for column in zip(*b, strict=True)] for line in a]


def inverted(square):
    """Gauss-Jordan with row exchanges: shares nothing with the oracle's elimination."""
    size = len(square)
    both = [list(line) + unit for line, unit in zip(square, identity(size), strict=True)]
    for k in range(size):
        pivot = next(i for i in range(k, size) if both[i][k] != 0)
        both[k], both[pivot] = both[pivot], both[k]
        both[k] = [x / both[k][k] for x in both[k]]
        for i in range(size):
            if i != k:
                both[i] = [x - both[i][k] * y for x, y in zip(both[i], both[k], strict=True)]
    return [line[size:] for line in both]
