"""Quantized tensors: what they refuse, what their digest covers, how many bits they count."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from refquant.core import Origin, QTensor, QuantSpec, Tiling, spec
from refquant.errors import InputError, NumericalError
from refquant.methods.grid.rtn import rtn
from refquant.numerics.arrays import Array
from tests.core.nasty import matrices, specs


def example() -> QTensor:
    x = np.array([[-1.0, 0.5, 2.0, 0.1], [3.0, -0.2, 0.0, 1.0]], dtype=np.float32)
    return replace(rtn(x, spec("int4", group_size=2, scale_format="float16")), permutation=np.array([2, 0, 3, 1]))


def test_digest_is_what_it_always_was() -> None:
    # A literal: digests that were written down must stay true.
    assert example().digest() == "8642c49957064a9831c09ce60d7cd1f8975c93c2665b0c2b6ae2181f55a7c893"


def test_digest_changes_with_every_part() -> None:
    q = example()
    codes, scale, zero = q.codes.copy(), q.scale.copy(), q.zero.copy()  # type: ignore[union-attr]
    codes[1, 3] ^= 1
    scale[0, 1] = np.nextafter(scale[0, 1], np.float16(1))
    zero[1, 0] ^= 1
    others = [
        replace(q, codes=codes),
        replace(q, scale=scale),
        replace(q, zero=zero),
        replace(q, zero=q.zero.astype(np.int16)),  # type: ignore[union-attr]
        replace(q, permutation=None),
        replace(q, permutation=np.array([2, 0, 1, 3])),
        replace(q, spec=replace(q.spec, nan="zero")),
        replace(q, spec=replace(q.spec, rounding="floor")),  # type: ignore[arg-type]
        rtn(np.zeros((4, 2)), q.spec),
    ]
    assert len({other.digest() for other in [q, *others]}) == len(others) + 1


def test_digest_does_not_see_memory_order_or_origin() -> None:
    q = example()
    same = replace(
        q,
        codes=np.asfortranarray(q.codes),
        scale=q.scale[::-1][::-1],
        permutation=np.array([2, 0, 3, 1], dtype=np.uint8),
        origin=Origin(method="else", parameters={"a": 1}),
    )
    assert same.digest() == q.digest()
    big_endian = replace(q, zero=q.zero.astype(">i4"))  # type: ignore[union-attr]
    assert big_endian.digest() == replace(q, zero=q.zero.astype("<i4")).digest()  # type: ignore[union-attr]


@given(x=matrices(), s=specs(overflow="saturate"))
def test_bits_are_counted_exactly(x: Array, s: QuantSpec) -> None:
    try:
        q = rtn(x, s)
    except NumericalError:
        assume(False)
    scale_bits = {"float16": 16, "bfloat16": 16, "float32": 32, "float64": 64}[q.scale.dtype.name]
    zero_bits = {"none": 0, "midpoint": 0, "integer": s.format.bits, "integer_wide": 16}[s.scheme.zero]
    tiles = q.scale.size
    assert q.total_bits == x.size * s.format.bits + tiles * (scale_bits + zero_bits)
    assert q.bits_per_weight == (Fraction(q.total_bits, x.size) if x.size else 0)
    assert isinstance(q.bits_per_weight, Fraction)
    if x.size:
        ordered = replace(q, permutation=np.arange(x.shape[1]))
        each = next(n for n in range(10) if 2**n >= x.shape[1])
        assert ordered.total_bits == q.total_bits + x.shape[1] * each


@given(data=st.data())
def test_a_permutation_says_in_which_order_tiles_run(data: st.DataObject) -> None:
    columns = data.draw(st.integers(1, 9))
    order = np.array(data.draw(st.permutations(range(columns))))
    rng = np.random.Generator(np.random.PCG64(data.draw(st.integers(0, 99))))
    x = rng.standard_normal((3, columns))
    s = spec("int8", group_size=3, scheme="sym_narrow")
    in_order = rtn(x[:, order], s)
    codes = np.empty_like(in_order.codes)
    codes[:, order] = in_order.codes
    q = QTensor(codes=codes, scale=in_order.scale, zero=None, spec=s, permutation=order)
    values = q.dequantize()
    for j, column in enumerate(order):
        assert (values[:, column] == in_order.scale[:, j // 3] * codes[:, column]).all()


def test_arrays_inside_cannot_be_written() -> None:
    codes = np.array([[1, 2]], dtype=np.uint8)
    q = QTensor(codes=codes, scale=np.ones((1, 1)), zero=np.zeros((1, 1), dtype=np.uint8), spec=spec("int4"))
    for part in q.parts().values():
        with pytest.raises(ValueError, match="read-only"):
            part[...] = 0
    codes[0, 0] = 3  # the caller's own array stays writable
    assert codes.flags.writeable


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"codes": np.zeros((2, 4), dtype=np.int8)}, "codes of uint4 are uint8, not int8"),
        ({"codes": np.full((2, 4), 16, dtype=np.uint8)}, r"lie in 0\.\.15; found 16\.\.16"),
        ({"scale": np.ones((2, 1), dtype=np.float16)}, r"need scales of shape \(2, 2\)"),
        ({"scale": np.ones((2, 2), dtype=np.float32)}, "keeps scales as float16, not float32"),
        ({"scale": np.zeros((2, 2), dtype=np.float16)}, "positive and finite"),
        ({"zero": None}, "has a zero point"),
        ({"zero": np.zeros((2, 2), dtype=np.float32)}, "integer zero points, not float32"),
        ({"zero": np.zeros((2, 1), dtype=np.uint8)}, "the scale's shape"),
        ({"permutation": np.array([0, 1, 2, 2])}, "not an ordering of 4 columns"),
        ({"permutation": np.array([0, 1, 2])}, "not an ordering of 4 columns"),
        ({"permutation": np.array([0.0, 1.0, 2.0, 3.0])}, "not an ordering of 4 columns"),
        ({"spec": spec("int4", group_size=3, scale_format="float16"), "codes": np.zeros((2, 9), dtype=np.uint8)}, r"shape \(2, 3\)"),
        ({"spec": spec("int4", group_size=2, scheme="sym_gptq", scale_format="float32")}, "keeps scales as float32"),
    ],
)
def test_parts_that_do_not_fit(part: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(example(), **part)  # type: ignore[arg-type]


def test_scales_without_a_format_are_those_of_the_work() -> None:
    with pytest.raises(InputError, match="float32 or float64, not float16"):
        QTensor(
            codes=np.zeros((1, 1), dtype=np.int8), scale=np.ones((1, 1), dtype=np.float16), zero=None, spec=spec("int8", scheme="sym_full")
        )


def test_dequantizing_to_a_dtype() -> None:
    q = rtn(np.array([[0.1, 0.7]], dtype=np.float32), spec("int8", scheme="sym_narrow"))
    assert q.dequantize().dtype == np.float32
    assert q.dequantize(np.dtype(np.float64))[0, 1] == 127 * float(q.scale[0, 0])
    assert rtn(np.array([[0.1, 0.7]]), spec("int8", scheme="sym_narrow")).dequantize().dtype == np.float64
    assert (
        rtn(np.array([[0.1]]), spec("int8", scheme="sym_narrow", tiling=Tiling.tensor(), scale_format="float16")).dequantize().dtype
        == np.float32
    )
