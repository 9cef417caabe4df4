"""Powers of two for probabilities, against exact comparisons of squares."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.errors import InputError, UsageError
from refquant.methods.activation.log2_softmax import quantize_log2


def nearest_power(p, bits, last):
    """[LOG2-1] [LOG2-2]  k is nearest to -log2 p exactly if 2^(-2k-1) < p^2 <= 2^(-2k+1), in fractions."""
    top = (1 << bits) - 1
    k = next((k for k in range(top) if Fraction(p) ** 2 > Fraction(1, 2 ** (2 * k + 1))), top)
    return 0.0 if k == top and last == "zero" else 2.0**-k


@given(st.floats(0, 1), st.integers(1, 7), st.sampled_from(["zero", "power"]))
def test_every_number_goes_to_the_nearest_power(p, bits, last):
    assert quantize_log2(np.array([p]), bits, last)[0] == nearest_power(p, bits, last)


def test_the_border_is_the_root_of_one_half_to_the_bit():
    below = np.nextafter(np.sqrt(0.5), 0)
    around = np.array([below, np.sqrt(0.5), below / 4, np.sqrt(0.5) / 4])
    assert quantize_log2(around, 4).tolist() == [0.5, 1.0, 0.125, 0.25]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_powers_stay_and_zero_does(dtype):
    powers = np.array([1.0, 0.5, 0.25, 2.0**-14, 0.0], dtype=dtype)
    assert quantize_log2(powers, 4).tolist() == powers.tolist()
    assert quantize_log2(powers, 4).dtype == dtype
    assert quantize_log2(powers, 4, "power")[-1] == 2.0**-15


def test_what_is_out_of_range_is_refused():
    with pytest.raises(UsageError, match="1 to 7 bits"):
        quantize_log2(np.ones(1), 8)
    with pytest.raises(UsageError, match="'zero' or 'power'"):
        quantize_log2(np.ones(1), 4, "other")
    for p in (-0.1, 1.1, np.nan):
        with pytest.raises(InputError, match=r"lie in \[0, 1\]"):
            quantize_log2(np.array([p]), 4)
