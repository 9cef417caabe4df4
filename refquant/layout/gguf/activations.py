"""Activations as ggml's processor code brings them to the type that goes with a matrix, before it multiplies.

=============================== ====== ============================================================================================
matrix                          into   what becomes of a run of activations
=============================== ====== ============================================================================================
F32                             F32    nothing
F16, BF16                       same   each is rounded to the nearest
Q8_0, Q4_0, Q5_0, MXFP4         Q8_0   32 signed bytes: ``code = round(x * (127 / a))``, ``a = max|x|``; scale ``a / 127`` as float16
Q4_1, Q5_1                      Q8_1   the same, and beside them the sum of the codes times the float32 ``a / 127``, as float16
Q2_K ... Q6_K, TQ1_0, TQ2_0     Q8_K   256 signed bytes: ``code = round(x * (-127 / t))``, `t` the first number of largest magnitude;
                                       scale ``1 / (-127 / t)`` as float32
=============================== ====== ============================================================================================

Codes belong to the float32 scale, and what is multiplied later is the float16 one. Ties of Q8_0 and Q8_1 go to even on x86 with AVX2, and
away from zero on Arm's NEON; choose with `ties`. (A program that was compiled for neither multiplies by ``1 / (a / 127)``, which is not
here.) Those of Q8_K go to even everywhere. Code that handles four rows at a time gives Q8_K's scale the other sign, and its codes: the
same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np

from refquant.errors import InputError, UsageError
from refquant.layout.gguf.fields import half_away, stored_half
from refquant.layout.gguf.tensor import quantize
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array

Ties = Literal["even", "away"]
Form = Literal["F32", "F16", "BF16", "Q8_0", "Q8_1", "Q8_K"]

_BOOKS = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS")
_PARTNERS: dict[Form, tuple[str, ...]] = {
    "F32": ("F32",),
    "F16": ("F16",),
    "BF16": ("BF16",),
    "Q8_0": ("Q8_0", "Q4_0", "Q5_0", "MXFP4", "NVFP4", "IQ4_NL"),
    "Q8_1": ("Q4_1", "Q5_1"),
    "Q8_K": ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "TQ1_0", "TQ2_0", *_BOOKS),
}
FORM_FOR: Mapping[str, Form] = MappingProxyType({kind: form for form, kinds in _PARTNERS.items() for kind in kinds})
"""The form of activations that goes with each type of matrix."""

RUNS: Mapping[Form, int] = MappingProxyType({"F32": 1, "F16": 1, "BF16": 1, "Q8_0": 32, "Q8_1": 32, "Q8_K": 256})
"""Activations that share a scale."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a matrix is multiplied with.

    Parameters
    ----------
    numbers : float64 ndarray ``[rows, n]``
        Codes times scales, exactly.
    sums : float64 ndarray ``[rows, n / 32]``, optional
        Q8_1's rounded sums, which multiply the minima of Q4_1 and Q5_1.
    """

    numbers: Array
    sums: Array | None = None


def seen_as(x: Array, form: Form, ties: Ties = "even", arithmetic: Arithmetic = FAST) -> Seen:
    """Activations in one of the forms.

    Parameters
    ----------
    x : ndarray ``[rows, n]``
        Rounded to float32 first; `n` a multiple of the form's run.
    form : {"F32", "F16", "BF16", "Q8_0", "Q8_1", "Q8_K"}
    ties : {"even", "away"}
        Of Q8_0 and Q8_1.
    arithmetic : Arithmetic
        For Q8_1's sums; they are exact in any.

    Raises
    ------
    UsageError
        If `form` or `ties` is another word.
    InputError
        If `n` is no multiple of the run, or a number is not finite.
    NumericalError
        If a number or a scale overflows a 16-bit float.

    Examples
    --------
    >>> x = np.array([[127.0, 0.4, 0.6] + [0.0] * 29])
    >>> seen_as(x, "Q8_0").numbers[0, :3], seen_as(x, "Q8_1").sums
    (array([127.,   0.,   1.]), array([[128.]]))
    """
    if ties not in ("even", "away"):
        raise UsageError(f"ties go to 'even' or 'away', not {ties!r}")
    if form not in RUNS:
        raise UsageError(f"activations take the forms {', '.join(RUNS)}, not {form!r}")
    if x.ndim != 2 or x.shape[1] % RUNS[form]:
        raise InputError(f"activations of shape {x.shape} do not divide into blocks of {RUNS[form]}")
    numbers = np.ascontiguousarray(x, dtype=np.float32)
    if not np.isfinite(numbers).all():
        raise InputError("activations hold numbers that are not finite")
    if form == "F32":
        return Seen(numbers=numbers.astype(np.float64))
    if RUNS[form] == 1:
        return Seen(numbers=quantize(numbers, form).dequantize(np.dtype(np.float64)))  # where ggml has an infinity, an error
    codes, scale = _codes(numbers, form, ties)
    if form == "Q8_K":
        return Seen(numbers=_times(codes, scale, x.shape))
    seen = _times(codes, stored_half(scale, "scale of activations"), x.shape)
    if form == "Q8_0":
        return Seen(numbers=seen)
    sums = stored_half(scale * arithmetic.sum(codes, axis=1), "sum of activations")
    return Seen(numbers=seen, sums=sums.astype(np.float64).reshape(x.shape[0], -1))


def _codes(x: Array, form: Form, ties: Ties) -> tuple[Array, Array]:
    """Codes ``[runs, run]`` and unrounded scales ``[runs]``, float32; where there are no codes, 0 and 0."""
    blocks = x.reshape(-1, RUNS[form])
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        if form == "Q8_K":
            top = np.take_along_axis(blocks, np.argmax(np.abs(blocks), axis=1)[:, None], axis=1)[:, 0]
            per_unit = np.float32(-127) / top
            empty = ~np.isfinite(per_unit)
            scale = np.float32(1) / per_unit
        else:
            largest = np.abs(blocks).max(axis=1, initial=0)
            per_unit, scale = np.float32(127) / largest, largest / np.float32(127)
            empty = ~np.isfinite(per_unit)
        steps = blocks * np.where(empty, np.float32(0), per_unit)[:, None]
    codes = half_away(steps) if ties == "away" and form != "Q8_K" else np.rint(steps)
    return codes, np.where(empty, np.float32(0), scale)


def _times(codes: Array, scale: Array, shape: tuple[int, ...]) -> Array:
    return np.asarray(codes.astype(np.float64) * scale.astype(np.float64)[:, None]).reshape(shape)


def activation_margin(x: Array, form: Form = "Q8_0") -> float:
    """How near a number comes to being rounded otherwise: the least distance from a tie, as a share of the largest in its run, or row.

    Two computations of the same model differ in the last bits of their activations. Where one lies that near a tie, it may become another
    code, and logits then differ by what a code is worth: comparing them to more digits means nothing there.

    Parameters
    ----------
    x : ndarray ``[..., n]``
    form : {"F32", "F16", "BF16", "Q8_0", "Q8_1", "Q8_K"}
        Infinite for F32, which rounds nothing.

    Examples
    --------
    >>> round(127 * activation_margin(np.array([127.0, 0.25] + [0.0] * 30)), 9)
    0.25
    >>> activation_margin(np.array([4.0, 1 + 2.0**-11 + 2.0**-12]), "F16") == 2.0**-12 / 4
    True
    """
    if form == "F32":
        return float("inf")
    runs = x.astype(np.float64).reshape(-1, x.shape[-1] if RUNS[form] == 1 else RUNS[form])
    largest = np.abs(runs).max(axis=1, keepdims=True)
    largest = np.where(largest > 0, largest, 1)
    if RUNS[form] == 1:
        digits, lowest = (11, -24) if form == "F16" else (8, -133)
        step = np.ldexp(1.0, np.maximum(np.frexp(runs)[1] - digits, lowest))
    else:
        step = largest / 127
    places = runs / step
    return float((np.abs(places - np.floor(places) - 0.5) * step / largest).min(initial=np.inf))
