"""The oracle's integer linear against the real number that it rounds, and the corrections in integers."""

from fractions import Fraction

import numpy as np
import pytest

from refquant.oracle import exact
from refquant.oracle.integer_linear import integer_linear


@pytest.mark.parametrize(("group", "activation_group"), [(None, None), (4, None), (None, 3), (4, 3), (5, 5)])
def test_without_rounding_it_is_the_product_of_the_decoded_numbers(group, activation_group):
    rng = np.random.default_rng(3)
    columns, tokens, out = 11, 3, 2
    counts = [-(-columns // (width or columns)) for width in (activation_group, group)]
    a, w = rng.integers(0, 256, (tokens, columns)).tolist(), rng.integers(0, 16, (out, columns)).tolist()
    a_zero, w_zero = rng.integers(0, 256, (tokens, counts[0])).tolist(), rng.integers(0, 16, (out, counts[1])).tolist()
    a_scale = [[Fraction(int(n), 97) for n in line] for line in rng.integers(1, 50, (tokens, counts[0]))]
    w_scale = [[Fraction(int(n), 89) for n in line] for line in rng.integers(1, 50, (out, counts[1]))]
    bias = [Fraction(1, 3), Fraction(-2, 7)]
    _, outputs = integer_linear(a, a_scale, a_zero, w, w_scale, w_zero, exact, group=group, activation_group=activation_group, bias=bias)
    for t in range(tokens):
        for o in range(out):
            total = bias[o]
            for k in range(columns):
                h, g = k // (activation_group or columns), k // (group or columns)
                total += a_scale[t][h] * (a[t][k] - a_zero[t][h]) * w_scale[o][g] * (w[o][k] - w_zero[o][g])
            assert outputs[t][o] == total
