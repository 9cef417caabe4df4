"""Block types element by element, as their modules' docstrings say: what the fast forms are held against on numbers that break things."""

from __future__ import annotations

from fractions import Fraction

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refquant.layout.gguf import BLOCK_TYPES, GgufTensor, quantize
from refquant.layout.gguf.fields import half_away, half_away_codes
from refquant.layout.gguf.planes import put_planes, side_by_side, take_planes

F32 = np.float32
POOL = [sign * size for size in (0, 2**-149, 2**-128, 2**-126, 2**-30, 0.25, 0.5, 1, 1.5, 3, 7, 8, 127, 254, 60000) for sign in (1.0, -1.0)]


@st.composite
def rows(draw, size):
    """Rows whose numbers come from a few, so that ties, equal magnitudes and zeros of both signs are common, and from anywhere."""
    elements = st.one_of(st.sampled_from(POOL), st.floats(-2, 2, width=16), st.floats(-60000, 60000, width=32))
    few = draw(st.lists(elements, min_size=1, max_size=6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = rng.choice(np.array(few, F32), (draw(st.integers(1, 2)), size))
    return x if draw(st.booleans()) else np.where(rng.random(x.shape) < 0.5, x, x * rng.uniform(-1, 1, x.shape).astype(F32))


def inverse(d):
    with np.errstate(all="ignore"):
        found = F32(1) / d
    return found if np.isfinite(found) else F32(0)


def away(value):
    exact = Fraction(float(value))
    whole = int(abs(exact) + Fraction(1, 2))
    return whole if exact > 0 else -whole


def by_largest(block, divisor):
    d = max(abs(number) for number in block) / F32(divisor)
    return [away(number * inverse(d)) for number in block], d, None


def by_signed_extreme(block, half):
    top = block[0]
    for number in block[1:]:
        if abs(number) > abs(top):
            top = number
    d = top / F32(-half)
    return [min(2 * half - 1, int(number * inverse(d) + F32(half + 0.5))) - half for number in block], d, None


def by_minimum(block, highest):
    low = block.min()  # of zeros of both signs, the one that NumPy finds
    d = (block.max() - low) / F32(highest)
    return [min(highest, int((number - low) * inverse(d) + F32(0.5))) for number in block], d, low


PLAINLY = {
    "Q8_0": (by_largest, 127),
    "TQ1_0": (by_largest, 1),
    "TQ2_0": (by_largest, 1),
    "Q4_0": (by_signed_extreme, 8),
    "Q5_0": (by_signed_extreme, 16),
    "Q4_1": (by_minimum, 15),
    "Q5_1": (by_minimum, 31),
}


@pytest.mark.parametrize("name", PLAINLY)
@settings(max_examples=25)
@given(data=st.data())
def test_quantizing_is_the_definition(name, data):
    kind, (plainly, parameter) = BLOCK_TYPES[name], PLAINLY[name]
    x = data.draw(rows(kind.size))
    before = x.tobytes()
    fields = quantize(x, kind).fields()
    assert x.tobytes() == before
    least = [None] * len(x) if fields.m is None else fields.m
    for block, codes, d, m in zip(x, fields.codes, fields.d, least, strict=True):
        wanted, scale, low = plainly(block, parameter)
        assert codes.tolist() == wanted
        with np.errstate(under="ignore"):
            assert d.tobytes() == np.float16(scale).tobytes()
            assert low is None or m.tobytes() == np.float16(low).tobytes()


@pytest.mark.parametrize("name", PLAINLY)
def test_the_scale_of_zeros_has_the_sign_that_the_definition_gives(name):
    kind, (plainly, parameter) = BLOCK_TYPES[name], PLAINLY[name]
    x = np.zeros((4, kind.size), F32)
    x[1] = -x[1]
    x[2, 1:], x[3, 0] = -0.0, -0.0
    fields = quantize(x, kind).fields()
    for block, d in zip(x, fields.d, strict=True):
        assert d.tobytes() == np.float16(plainly(block, parameter)[1]).tobytes()


def bits_of(block, start, width):
    """Bits `width` wide beginning at bit `start` of a block, by Python's integers."""
    return int.from_bytes(bytes(block), "little") >> start & ((1 << width) - 1)


def plane(block, byte, bits, run, element):
    """Where the formula of planes.py puts an element's bits."""
    group, rest = divmod(element, run * (8 // bits))
    k, place = divmod(rest, run)
    return bits_of(block, 8 * (byte + group * run + place) + k * bits, bits)


def six(block, group, which):
    """Scale or minimum of Q4_K and Q5_K as ggml's get_scale_min_k4 reads it."""
    q = [int(byte) for byte in block[4:16]]
    j = group + 4 * which
    if group < 4:
        return q[j] & 63
    low = q[group + 4] >> 4 if which else q[group + 4] & 15
    return low | q[group - 4 + 4 * which] >> 6 << 4


def signed(value, bits):
    return value - (1 << bits) if value >> (bits - 1) else value


def third_bits(block, group):
    j = group % 8
    return (int(block[96 + j]) >> 4 * (group // 8) & 15 | (int(block[104 + group % 4]) >> 2 * (group // 4) & 3) << 4) - 32


def trit(block, element):
    if element < 160:
        byte, k = element % 32, element // 32
    elif element < 240:
        byte, k = 32 + (element - 160) % 16, (element - 160) // 16
    else:
        byte, k = 48 + (element - 240) % 4, (element - 240) // 4
    return int(block[byte]) * 3**k % 256 * 3 // 256 - 1


# The 16 numbers of IQ4_NL and IQ4_XS, from the steps between them.
NONLINEAR = [sum((23, 21, 18, 16, 14, 13, 12, 11, 12, 12, 13, 15, 16, 20, 24)[:k]) - 127 for k in range(16)]


def six_of_iq4(block, group):
    """Scale of IQ4_XS: the uint16 at byte 2 has upper bits two by two, the uint32 at byte 4 lower ones four by four."""
    return (bits_of(block, 32 + 4 * group, 4) | bits_of(block, 16 + 2 * group, 2) << 4) - 32


# Of each type: code, scale and minimum of an element, and the bytes of its one or two float16 numbers.
READ = {
    "Q8_0": (lambda b, i: signed(int(b[2 + i]), 8), None, None, 0, None),
    "Q4_0": (lambda b, i: plane(b, 2, 4, 16, i) - 8, None, None, 0, None),
    "Q4_1": (lambda b, i: plane(b, 4, 4, 16, i), None, None, 0, 2),
    "Q5_0": (lambda b, i: plane(b, 6, 4, 16, i) + 16 * plane(b, 2, 1, 1, i) - 16, None, None, 0, None),
    "Q5_1": (lambda b, i: plane(b, 8, 4, 16, i) + 16 * plane(b, 4, 1, 1, i), None, None, 0, 2),
    "Q2_K": (lambda b, i: plane(b, 16, 2, 32, i), lambda b, i: int(b[i // 16]) & 15, lambda b, i: int(b[i // 16]) >> 4, 80, 82),
    "Q3_K": (lambda b, i: plane(b, 32, 2, 32, i) + 4 * plane(b, 0, 1, 32, i) - 4, lambda b, i: third_bits(b, i // 16), None, 108, None),
    "Q4_K": (lambda b, i: plane(b, 16, 4, 32, i), lambda b, i: six(b, i // 32, 0), lambda b, i: six(b, i // 32, 1), 0, 2),
    "Q5_K": (
        lambda b, i: plane(b, 48, 4, 32, i) + 16 * plane(b, 16, 1, 32, i),
        lambda b, i: six(b, i // 32, 0),
        lambda b, i: six(b, i // 32, 1),
        0,
        2,
    ),
    "Q6_K": (
        lambda b, i: plane(b, 0, 4, 64, i) + 16 * plane(b, 128, 2, 32, i) - 32,
        lambda b, i: signed(int(b[192 + i // 16]), 8),
        None,
        208,
        None,
    ),
    "IQ4_NL": (lambda b, i: NONLINEAR[plane(b, 2, 4, 16, i)], None, None, 0, None),
    "IQ4_XS": (lambda b, i: NONLINEAR[plane(b, 8, 4, 16, i)], lambda b, i: six_of_iq4(b, i // 32), None, 0, None),
    "TQ1_0": (trit, None, None, 52, None),
    "TQ2_0": (lambda b, i: plane(b, 0, 2, 32, i) - 1, None, None, 64, None),
}


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("seed", [0, 1])
def test_dequantizing_is_the_definition(name, seed):
    kind, (code, scale, least, at_d, at_m) = BLOCK_TYPES[name], READ[name]
    blocks = np.random.default_rng(seed).integers(0, 256, (3, kind.nbytes), dtype=np.uint8)
    halves = {place: np.random.default_rng(place).standard_normal(3).astype("<f2") for place in (at_d, at_m) if place is not None}
    for place, numbers in halves.items():
        blocks[:, place : place + 2] = numbers.view(np.uint8).reshape(3, 2)
    found = GgufTensor(kind=kind, blocks=blocks, shape=(3 * kind.size,)).dequantize().reshape(3, kind.size)
    for number, block in enumerate(blocks):
        for element in range(kind.size):
            step = F32(halves[at_d][number])
            if scale is not None:
                step = step * F32(scale(block, element))
            wanted = step * F32(code(block, element))
            if least is not None:
                wanted = wanted - F32(halves[at_m][number]) * F32(least(block, element))
            elif at_m is not None:
                wanted = wanted + F32(halves[at_m][number])
            assert found[number, element].tobytes() == wanted.tobytes(), (number, element)


def test_every_type_that_has_blocks_is_read_plainly():
    books = {"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"}  # in test_gguf_points
    assert set(READ) | books | {"F32", "F16", "BF16", "MXFP4", "NVFP4"} == set(BLOCK_TYPES)


def test_every_scale_and_code_of_nvfp4():
    e2m1 = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    for byte in range(256):
        block = np.full((1, 36), byte, np.uint8)
        block[0, 4:] = np.arange(32) * 8 % 256 + np.arange(32) // 4  # nibbles of every kind
        found = GgufTensor(kind=BLOCK_TYPES["NVFP4"], blocks=block, shape=(64,)).dequantize()
        exponent, mantissa = byte % 128 // 8, byte % 8
        scale = Fraction(8 + mantissa, 8) * Fraction(2) ** (exponent - 7) if exponent else Fraction(mantissa, 2**9)
        if byte == 0x7F:
            scale = Fraction(0)
        for element in range(64):
            code = plane(block[0], 4, 4, 8, element)
            wanted = scale * Fraction(e2m1[code % 8]) * (-1 if code > 8 else 1)
            assert Fraction(float(found[element])) == wanted


@given(hnp.arrays(F32, st.integers(0, 40), elements=st.one_of(st.floats(-127, 127, width=32), st.integers(-254, 254).map(lambda n: n / 2))))
def test_ties_round_away_from_zero(x):
    assert half_away_codes(x.copy()).tolist() == half_away(x).tolist() == [away(number) for number in x]


def test_every_half_and_its_neighbours_round_as_they_should():
    ties = (np.arange(-254, 255) / 2).astype(F32)
    for x in (ties, np.nextafter(ties, F32(0)), np.nextafter(ties, F32(np.inf)), np.nextafter(ties, F32(-np.inf))):
        assert half_away_codes(x.copy()).tolist() == half_away(x).tolist() == [away(number) for number in x]


@given(st.sampled_from([1, 2, 4]), st.sampled_from([4, 8, 32]), st.integers(0, 7), st.integers(0, 2**32 - 1))
def test_planes_at_another_place_are_planes_moved(bits, run, place, seed):
    place = min(place, 8 - bits)
    packed = np.random.default_rng(seed).integers(0, 256, (2, 64), dtype=np.uint8)
    assert np.array_equal(take_planes(packed, bits, run, place), take_planes(packed, bits, run) << place)
    assert np.array_equal(take_planes(packed[:, :4], 1, 1, place), take_planes(packed[:, :4], 1, 1) << place)


def test_packing_one_block_leaves_its_codes_alone():
    codes = np.arange(32, dtype=np.uint8).reshape(1, 32) % 16
    codes.flags.writeable = False
    put_planes(codes, 4, 16)
    for name in READ:
        kind = BLOCK_TYPES[name]
        blocks = np.random.default_rng(0).integers(0, 256, (1, kind.nbytes), dtype=np.uint8)
        before = blocks.tobytes()
        fields = kind.unpack(blocks)
        held = fields.codes.tobytes()
        kind.pack(fields)
        assert blocks.tobytes() == before
        assert fields.codes.tobytes() == held


def test_rows_side_by_side_are_concatenated():
    rng = np.random.default_rng(0)
    parts = [rng.integers(0, 256, (5, width), dtype=np.uint8) for width in (1, 2, 12, 16, 3)]
    strided = [part[::-1] for part in parts]
    assert np.array_equal(side_by_side(*strided), np.concatenate(strided, axis=1))
