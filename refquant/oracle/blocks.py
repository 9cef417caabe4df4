"""Block formats one block at a time, in fractions: MX shared exponents, two-level scales.

Every operation that a machine rounds is rounded by the callable given (`refquant.oracle.ieee`), in the order written; powers of two and
comparisons are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from refquant.errors import UsageError
from refquant.formats import FloatFormat, Format
from refquant.oracle.formats import all_codes, code_meaning, encode_number
from refquant.oracle.ieee import floor_log2

Rounded = Callable[[Fraction], Fraction]
LEAST, MOST = -127, 127  # exponents of e8m0


@dataclass(frozen=True, slots=True)
class CodedBlock:
    """Codes of a block's elements, its scale as a number, and the numbers that the codes stand for."""

    codes: list[int]
    scale: Fraction
    values: list[Fraction]


def largest_member(fmt: Format) -> Fraction:
    """The largest finite number of a format, by looking at all of them."""
    return max(meaning for meaning in (code_meaning(code, fmt) for code in all_codes(fmt)) if isinstance(meaning, Fraction))


def shared_exponent(values: Sequence[Fraction], element: Format, rule: str = "floor") -> int:
    """Exponent of the scale of an MX block.

    Parameters
    ----------
    values : sequence of Fraction
    element : Format
    rule : {"floor", "even", "ceil", "rceil"}

    Returns
    -------
    int
        Within the exponents of e8m0; the least for a block of zeros.

    Raises
    ------
    UsageError
        If the rule is unknown, or ``even`` is asked of elements without a mantissa.

    Examples
    --------
    >>> from refquant.formats import find_format
    >>> [shared_exponent([Fraction(7)], find_format("e2m1"), rule) for rule in ("floor", "even", "ceil", "rceil")]
    [0, 1, 1, 1]
    """
    top = max(abs(value) for value in values)
    if top == 0:
        return LEAST
    emax = floor_log2(largest_member(element))
    match rule:
        case "floor":
            exponent = floor_log2(top) - emax
        case "ceil":
            exponent = _ceil_log2(top) - emax
        case "rceil":
            exponent = _ceil_log2(top / largest_member(element))
        case "even" if isinstance(element, FloatFormat):
            unit = Fraction(2) ** (floor_log2(top) - element.mantissa_bits)
            exponent = floor_log2(((top / unit + Fraction(1, 2)) // 1) * unit) - emax
        case _:
            raise UsageError(f"unknown scale rule {rule!r} for elements {element.name}; allowed are floor, even, ceil, rceil")
    return min(max(exponent, LEAST), MOST)


def _ceil_log2(x: Fraction) -> int:
    below = floor_log2(x)
    return below if Fraction(2) ** below == x else below + 1


def quantize_mx(values: Sequence[Fraction], element: Format, rule: str, rounded: Rounded) -> CodedBlock:
    """An MX block: divide by the shared power of two, round to the element saturating.

    Examples
    --------
    >>> from refquant.formats import find_format
    >>> from refquant.oracle.ieee import BINARY32
    >>> quantize_mx([Fraction(7), Fraction(-1)], find_format("e2m1"), "floor", BINARY32).codes
    [7, 10]
    """
    scale = Fraction(2) ** shared_exponent(values, element, rule)
    return _coded(values, [scale] * len(values), element, rounded)


def quantize_two_level(blocks: Sequence[Sequence[Fraction]], element: Format, inner: Format, rounded: Rounded) -> list[CodedBlock]:
    """NVFP4 as nvidia-modelopt has it: ``g = max / (hi_element hi_inner)``, block scale ``inner(max_block / hi_element / g)``.

    A block scale that rounds to 0 takes the smallest positive member, that of a block of zeros is 1; elements are divided by the rounded
    product of both scales.

    Parameters
    ----------
    blocks : sequence of sequences of Fraction
        All blocks that share `g`.
    element, inner : Format
        Of the elements and of the block scales.
    rounded : callable

    Examples
    --------
    >>> from refquant.formats import find_format
    >>> from refquant.oracle.ieee import BINARY32
    >>> two = quantize_two_level([[Fraction(2688)], [Fraction(3)]], find_format("e2m1"), find_format("e4m3fn"), BINARY32)
    >>> [(str(block.scale), block.codes) for block in two]
    [('448', [7]), ('1/2', [7])]
    """
    tops = [max(abs(value) for value in block) for block in blocks]
    divisor = largest_member(element)
    outer = rounded(max(tops) / (divisor * largest_member(inner))) if max(tops) else Fraction(1)
    found = []
    for block, top in zip(blocks, tops, strict=True):
        meaning = code_meaning(encode_number(rounded(rounded(top / divisor) / outer), inner), inner)
        member = meaning if isinstance(meaning, Fraction) else Fraction(0)
        if member == 0:
            member = min(m for m in (code_meaning(c, inner) for c in all_codes(inner)) if isinstance(m, Fraction) and m > 0)
        if top == 0:
            member = Fraction(1)
        found.append(_coded(block, [rounded(member * outer)] * len(block), element, rounded))
    return found


def _coded(values: Sequence[Fraction], scales: Sequence[Fraction], element: Format, rounded: Rounded) -> CodedBlock:
    top = largest_member(element)
    codes = []
    for value, scale in zip(values, scales, strict=True):
        quotient = value / scale
        # A quotient far outside saturates before it could overflow the machine's format.
        codes.append(encode_number(quotient if abs(quotient) > 4 * top else rounded(quotient), element, negative=value < 0))
    meanings = [code_meaning(code, element) for code in codes]
    return CodedBlock(codes, scales[0], [rounded(m * s) for m, s in zip(meanings, scales, strict=True) if isinstance(m, Fraction)])
