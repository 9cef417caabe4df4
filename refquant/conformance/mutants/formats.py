"""Floating-point and integer formats by arithmetic on exponents instead of tables, with one fault to choose."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from refquant.conformance.mutants.mutant import Mutant
from refquant.conformance.operation import Arrays, Parameters
from refquant.formats import FloatFormat, IntFormat, find_format
from refquant.numerics.arrays import Array

ENCODE: dict[str, tuple[str, str]] = {
    "half_away": ("tie", "ties go away from zero"),
    "truncates": ("ordinary", "mantissas are cut off"),
    "through_float32": ("near-tie", "float64 is rounded to float32 first, which makes ties"),
    "through_binary16": ("near-tie", "numbers are rounded to binary16 first, which makes ties"),
    "flushed": ("subnormal", "numbers below the smallest normal one become zero"),
    "subnormals_too_fine": ("subnormal", "subnormal numbers are rounded to as many bits as normal ones have, and then cut"),
    "carry_lost": ("binade", "a mantissa that rounds up to the next power of two does not raise the exponent"),
    "usual_bias": ("ordinary", "the bias is 2^(e-1) - 1 whatever the format"),
    "missing_nan_code": ("out-of-range", "all ones is taken for a number, one step above the largest"),
    "top_exponent_reserved": ("out-of-range", "the top exponent is kept for infinities where the format has none"),
    "overflows_early": ("out-of-range", "every number above the largest overflows, though it would round back"),
    "saturates_always": ("out-of-range", "numbers outside saturate where they should overflow"),
    "never_saturates": ("out-of-range", "numbers outside become infinity or NaN where they should saturate"),
    "wraps": ("out-of-range", "the code of a number outside runs into the sign bit"),
    "infinity_kept": ("not-finite", "infinities stay infinite, or become NaN, where they should saturate"),
    "nan_saturates": ("not-finite", "NaN becomes the largest number"),
    "nan_sign_lost": ("not-finite", "NaN loses its sign"),
    "signaling_nan": ("not-finite", "NaN has the mantissa 1, which in IEEE formats signals"),
    "negative_zero_lost": ("negative-zero", "-0 and what rounds to it become 0"),
    "negative_zero_is_nan": ("negative", "negative numbers that round to 0 take the code of -0, which is NaN"),
    "floor_truncates": ("negative", "floor cuts the magnitude off"),
    "magnitude_of_negative": ("negative", "a format without sign takes the magnitude"),
    "rounded_logarithm": ("ordinary", "without mantissa bits the exponent is rint(log2 x)"),
    "narrow_wraps": ("out-of-range", "integers are cast before they are clipped"),
    "narrow_lowest": ("out-of-range", "the lowest code is left out, or kept, where the format says otherwise"),
}
DECODE: dict[str, tuple[str, str]] = {
    "usual_bias": ("ordinary", "the bias is 2^(e-1) - 1 whatever the format"),
    "implicit_one": ("subnormal", "exponent field 0 has an implicit one as well"),
    "flushed": ("subnormal", "subnormal numbers are read as zero"),
    "lowest_is_zero": ("special-codes", "e8m0's code 0 is read as 0, as if it were subnormal"),
    "float32_flushed": ("subnormal", "numbers that are subnormal in float32 are flushed"),
    "nan_is_a_number": ("special-codes", "the code of all ones is read as a number"),
    "ieee_everywhere": ("special-codes", "the top exponent is infinity and NaN whatever the format"),
    "infinity_is_a_number": ("special-codes", "the top exponent of an IEEE format is read as one more exponent"),
    "negative_zero_lost": ("negative-zero", "-0 is read as 0"),
    "negative_zero_for_nan": ("special-codes", "the code of -0 is read as -0 where it is NaN"),
    "sign_at_bit_7": ("negative", "the sign bit of narrow formats is looked for at the top of the byte"),
    "unsigned": ("lowest-code", "signed integers are read as unsigned"),
}
"""``name: (flag that must catch it, what is wrong)``."""


def _bias(fmt: FloatFormat, fault: str) -> int:
    return (1 << (fmt.exponent_bits - 1)) - 1 if fault == "usual_bias" else fmt.bias


def _rounded(steps: Array, rule: str, negative: Array) -> Array:
    """Whole steps of a magnitude; rules that know of up and down look at the sign."""
    low = np.floor(steps)
    rest = steps - low
    up = {
        "half_even": np.where(rest == 0.5, low % 2 == 1, rest > 0.5),
        "half_away": rest >= 0.5,
        "half_zero": rest > 0.5,
        "half_up": np.where(negative, rest > 0.5, rest >= 0.5),
        "half_down": np.where(negative, rest >= 0.5, rest > 0.5),
        "floor": negative & (rest > 0),
        "ceil": ~negative & (rest > 0),
        "trunc": np.zeros(steps.shape, dtype=bool),
        "away": rest > 0,
    }[rule]
    return np.asarray(low + up)


def encode(inputs: Arrays, parameters: Parameters, *, fault: str = "") -> Mapping[str, Array]:
    """Encode; wrong in one way if a fault is named."""
    fmt = find_format(str(parameters["format"]))
    x, rule = np.asarray(inputs["x"]).astype(np.float64), str(parameters["rounding"])
    with np.errstate(over="ignore", under="ignore"):
        if fault == "through_float32":
            x = x.astype(np.float32).astype(np.float64)
        if fault == "through_binary16":
            x = x.astype(np.float16).astype(np.float64)
    if fault == "floor_truncates" and rule == "floor":
        rule = "trunc"
    if fault in ("half_away", "truncates") and rule == "half_even":
        rule = "half_away" if fault == "half_away" else "trunc"
    if parameters["nan"] == "zero":
        x = np.where(np.isnan(x), 0.0, x)
    if isinstance(fmt, IntFormat):
        return {"codes": _integers(x, fmt, rule, fault)}
    if not isinstance(fmt, FloatFormat):
        raise TypeError(f"{fmt.name} is no floating-point or integer format")
    return {"codes": _floats(x, fmt, rule, str(parameters["overflow"]), fault).astype(fmt.dtype)}


def _integers(x: Array, fmt: IntFormat, rule: str, fault: str) -> Array:
    large = np.clip(x, -float(1 << 40), float(1 << 40))
    whole = np.copysign(_rounded(np.abs(large), rule, large < 0), large).astype(np.int64)
    if fault == "narrow_wraps":
        whole = (whole + (1 << fmt.bits - 1) * fmt.signed) % (1 << fmt.bits) - (1 << fmt.bits - 1) * fmt.signed
    narrow = fmt.signed and fmt.bits > 1 and (fmt.narrow != (fault == "narrow_lowest"))
    lowest = -(1 << fmt.bits - 1) + int(narrow) if fmt.signed else 0
    return np.asarray(np.clip(whole, lowest, fmt.hi), dtype=fmt.dtype)


def _floats(x: Array, fmt: FloatFormat, rule: str, overflow: str, fault: str) -> Array:
    bias, unit = _bias(fmt, fault), 1 << fmt.mantissa_bits
    lowest = (0 if fmt.lowest == "normal" else 1) - bias
    negative = np.signbit(x)
    finite = np.isfinite(x)
    size = np.where(finite, np.abs(x), 1.0)
    if not fmt.signed and fault == "magnitude_of_negative":
        negative = np.zeros(x.shape, dtype=bool)
    exponent = np.maximum(np.frexp(size)[1] - 1, lowest)
    if fault == "subnormals_too_fine":
        exponent = np.where(size > 0, np.frexp(size)[1] - 1, lowest)
    steps = np.ldexp(size, fmt.mantissa_bits - exponent)
    if fault == "rounded_logarithm" and unit == 1:
        steps = np.where(steps < np.sqrt(2.0), np.floor(steps), np.ceil(steps))
    whole = _rounded(steps, rule, negative)
    if fault == "carry_lost":
        whole = np.where((whole == 2 * unit) & (steps < 2 * unit), unit, whole)
    value = np.ldexp(whole, exponent - fmt.mantissa_bits)
    if fmt.lowest == "normal":
        value = np.maximum(value, np.ldexp(1.0, lowest))
    if fault == "subnormals_too_fine":
        value = np.where(
            size < np.ldexp(1.0, lowest),
            np.floor(np.ldexp(value, fmt.mantissa_bits - lowest)) * np.ldexp(1.0, lowest - fmt.mantissa_bits),
            value,
        )
    if fault == "flushed" and fmt.lowest == "gradual":
        value = np.where(size < np.ldexp(1.0, lowest), 0.0, value)
    value = np.where(finite, value, np.inf)
    top = _top(fmt, fault)
    outside = (value > top) & ~np.isnan(x)
    if fault == "overflows_early":
        outside |= np.where(finite, size, np.inf) > top
    # Directed rounding towards the inside never leaves it, but for an infinity.
    inward = (rule == "trunc") | ((rule == "floor") & ~negative) | ((rule == "ceil") & negative)
    overflowing = outside & ~(inward & finite)
    codes = _code(np.minimum(value, top), fmt, lowest, bias)
    if fault == "wraps":
        codes = np.where(outside & finite, _code(np.minimum(value, float(1 << 200)), fmt, lowest, bias) % (1 << fmt.bits), codes)
    below = negative & (x < 0) if fmt.lowest != "normal" else negative | (x == 0)
    return _signed(codes, x, fmt, overflowing, negative, below & ~np.isnan(x), overflow, fault)


def _top(fmt: FloatFormat, fault: str) -> float:
    step = fmt.spacing_at_top
    if fault == "missing_nan_code" and fmt.nan == "all_ones":
        return fmt.hi * 2 if fmt.mantissa_bits == 0 else fmt.hi + step
    if fault == "top_exponent_reserved" and not fmt.infinities and fmt.mantissa_bits:
        reserved = float(np.ldexp(1.0, fmt.emax))
        return reserved - float(np.ldexp(reserved, -fmt.mantissa_bits - 1))
    return fmt.hi


def _code(value: Array, fmt: FloatFormat, lowest: int, bias: int) -> Array:
    exponent = np.maximum(np.frexp(value)[1] - 1, lowest)
    significand = np.ldexp(value, fmt.mantissa_bits - exponent).astype(np.int64)
    unit = 1 << fmt.mantissa_bits
    subnormal = significand < unit
    return np.asarray(np.where(subnormal, significand, (exponent + bias - 1) * unit + significand))


def _signed(
    codes: Array, x: Array, fmt: FloatFormat, overflowing: Array, negative: Array, below: Array, overflow: str, fault: str
) -> Array:
    """Signs, and the codes of what is outside and of what is no number."""
    sign = 1 << (fmt.bits - 1) if fmt.signed else 0
    if fault == "infinity_kept":
        overflow_of_infinity = "infinity" if fmt.infinities else "nan"
    else:
        overflow_of_infinity = overflow
    if fault == "never_saturates" and overflow == "saturate":
        overflow = overflow_of_infinity = "infinity" if fmt.infinities else "nan"
    if fault == "saturates_always":
        overflow = overflow_of_infinity = "saturate"
    nan = _nan_code(fmt, fault)
    for policy, where in ((overflow, overflowing & np.isfinite(x)), (overflow_of_infinity, overflowing & np.isinf(x))):
        code = {"saturate": None, "infinity": fmt.infinity_code, "nan": nan}[policy]
        codes = codes if code is None else np.where(where, code, codes)
    if fmt.signed:
        signed = negative
        if fmt.nan == "negative_zero" and fault != "negative_zero_is_nan":
            signed = negative & (codes != 0)
        if fault == "negative_zero_lost":
            signed = negative & (codes != 0)
        codes = np.where(signed, codes | sign, codes)
    elif fault != "magnitude_of_negative":
        codes = np.where(below, 0 if overflow == "saturate" or nan is None else nan, codes)
    if nan is None:
        return codes
    kept = np.zeros(x.shape, dtype=bool) if fault == "nan_sign_lost" else np.signbit(x)
    special = np.where(kept, nan | sign, nan)
    return (
        np.where(np.isnan(x), int(_code(np.array(fmt.hi), fmt, (0 if fmt.lowest == "normal" else 1) - fmt.bias, fmt.bias)), codes)
        if (fault == "nan_saturates")
        else np.where(np.isnan(x), special, codes)
    )


def _nan_code(fmt: FloatFormat, fault: str) -> int | None:
    top = ((1 << fmt.exponent_bits) - 1) << fmt.mantissa_bits
    if fmt.nan == "ieee":
        return top + (1 if fault == "signaling_nan" else 1 << (fmt.mantissa_bits - 1))
    return {"none": None, "all_ones": top + (1 << fmt.mantissa_bits) - 1, "negative_zero": 1 << (fmt.bits - 1)}[fmt.nan]


def decode(inputs: Arrays, parameters: Parameters, *, fault: str = "") -> Mapping[str, Array]:
    """Decode; wrong in one way if a fault is named."""
    fmt = find_format(str(parameters["format"]))
    codes = np.asarray(inputs["codes"])
    if not isinstance(fmt, FloatFormat):
        wrong = fault == "unsigned"
        return {"y": (codes.view(f"u{codes.dtype.itemsize}") if wrong else codes).astype(np.float32)}
    sign = (1 << (7 if fault == "sign_at_bit_7" and fmt.bits < 8 else fmt.bits - 1)) if fmt.signed else 0
    wide = codes.astype(np.int64)
    negative, magnitude = (wide & sign) != 0, wide & ~sign
    exponent, mantissa = magnitude >> fmt.mantissa_bits, magnitude & ((1 << fmt.mantissa_bits) - 1)
    bias, unit = _bias(fmt, fault), 1 << fmt.mantissa_bits
    gradual = (exponent == 0) & (fmt.lowest == "gradual")
    size = np.ldexp(np.where(gradual & (fault != "implicit_one"), mantissa, unit + mantissa).astype(np.float64), -fmt.mantissa_bits)
    first = 1 if fmt.lowest == "gradual" else 0
    value = np.ldexp(size, np.maximum(exponent, first) - bias)
    if fault == "flushed":
        value = np.where(gradual, 0.0, value)
    if fault == "lowest_is_zero" and fmt.lowest == "normal":
        value = np.where(exponent == 0, 0.0, value)
    if fault == "float32_flushed":
        value = np.where(value < float(np.finfo(np.float32).tiny), 0.0, value)
    top = exponent == (1 << fmt.exponent_bits) - 1
    value = _specials(value, top, mantissa, fmt, fault)
    value = np.where(negative & ((value != 0) | (fault != "negative_zero_lost")), -value, value)
    if fmt.nan == "negative_zero" and fault != "negative_zero_for_nan":
        value = np.where(wide == 1 << (fmt.bits - 1), np.nan, value)
    with np.errstate(over="ignore", under="ignore"):
        return {"y": value.astype(np.float32)}


def _specials(value: Array, top: Array, mantissa: Array, fmt: FloatFormat, fault: str) -> Array:
    if (fmt.nan == "ieee" and fault != "infinity_is_a_number") or (fault == "ieee_everywhere" and fmt.mantissa_bits):
        return np.where(top, np.where(mantissa == 0, np.inf, np.nan), value)
    if fmt.nan == "all_ones" and fault != "nan_is_a_number":
        return np.where(top & (mantissa == (1 << fmt.mantissa_bits) - 1), np.nan, value)
    return value


MUTANTS = tuple(
    Mutant(name=f"{operation}-{fault}", operation=operation, flag=flag, what=what, run=partial(run, fault=fault))
    for operation, run, faults in (("format.encode", encode, ENCODE), ("format.decode", decode, DECODE))
    for fault, (flag, what) in faults.items()
)
RIGHT = {"format.encode": encode, "format.decode": decode}
