"""Sums of scaled signs as a type: what they stand for, what they cost, there and back, and what is refused."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from refquant.core.binary_tensor import BinarySpec, BinaryTensor
from refquant.core.qtensor import Origin
from refquant.errors import InputError, UsageError

ORIGIN = Origin(method="test")


def example(**changes):
    """Two rows, five columns in blocks of two: two terms, one, three."""
    rng = np.random.default_rng(3)
    orders = np.array([2, 1, 3], dtype=np.uint8)
    widths = np.array([2, 2, 1])
    codes = rng.integers(0, np.repeat(1 << orders, widths), size=(2, 5)).astype(np.uint8)
    parts = {
        "codes": codes,
        "orders": orders,
        "row_scales": rng.standard_normal((6, 2)).astype(np.float16),
        "column_scales": rng.standard_normal(4 + 2 + 3).astype(np.float16),
    }
    return BinaryTensor(**parts | changes, spec=BinarySpec(block=2), origin=ORIGIN)


def test_every_entry_is_its_sum_of_signed_products():
    t = example()
    expected = [[Fraction(0)] * 5 for _ in range(2)]
    row = column = 0
    for order, columns in ((2, (0, 1)), (1, (2, 3)), (3, (4,))):
        for k in range(order):
            for place, j in enumerate(columns):
                for i in range(2):
                    sign = 1 if int(t.codes[i, j]) >> k & 1 else -1
                    expected[i][j] += sign * Fraction(float(t.row_scales[row + k, i])) * Fraction(float(t.column_scales[column + place]))
            column += len(columns)
        row += order
    np.testing.assert_allclose(t.dequantize(np.dtype(np.float64)), np.array(expected, dtype=float), rtol=0, atol=1e-15)
    assert t.dequantize().dtype == np.float32


def test_every_bit_is_counted():
    t = example()
    signs = 2 * (2 * 2 + 2 * 1 + 1 * 3)
    assert t.total_bits == signs + 16 * (6 * 2 + 9) + 2 * 3
    assert t.bits_per_weight == Fraction(t.total_bits, 10)


def test_parts_make_it_again_with_the_same_digest():
    t = example()
    again = BinaryTensor.from_parts(t.parts(), BinarySpec.from_json(t.spec.to_json()), ORIGIN)
    assert again.digest() == t.digest()
    flipped = t.codes ^ np.array([[1, 0, 0, 0, 0], [0] * 5], dtype=np.uint8)
    assert example(codes=flipped).digest() != t.digest()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"orders": np.array([2, 1, 4], dtype=np.uint8)}, "3 blocks have 1 to 3 signs"),
        ({"orders": np.array([2, 1], dtype=np.uint8)}, "3 blocks"),
        ({"codes": np.full((2, 5), 3, dtype=np.uint8)}, "more signs than its block"),
        ({"codes": np.zeros((2, 5), dtype=np.int8)}, "uint8 matrix"),
        ({"row_scales": np.zeros((5, 2), dtype=np.float16)}, r"row scales are float16 \(6, 2\)"),
        ({"column_scales": np.zeros(9, dtype=np.float32)}, "column scales are float16"),
        ({"row_scales": np.full((6, 2), np.inf, dtype=np.float16)}, "row scale is not finite"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        example(**changes)


@pytest.mark.parametrize("text", ["", "3", '{"kind":"integer"}', '{"block":2}', '{"kind":"binary","block":2,"other":1}'])
def test_other_json_is_refused(text):
    with pytest.raises(InputError, match="JSON of a binary spec"):
        BinarySpec.from_json(text)


def test_a_block_is_a_positive_number_of_columns():
    with pytest.raises(UsageError, match="positive integer"):
        BinarySpec(block=0)
    with pytest.raises(InputError, match="is made of codes"):
        BinaryTensor.from_parts({}, BinarySpec(block=2), ORIGIN)
