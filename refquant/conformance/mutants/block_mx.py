"""Microscaling in loops over blocks, with one fault to choose."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from refquant.conformance.mutants.formats import decode, encode
from refquant.conformance.mutants.mutant import Mutant
from refquant.conformance.operation import Arrays, Parameters
from refquant.formats import FloatFormat, find_format
from refquant.numerics import FAST
from refquant.numerics.arrays import Array

FAULTS: dict[str, tuple[str, str]] = {
    "rule_floor": ("shared-exponent", "the exponent is floor(log2 max) - emax whatever the rule"),
    "rule_ceil": ("shared-exponent", "the exponent is ceil(log2 max) - emax whatever the rule"),
    "rule_rceil": ("shared-exponent", "the exponent is ceil(log2(max / hi)) whatever the rule"),
    "rule_even": ("shared-exponent", "the maximum is rounded to the element's mantissa first whatever the rule"),
    "logarithm_in_float32": ("shared-exponent", "log2 is taken in float32, which moves maxima just beside a power of two onto it"),
    "emax_of_bias": ("ordinary", "emax is the exponent bias, which is not the exponent of the largest number"),
    "off_by_one": ("ordinary", "the shared exponent is one too large"),
    "largest_not_magnitude": ("negative", "the largest number stands for the largest magnitude"),
    "mean_magnitude": ("ordinary", "the mean magnitude makes the scale"),
    "scale_code_unbiased": ("ordinary", "the scale's code is the exponent without its bias"),
    "zeros_scale_one": ("zero-range", "a block of zeros has the exponent 0"),
    "neighbour_enters": ("group-boundary", "the first number of the next block enters the maximum"),
    "stale_exponent": ("group-statistics", "a block is coded with the exponent of the block before"),
    "tail_dropped": ("ragged-group", "the ragged last block has the exponent of the one before"),
    "tail_wraps": ("ragged-group", "the last block is filled up with the last numbers before it"),
    "exponent_wraps": ("exponent-limit", "exponents below -127 wrap around in the byte"),
    "smallest_is_normal": ("exponent-limit", "exponents are clipped to -126, float32's normal numbers"),
    "scale_flushed": ("subnormal-scale", "the scale 2^-127 is flushed, and its block is multiplied by 1"),
    "half_scale": ("subnormal-scale", "the scale 2^-127 is stored, and 2^-126 divided by"),
    "elements_truncated": ("ordinary", "elements are cut off"),
    "elements_half_away": ("tie", "elements are rounded half away from zero"),
    "elements_wrap": ("saturation", "elements beyond the largest run into the sign bit"),
    "negative_zero_lost": ("negative-zero", "-0 loses its sign"),
}
"""``name: (flag that must catch it, what is wrong)``."""
OF_ELEMENTS = {
    "elements_truncated": "truncates",
    "elements_half_away": "half_away",
    "elements_wrap": "wraps",
    "negative_zero_lost": "negative_zero_lost",
}


def _exponent(top: float, element: str, rule: str, fault: str) -> int:
    fmt = find_format(element)
    hi, bits = float(fmt.hi), fmt.mantissa_bits if isinstance(fmt, FloatFormat) else 6
    emax = int(np.frexp(hi)[1]) - 1
    if fault == "emax_of_bias" and isinstance(fmt, FloatFormat):
        emax = fmt.bias
    if top == 0:
        return 0 if fault == "zeros_scale_one" else -127
    fraction, power = (part.item() for part in np.frexp(np.float64(top)))
    low = power - 1
    if fault == "logarithm_in_float32":
        low = int(np.floor(FAST.log(np.array([top])).astype(np.float32) / np.float32(0.6931471805599453))[0])
    match fault.removeprefix("rule_") if fault.startswith("rule_") else rule:
        case "floor":
            found = low - emax
        case "ceil":
            found = low - emax + (fraction != 0.5)
        case "rceil":
            found = low - emax + (fraction > float(np.frexp(hi)[0]))
        case _:
            found = low - emax + (fraction >= 1 - 0.5 / (2 << bits))
    found += fault == "off_by_one"
    if fault == "exponent_wraps":
        return int((found + 127) % 256 - 127)
    return int(min(max(found, -126 if fault == "smallest_is_normal" else -127), 127))


def quantize(inputs: Arrays, parameters: Parameters, *, fault: str = "") -> Mapping[str, Array]:
    """Quantize blocks; wrong in one way if a fault is named."""
    x, element, width = np.asarray(inputs["x"]), str(parameters["element"]), int(parameters["block"])
    blocks = -(-x.shape[1] // width)
    exponents = np.zeros((len(x), blocks), dtype=np.int64)
    for row, block in np.ndindex(exponents.shape):
        stop = (block + 1) * width
        values = x[row, block * width : stop + (fault == "neighbour_enters")]
        ragged = stop > x.shape[1]
        if fault == "tail_wraps" and ragged:
            values = x[row, -width:]
        if block and (fault == "stale_exponent" or (fault == "tail_dropped" and ragged)):
            exponents[row, block] = exponents[row, 0] if fault == "stale_exponent" else exponents[row, block - 1]
            continue
        top = float(values.max() if fault == "largest_not_magnitude" else np.abs(values).max())
        if fault == "mean_magnitude":
            top = float(FAST.mean(np.abs(values).astype(np.float64)))
        exponents[row, block] = _exponent(max(top, 0.0), element, str(parameters["rule"]), fault)
    shift = np.repeat(exponents, width, axis=1)[:, : x.shape[1]]
    divided = np.where(shift == -127, -126, shift) if fault == "half_scale" else shift
    if fault == "scale_flushed":
        divided = np.where(shift == -127, 0, shift)
    with np.errstate(under="ignore", over="ignore"):
        steps = np.ldexp(x.astype(np.float64), -divided).astype(x.dtype)
        codes = _encoded(steps, element, fault)
        values = np.ldexp(_decoded(codes, element).astype(np.float64), shift).astype(x.dtype)
    bias = 0 if fault == "scale_code_unbiased" else 127
    return {"codes": codes, "scale_codes": ((exponents + bias) % 256).astype(np.uint8), "values": values}


def _encoded(steps: Array, element: str, fault: str) -> Array:
    inner = OF_ELEMENTS.get(fault, "")
    if element == "int8_q6":
        given = {"truncates": "trunc", "half_away": "half_away"}.get(inner, "half_even")
        how = {"format": "int8", "rounding": given, "overflow": "saturate", "nan": "zero"}
        return encode({"x": steps * 64}, how, fault="narrow_wraps" if inner == "wraps" else "")["codes"].view(np.uint8)
    how = {"format": element, "rounding": "half_even", "overflow": "saturate", "nan": "zero"}
    return encode({"x": steps}, how, fault=inner)["codes"]


def _decoded(codes: Array, element: str) -> Array:
    if element == "int8_q6":
        return np.asarray(codes.view(np.int8) / 64)
    return decode({"codes": codes}, {"format": element})["y"]


MUTANTS = tuple(
    Mutant(name=f"mx-{fault}", operation="block.mx", flag=flag, what=what, run=partial(quantize, fault=fault))
    for fault, (flag, what) in FAULTS.items()
)
RIGHT = {"block.mx": quantize}
