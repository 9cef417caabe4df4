"""Microscaling blocks: shared exponents by every rule, elements of every MX format."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from refquant.conformance.case import Case
from refquant.conformance.operation import Arrays, Operation, Parameter, Parameters, Part
from refquant.core import QuantSpec, Tiling, spec
from refquant.core.scales import ScaleSpec
from refquant.formats import FloatFormat, find_format
from refquant.methods.grid.rtn import rtn
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array
from refquant.oracle import BINARY32, BINARY64
from refquant.oracle.blocks import quantize_mx
from refquant.oracle.ieee import floor_log2

NAME = "block.mx"
BLOCK = 8
"""Small blocks have the same corners as those of 32; one row of each element has 32."""
ELEMENTS = {"e4m3fn": 448.0, "e5m2": 57344.0, "e2m3": 7.5, "e3m2": 28.0, "e2m1": 6.0, "int8_q6": 1.984375}
"""By name, with the largest number."""
RULES = ("floor", "even", "ceil", "rceil")


def spec_of(parameters: Parameters) -> QuantSpec:
    """The spec that a case's parameters say."""
    scales = ScaleSpec(format=find_format("e8m0"), rule=parameters["rule"])
    return spec(find_format(parameters["element"]), scheme="absmax", tiling=Tiling.group(parameters["block"]), scales=scales)


def reference(inputs: Arrays, parameters: Parameters, *, arithmetic: Arithmetic = FAST) -> dict[str, Array]:
    """Quantize and dequantize."""
    found = rtn(inputs["x"], spec_of(parameters), arithmetic)
    coded = found.coded
    scales = np.zeros(found.scale.shape, np.uint8) if coded is None else coded.codes
    return {"codes": found.codes, "scale_codes": scales, "values": found.dequantize(inputs["x"].dtype)}


def by_oracle(x: Array, parameters: Parameters) -> dict[str, Array]:
    """Block by block, in fractions."""
    element, width = find_format(parameters["element"]), parameters["block"]
    rounded = BINARY64 if x.dtype == np.float64 else BINARY32
    codes, exponents, values = np.zeros(x.shape, element.dtype), np.zeros((len(x), -(-x.shape[1] // width)), np.uint8), np.zeros_like(x)
    for row, line in enumerate(x):
        for block, start in enumerate(range(0, len(line), width)):
            place = row, slice(start, start + width)
            exact = [Fraction(float(number)) for number in line[start : start + width]]
            coded = quantize_mx(exact, element, parameters["rule"], rounded)
            codes[place] = coded.codes
            exponents[row, block] = 127 + floor_log2(coded.scale)
            values[place] = [float(number) for number in coded.values]
    if isinstance(element, FloatFormat):  # fractions have no sign of zero: floating-point elements keep it
        codes[(x == 0) & np.signbit(x)] = element.negative_zero_code
        values[(values == 0) & np.signbit(x)] = -0.0
    return {"codes": codes, "scale_codes": exponents, "values": values}


def _ramp(size: float, count: int) -> list[float]:
    """Numbers of both signs whose largest magnitude is `size`, the last but one, negative."""
    inner = [size * ((i * 7) % 23 - 11) / 13 for i in range(count)]
    return [*inner[: count - 2], -size, inner[-1]] if count > 2 else [-size] * count


def _rows(element: str) -> dict[str, tuple[tuple[str, ...], list[list[float]]]]:
    """Flags and rows by slug; two rows each."""
    top, single = ELEMENTS[element], np.float32
    emax = floor_log2(Fraction(top))
    peak = math.ldexp(1.0, emax)

    def beside(number: float) -> list[float]:
        exact = single(number)
        return [float(np.nextafter(exact, single(0))), float(exact), float(np.nextafter(exact, single(np.inf)))]

    turns = [turn for k in (-9, 0, 6) for turn in (*beside(math.ldexp(1.0, k)), *beside(math.ldexp(top, k - emax)))]
    even = [turn for k in (-3, 2) for turn in beside(math.ldexp(2 - (0.125 if element != "e2m1" else 0.25), k))]
    fine = [turn for bits in (2, 3, 4) for turn in beside(2.0 * (1 - math.ldexp(1.0, -bits - 1)))]
    ties = [(0.5 + i % 3) / 4 * (-1 if i % 2 else 1) for i in range(BLOCK - 1)]
    return {
        "ordinary": (("ordinary", "negative"), [_ramp(1.3, 64), _ramp(0.011, 64)]),
        "turns": (("shared-exponent",), [_padded(turns[: len(turns) // 2]), _padded(turns[len(turns) // 2 :])]),
        "turns-even": (("shared-exponent",), [_padded(even), _padded(even[::-1])]),
        "turns-mantissa": (("shared-exponent",), [_padded(fine[:6]), _padded(fine[3:])]),
        "ties": (("tie", "negative-zero"), [[peak, *ties], [peak, *(-0.0 if i % 4 == 0 else t / 2 for i, t in enumerate(ties))]]),
        "saturating": (("saturation", "negative"), [_ramp(1.97 * 8.0, BLOCK), [-1.99, 1.99] * (BLOCK // 2)]),
        "zeros": (("zero-range",), [[0.0] * BLOCK + _ramp(3.0, BLOCK), _ramp(0.4, BLOCK) + [0.0] * BLOCK]),
        "ragged": (("ragged-group",), [_ramp(5.0, BLOCK) + _ramp(0.07, 5), _ramp(0.2, BLOCK) + _ramp(11.0, 5)]),
        "blocks": (
            ("group-boundary", "group-statistics"),
            [_ramp(1.0, BLOCK) + _ramp(300.0, BLOCK) + _ramp(0.01, BLOCK), _ramp(70.0, BLOCK) + _ramp(0.3, BLOCK) + _ramp(2.0, BLOCK)],
        ),
        "positive": (("one-sided",), [[abs(v) for v in _ramp(1.3, BLOCK)], [-abs(v) for v in _ramp(0.8, BLOCK)]]),
        "smallest": (
            ("exponent-limit", "subnormal-scale", "tiny"),
            [_ramp(math.ldexp(1.0, -127), BLOCK), _ramp(math.ldexp(1.0, -140), BLOCK)],
        ),
        "largest": (("exponent-limit",), [_ramp(math.ldexp(1.0625, 126), BLOCK), _ramp(math.ldexp(1.0, 125), BLOCK)]),
    }


def _padded(maxima: list[float]) -> list[float]:
    """One block for each maximum: it, and fractions of it."""
    return [number for top in maxima for number in [top, *(-top * k / BLOCK for k in range(1, BLOCK))]]


def cases() -> Iterator[Case]:
    """Every element on every row; every rule on the rows where rules part, and on all of them with e2m1; some in float64."""
    for element in ELEMENTS:
        for rule in RULES:
            if (element, rule) == ("int8_q6", "even"):
                continue
            for slug, (flags, rows) in _rows(element).items():
                if rule != "floor" and element != "e2m1" and not {"shared-exponent", "exponent-limit", "ordinary"} & set(flags):
                    continue  # what does not look at the rule
                for dtype in ("float32", "float64") if (slug, element) == ("turns", "e2m1") else ("float32",):
                    x = np.array(rows, dtype=dtype)
                    parameters = {"element": element, "rule": rule, "block": 32 if slug == "ordinary" else BLOCK}
                    yield Case(
                        operation=NAME,
                        slug=f"{element}-{rule}-{slug}" + ("" if dtype == "float32" else "-f64"),
                        parameters=parameters,
                        inputs={"x": x},
                        expected=by_oracle(x, parameters),
                        flags=flags,
                        lane="exact",
                    )


DOC = """Blocks of `block` columns share a scale 2^e, stored as the code e + 127 of e8m0. With a the largest magnitude of the block, hi the
element's largest number and emax = floor(log2 hi), all exactly: floor: e = floor(log2 a) - emax. ceil: ceil(log2 a) - emax. rceil:
ceil(log2(a / hi)). even: floor(log2 a') - emax, where a' is a rounded half up to as many mantissa bits as the element has. e is clipped to
-127..127; a block of zeros has -127. codes: the quotients x / 2^e, rounded to the dtype of x, coded as in format.encode, half_even,
saturating; of int8_q6, a code is an 8-bit two's complement pattern over 64, ties to the even code. values: number of the code times 2^e,
in the dtype of x, -0 where the element has it. Numbers are not flushed, nor scales."""

OPERATION = Operation(
    name=NAME,
    level="codes",
    doc=DOC,
    inputs=(Part("x", "numbers", "float32 or float64", "[rows, columns]"),),
    outputs=(
        Part("codes", "elements", "uint8", "[rows, columns]"),
        Part("scale_codes", "codes of e8m0", "uint8", "[rows, blocks]"),
        Part("values", "numbers after quantization", "that of x", "[rows, columns]"),
    ),
    parameters=(
        Parameter("element", ", ".join(ELEMENTS)),
        Parameter("rule", ", ".join(RULES)),
        Parameter("block", "columns that share a scale; the last block of a row may be shorter"),
    ),
    reference=reference,
    cases=cases,
)
