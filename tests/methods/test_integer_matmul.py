"""Integer products against Python's integers: every width, the largest codes, both float formats and their borders."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.errors import InputError, UsageError
from refquant.formats import IntFormat
from refquant.methods.kernels.integer_matmul import INT32_MAX, accumulator_bound, exact_dtype, integer_matmul, largest_magnitude

FORMATS = [IntFormat(bits=bits, signed=signed) for bits in range(1, 9) for signed in (True, False)]
FORMATS += [IntFormat(bits=bits, signed=True, narrow=True) for bits in range(2, 9)]


def by_hand(a, w):
    """Sums of products of Python integers, which have no width."""
    rows, columns = [list(map(int, r)) for r in a], [list(map(int, r)) for r in w]
    sums = [[sum(x * y for x, y in zip(r, c, strict=True)) for c in columns] for r in rows]
    return np.array(sums, dtype=object).reshape(len(a), len(w)).astype(np.int32)


def codes_of(fmt, shape, rng):
    """Random members, the ends as often as all others together."""
    inner = rng.integers(fmt.lo, fmt.hi + 1, shape)
    ends = np.where(rng.random(shape) < 0.5, fmt.lo, fmt.hi)
    return np.where(rng.random(shape) < 0.5, ends, inner).astype(fmt.dtype)


@pytest.mark.parametrize("a_format", FORMATS, ids=lambda f: f.name)
@pytest.mark.parametrize("w_format", FORMATS, ids=lambda f: f.name)
def test_every_pair_of_formats(a_format, w_format):
    rng = np.random.default_rng(FORMATS.index(a_format) * 100 + FORMATS.index(w_format))
    a, w = codes_of(a_format, (3, 21), rng), codes_of(w_format, (4, 21), rng)
    found, expected = integer_matmul(a, w), by_hand(a, w)
    assert found.dtype == np.int32
    assert found.tobytes() == expected.tobytes()


@given(
    seed=st.integers(0, 2**32),
    tokens=st.integers(0, 5),
    columns=st.integers(0, 300),
    out=st.integers(0, 5),
    bits=st.sampled_from([1, 4, 8]),
)
def test_any_shape(seed, tokens, columns, out, bits):
    rng, fmt = np.random.default_rng(seed), IntFormat(bits=bits, signed=True)
    a, w = codes_of(fmt, (tokens, columns), rng), codes_of(fmt, (out, columns), rng)
    found = integer_matmul(a, w)
    assert (found.shape, found.dtype) == ((tokens, out), np.int32)
    assert found.tobytes() == by_hand(a, w).tobytes()


@pytest.mark.parametrize("columns", [1023, 1024, 1025, 4099])
def test_the_largest_sums_of_eight_bits_around_what_float32_holds(columns):
    """1024 * 128 * 128 is 2^24, the last sum of int8 products that float32 is trusted with; one more column takes float64.

    Sums beyond it are odd at times: the last column decides the last bit.
    """
    a = np.full((1, columns), -128, dtype=np.int8)
    w = np.full((2, columns), -128, dtype=np.int8)
    w[1, -1], a[0, -1] = 127, 127
    found = integer_matmul(a, w)
    assert found.tobytes() == by_hand(a, w).tobytes()
    odd = integer_matmul(np.full((1, columns), 255, np.uint8), np.full((1, columns), 255, np.uint8))
    assert odd.item() == 65025 * columns


def test_the_largest_sums_of_sixteen_bits():
    """Two products of uint16 would fill 33 bits; of int16, 2^31, one more than an int32 holds. One product and one less fit."""
    low = np.array([[-32768]], dtype=np.int16)
    assert integer_matmul(low, low).item() == 2**30
    two = np.array([[-32768, -32768]], dtype=np.int16)
    with pytest.raises(UsageError, match=r"2 products of codes of magnitude up to 32768 and 32768 may sum to 2147483648; .* 2147483647"):
        integer_matmul(two, two)
    narrow = np.array([[-32767, 32767]], dtype=np.int16)
    assert integer_matmul(narrow, narrow).item() == 2 * 32767**2
    eight = np.full((1, 511), 65535, dtype=np.uint16), np.full((1, 511), -128, dtype=np.int8)
    with pytest.raises(UsageError, match="may sum to"):
        integer_matmul(*eight)
    fits = eight[0][:, :256], eight[1][:, :256]
    assert integer_matmul(*fits).item() == -256 * 65535 * 128


def test_bounds_by_their_borders():
    assert accumulator_bound(1, INT32_MAX, 1) == INT32_MAX
    assert accumulator_bound(33025, 255, 255) == 33025 * 255 * 255 <= INT32_MAX
    with pytest.raises(UsageError, match="33026 products"):
        accumulator_bound(33026, 255, 255)
    assert exact_dtype(2**24) == np.float32
    assert exact_dtype(2**24 + 1) == exact_dtype(2**53) == np.float64
    # The reason for the borders: the next integer has no float of its own.
    assert np.float32(2**24) + np.float32(1) == np.float32(2**24)
    assert np.float64(2**53) + 1.0 == np.float64(2**53)
    with pytest.raises(UsageError, match=r"9007199254740993; float64"):
        exact_dtype(2**53 + 1)
    assert largest_magnitude(np.array([[-128]], np.int8)) == 128
    assert largest_magnitude(np.zeros((0, 3), np.int8)) == 0


def test_a_bound_is_not_taken_on_the_codes_own_width():
    """NumPy's abs(-128) is -128 in int8, and 300 * 128 wraps in int16: neither may enter the bound."""
    a = np.full((1, 140_000), -128, dtype=np.int8)
    with pytest.raises(UsageError, match="140000 products of codes of magnitude up to 128 and 128 may sum to 2293760000"):
        integer_matmul(a, a)


@pytest.mark.parametrize(
    ("a", "w", "message"),
    [
        (np.zeros((2, 3)), np.zeros((2, 3), np.int8), "activation codes are a matrix of integers, not float64"),
        (np.zeros((2, 3), np.int8), np.zeros((2, 3), bool), "weight codes are a matrix of integers, not bool"),
        (np.zeros(3, np.int8), np.zeros((2, 3), np.int8), r"not int8 of shape \(3,\)"),
        (np.zeros((2, 3), np.int8), np.zeros((2, 4), np.int8), r"\(2, 3\) and weight codes of shape \(2, 4\) differ"),
    ],
)
def test_refused(a, w, message):
    with pytest.raises(InputError, match=message):
        integer_matmul(a, w)
