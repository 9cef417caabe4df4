"""Codes to numbers of every floating-point and integer format: all codes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refquant.conformance.case import Case
from refquant.conformance.operation import Arrays, Operation, Parameter, Parameters, Part
from refquant.conformance.operations.format_encode import FORMATS_DOC
from refquant.conformance.streams import Stream
from refquant.formats import FLOATS, INTEGERS, FloatFormat, Format, decode, find_format
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array
from refquant.oracle.formats import all_codes, code_meaning

NAME = "format.decode"
WORDS = {"nan": float("nan"), "+inf": float("inf"), "-inf": float("-inf")}


def reference(inputs: Arrays, parameters: Parameters, *, arithmetic: Arithmetic = FAST) -> dict[str, Array]:
    """Decode."""
    return {"y": decode(inputs["codes"], find_format(parameters["format"]))}


def by_oracle(codes: Array, fmt: Format) -> Array:
    """What each code means; of a zero, its sign bit."""
    numbers = []
    for code in codes.tolist():
        meaning = code_meaning(code, fmt)
        number = WORDS[meaning] if isinstance(meaning, str) else float(meaning)
        negative_zero = meaning == 0 and isinstance(fmt, FloatFormat) and fmt.signed and code >= 1 << (fmt.bits - 1)
        numbers.append(-0.0 if negative_zero else number)
    return np.array(numbers, dtype=np.float32)


def _case(fmt: Format, slug: str, codes: list[int], flags: tuple[str, ...]) -> Case:
    given = np.array(codes, dtype=fmt.dtype)
    return Case(
        operation=NAME,
        slug=f"{fmt.name}-{slug}",
        parameters={"format": fmt.name},
        inputs={"codes": given},
        expected={"y": by_oracle(given, fmt)},
        flags=flags,
        lane="exact",
    )


def cases() -> Iterator[Case]:
    """All codes of formats up to 8 bits, cut by what they are; the ends and the turns of wider ones, whose numbers have a stream."""
    for fmt in INTEGERS:
        everything = list(all_codes(fmt))
        some = everything if fmt.bits <= 8 else everything[:3] + everything[len(everything) // 2 - 2 :][:4] + everything[-3:]
        yield _case(fmt, "codes", some, ("ordinary", *("lowest-code", "negative")[: 2 * fmt.signed]))
    for float_format in FLOATS:
        yield from _of_float(float_format)


def _of_float(fmt: FloatFormat) -> Iterator[Case]:
    half, unit = 1 << (fmt.bits - 1), 1 << fmt.mantissa_bits
    signs = (0, half) if fmt.signed else (0,)
    top = ((1 << fmt.exponent_bits) - 1) * unit
    small = [0, 1, 2, 3, unit // 2, unit - 2, unit - 1] if fmt.bits > 8 else list(range(unit))
    last = [top, top + 1, top + unit // 2, top + unit - 2, top + unit - 1] if fmt.bits > 8 else list(range(top, top + unit))
    rest = [unit, unit + 1, 2 * unit - 1, 2 * unit, top // 2, top - 1] if fmt.bits > 8 else list(range(unit, top))
    yield _case(fmt, "normal", [sign + code for sign in signs for code in rest], ("ordinary", *("negative",) * fmt.signed))
    # The exponent fields at both ends are where formats differ: subnormal numbers or one more exponent, NaN, infinities or numbers.
    flags = ("subnormal", "special-codes", *("negative-zero",) * (fmt.negative_zero_code is not None))
    yield _case(fmt, "lowest-exponent", [sign + code for sign in signs for code in small if 0 <= code < unit], flags)
    yield _case(
        fmt, "top-exponent", [sign + code for sign in signs for code in dict.fromkeys(last) if top <= code < top + unit], ("special-codes",)
    )


def _all_numbers(fmt: FloatFormat) -> Stream:
    count = 1 + int(np.flatnonzero(fmt.table == fmt.hi)[0])

    def make(start: int, stop: int) -> dict[str, Array]:
        place = np.arange(start, stop)
        return {"codes": (place // 2 + place % 2 * fmt.sign_bit).astype(fmt.dtype)}

    return Stream(
        slug=f"{fmt.name}-finite",
        what="element 2 c + s is the code c, or with s = 1 the code c with its sign bit set, c = 0 .. the largest finite code",
        parameters={"format": fmt.name},
        make=make,
        rows=2 * count,
        block=2 * count // 16,
    )


OPERATION = Operation(
    name=NAME,
    level="formats",
    doc=f"The number that each code stands for, as float32, which holds all of them exactly. {FORMATS_DOC}",
    inputs=(Part("codes", "codes", "uint8, uint16, int8 or int16", "[n]"),),
    outputs=(Part("y", "numbers, infinities and NaN; -0 is -0", "float32", "[n]"),),
    parameters=(Parameter("format", "a floating-point or integer format"),),
    reference=reference,
    cases=cases,
    streams=tuple(_all_numbers(fmt) for fmt in FLOATS if fmt.bits == 16),
)
