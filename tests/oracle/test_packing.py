"""The oracle of packing against words written down by hand, and against the bits of one large integer."""

import pytest

from refquant.errors import UsageError
from refquant.oracle.packing import (
    awq_interleaved,
    awq_words,
    collect,
    gptq_words,
    gptq_zeros,
    half_bytes,
    nibbles,
    offset_words,
    plane_words,
    q4_0,
    q8_0,
    stream_bytes,
    stream_words,
)


@pytest.mark.parametrize("bits", range(1, 9))
def test_a_stream_is_the_digits_of_one_number(bits):
    codes = [(i * 37 + 11) % (1 << bits) for i in range(45)]
    number = sum(code << bits * i for i, code in enumerate(codes))
    assert bytes(stream_bytes(codes, bits)) == number.to_bytes(-(-45 * bits // 8), "little")
    words = b"".join(word.to_bytes(4, "little", signed=True) for word in stream_words(codes, bits))
    assert words == number.to_bytes(-(-45 * bits // 32) * 4, "little")


def test_words_by_hand():
    assert stream_words([1, 2, 3, 4, 5, 6, 7, 15], 4) == [0xF7654321 - 2**32]
    assert awq_words(range(8)) == [0x75316420]
    assert nibbles([1, 2, 3], "low", 7) == [0x21, 0x73]
    assert nibbles([1, 2, 3], "high", 7) == [0x12, 0x37]
    assert offset_words([-8, 7, 0], 4) == [0x8F0]


def test_planes_by_hand():
    # 33 = 0b100001 of 6 bits: a 1 in the low plane, 0b10 in the high one.
    assert plane_words([33] * 32, 6) == [0x11111111] * 4 + [0xAAAAAAAA - 2**32] * 2
    assert plane_words([17] * 32, 5) == [0x11111111] * 4 + [-1]
    assert plane_words([0x41] * 32, 7) == [0x11111111] * 4 + [0, 0, -1]
    assert gptq_words([17] * 32, 5) != stream_words([17] * 32, 5)


def test_zero_points_by_hand():
    zeros = [0, 5, 1, 1, 1, 1, 1, 1]
    assert gptq_zeros(zeros, 4, "v2") == [0x11111150]
    assert gptq_zeros(zeros, 4, "v1_gptqmodel") == [0x0000003F]  # 0x11111150 - 0x11111111: the 0 borrows from the 5
    assert gptq_zeros(zeros, 4, "v1_autogptq") == [-1]  # the 0 became -1, which sets everything above
    assert gptq_zeros([16, 1, 1, 1, 1, 1, 1, 1], 4, "v1") == [15]
    assert gptq_zeros([0] * 32, 3, "v1_gptqmodel") == [-1, -1, -1]


def test_interleaved_places_by_hand():
    """Input 8 of the first row is pair 0 of block 1: pair 1 of the row, place 2 of eight, then place 1."""
    rows = [[0] * 64 for _ in range(4)]
    rows[0][8] = 9
    assert awq_interleaved(rows) == [[0x90] + [0] * 63]
    rows[0][8], rows[3][1] = 0, 15  # place 1 is the first odd one, the fifth of its eight; the fourth row follows 3 times 64 codes
    assert awq_interleaved(rows) == [[0] * 49 + [15] + [0] * 14]


@pytest.mark.parametrize(
    ("number", "code"),
    [(1.0, 0x3C00), (-2.0, 0xC000), (65504.0, 0x7BFF), (2.0**-24, 1), (2.0**-14, 0x400), (0.0, 0), (-0.0, 0x8000), (1.5, 0x3E00)],
)
def test_scales_as_ieee_754_has_them(number, code):
    assert half_bytes(number) == [code % 256, code // 256]


def test_blocks_by_hand():
    assert q4_0([-8, *[0] * 15, 7, *[0] * 15], 1.0) == [0, 0x3C, 0xF0, *[0x88] * 15]
    assert q8_0([-128, 127, *[-1] * 30], 1.0) == [0, 0x3C, 128, 127, *[255] * 30]


def test_what_does_not_fit_is_refused():
    with pytest.raises(UsageError, match=r"code 1 is 16; codes of 4 bits lie in 0\.\.15"):
        stream_words([0, 16], 4)
    with pytest.raises(UsageError, match="bit 0 is taken twice"):
        collect([1, 1], 4, 8, 1, lambda i, k: k)
    with pytest.raises(UsageError, match=r"0\.1 is no finite float16 number"):
        half_bytes(0.1)
