"""Where the bits of packed codes lie, one bit after the other, in whole numbers of Python.

Each layout is a rule that says which bit of the file holds bit ``k`` of which code; nothing here shifts more than one bit at a time. Words
come out as signed numbers of 32 bits, as files have them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import copysign
from typing import Literal

from refquant.errors import UsageError

AWQ_NIBBLES = (0, 2, 4, 6, 1, 3, 5, 7)
"""The output, of eight, that lies in each nibble of a word of AWQ's."""
Zeros = Literal["v1", "v2", "v1_gptqmodel", "v1_autogptq"]
Codes = Sequence[int]


def collect(codes: Codes, bits: int, unit: int, length: int, place: Callable[[int, int], int]) -> list[int]:
    """Numbers of `unit` bits, `length` of them: bit ``k`` of code ``i`` is bit ``place(i, k)`` of the whole string, lowest first.

    Examples
    --------
    >>> collect([1, 2, 3], 4, 8, 2, lambda i, k: 4 * i + k)
    [33, 3]
    """
    found = [0] * length
    taken: set[int] = set()
    for i, code in enumerate(codes):
        if not 0 <= code < 2**bits:
            raise UsageError(f"code {i} is {code}; codes of {bits} bits lie in 0..{2**bits - 1}")
        for k in range(bits):
            at = place(i, k)
            if at in taken:
                raise UsageError(f"bit {at} is taken twice, the second time by bit {k} of code {i}")
            taken.add(at)
            found[at // unit] += (code // 2**k % 2) * 2 ** (at % unit)
    return found


def signed(number: int, bits: int = 32) -> int:
    """A word as two's complement reads it.

    Examples
    --------
    >>> signed(0xFFFFFFFF), signed(5)
    (-1, 5)
    """
    return number - 2**bits if number >= 2 ** (bits - 1) else number


def stream_bytes(codes: Codes, bits: int) -> list[int]:
    """Codes one behind the other, as bytes."""
    return collect(codes, bits, 8, -(-len(codes) * bits // 8), lambda i, k: bits * i + k)


def stream_words(codes: Codes, bits: int) -> list[int]:
    """Codes one behind the other, as int32 words."""
    return [signed(word) for word in collect(codes, bits, 32, -(-len(codes) * bits // 32), lambda i, k: bits * i + k)]


def plane_words(codes: Codes, bits: int) -> list[int]:
    """Of every 32 codes first all of their low four bits, then of what is left the next two, then the highest one."""
    planes: list[tuple[int, int]] = []
    for width in (4, 2, 1):
        if bits // width % 2:
            planes.append((sum(w for _, w in planes), width))

    def place(i: int, k: int) -> int:
        first, width = next((first, width) for first, width in planes if first <= k < first + width)
        return i // 32 * 32 * bits + 32 * first + i % 32 * width + (k - first)

    return [signed(word) for word in collect(codes, bits, 32, -(-len(codes) // 32) * bits, place)]


def gptq_words(codes: Codes, bits: int) -> list[int]:
    """A run of fields as GPTQ's files have it: a stream, but planes for 5, 6 and 7 bits."""
    return plane_words(codes, bits) if bits in (5, 6, 7) else stream_words(codes, bits)


def gptq_zeros(zeros: Codes, bits: int, how: Zeros) -> list[int]:
    """The zero points of one group, along the outputs.

    Examples
    --------
    >>> gptq_zeros([3] * 8, 4, "v1") == gptq_zeros([2] * 8, 4, "v2") == [0x22222222]
    True
    """
    if how == "v2":
        return gptq_words(zeros, bits)
    if how == "v1":
        return gptq_words([zero - 1 for zero in zeros], bits)
    if 32 % bits:
        return gptq_words([(zero - 1) % 2**bits for zero in zeros], bits)
    run = 32 // bits
    words = []
    for start in range(0, len(zeros), run):
        fields = zeros[start : start + run]
        if how == "v1_gptqmodel":  # one number, from which 1 is taken at every field: borrows go where they go
            words.append(sum((zero - 1) * 2 ** (bits * j) for j, zero in enumerate(fields)) % 2**32)
        else:
            words.append(_united([zero - 1 for zero in fields], bits))
    return [signed(word) for word in words]


def _united(numbers: Codes, bits: int) -> int:
    """Bit by bit: set if any number, moved to its field, has it; negative ones have endlessly many."""
    word = 0
    for j, number in enumerate(numbers):
        for at in range(bits * j, 32):
            if number // 2 ** (at - bits * j) % 2 and not word // 2**at % 2:
                word += 2**at
    return word


def awq_words(codes: Codes) -> list[int]:
    """Fields of 4 bits along the outputs, eight a word, in AWQ's order."""
    return [signed(w) for w in collect(codes, 4, 32, len(codes) // 8, lambda i, k: i // 8 * 32 + 4 * AWQ_NIBBLES.index(i % 8) + k)]


def awq_interleaved(rows: Sequence[Codes]) -> list[list[int]]:
    """Codes ``[out, in]`` as llm-awq's int16 words ``[out / 4, in]``.

    Within 32 inputs, pair ``p`` of block ``b`` becomes pair number ``4 p + b``; within eight of the result the even places come first;
    then 64 inputs of each of four outputs follow each other, four codes a word.
    """
    found = []
    for first in range(0, len(rows), 4):
        nibbles = [0] * (4 * len(rows[0]))
        for r in range(4):
            for i, code in enumerate(rows[first + r]):
                block, pair, half = i % 32 // 8, i % 8 // 2, i % 2
                paired = i // 32 * 32 + 8 * pair + 2 * block + half
                turned = paired // 8 * 8 + 4 * (paired % 2) + paired % 8 // 2
                nibbles[turned // 64 * 256 + 64 * r + turned % 64] = code
        words = collect(nibbles, 4, 16, len(rows[0]), lambda n, k: 4 * n + k)
        found.append([signed(word, 16) for word in words])
    return found


def nibbles(codes: Codes, first: Literal["low", "high"], filler: int) -> list[int]:
    """Two codes a byte, the even one in the named half; behind an odd number of them the filler."""
    filled = [*codes, *[filler] * (len(codes) % 2)]
    turn = 0 if first == "low" else 1
    return collect(filled, 4, 8, len(filled) // 2, lambda i, k: i // 2 * 8 + 4 * (i % 2 ^ turn) + k)


def offset_words(codes: Codes, bits: int) -> list[int]:
    """Signed codes of compressed-tensors: ``code + 2^(bits-1)`` as a stream of words."""
    return stream_words([code + 2 ** (bits - 1) for code in codes], bits)


def half_bytes(number: float) -> list[int]:
    """The two bytes of a finite float16 number, the lower one first, from its sign, exponent and mantissa.

    Examples
    --------
    >>> half_bytes(1.0), half_bytes(-2.0)
    ([0, 60], [0, 192])
    """
    top, bottom = abs(number).as_integer_ratio()
    sign = 32768 if copysign(1.0, number) < 0 else 0
    code = next((c for c in range(31744) if _half(c) == (top, bottom)), None)
    if code is None:
        raise UsageError(f"{number} is no finite float16 number")
    return [(sign + code) % 256, (sign + code) // 256]


def _half(code: int) -> tuple[int, int]:
    """A positive float16 code as a ratio in lowest terms."""
    exponent, mantissa = divmod(code, 1024)
    top, bottom = (mantissa, 2**24) if exponent == 0 else ((1024 + mantissa) * 2 ** max(exponent - 25, 0), 2 ** max(25 - exponent, 0))
    while top % 2 == 0 and bottom % 2 == 0:
        top, bottom = top // 2, bottom // 2
    return top, bottom if top else 1


def q4_0(codes: Codes, scale: float) -> list[int]:
    """A block of ggml's Q4_0: the scale, then code + 8 of element j in the low half and of element j + 16 in the high half of byte j."""
    data = collect([code + 8 for code in codes], 4, 8, 16, lambda i, k: i % 16 * 8 + i // 16 * 4 + k)
    return half_bytes(scale) + data


def q8_0(codes: Codes, scale: float) -> list[int]:
    """A block of ggml's Q8_0: the scale, then the codes in two's complement."""
    return half_bytes(scale) + [code % 256 for code in codes]
