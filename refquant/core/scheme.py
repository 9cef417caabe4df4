"""Uniform schemes: how the extremes of a tile become a scale and a zero point.

The field uses at least six rules under the same two words "symmetric" and "asymmetric". Each is a literal here, and they share one
decoding: ``x_hat = scale * (code - zero)``. With ``lo, hi`` the extremes of a tile and ``b`` bits:

======================== ================== =========================== ============================= ==================
name                     range              scale                       zero                          codes
======================== ================== =========================== ============================= ==================
``asym_incl0``           widened to hold 0  (hi - lo) / (2^b - 1)       rn(-lo / s)                   0 .. 2^b-1
``asym_minmax``          as found           max(hi-lo, 1e-5) / (2^b-1)  clip(-rn(lo / s), codes)      0 .. 2^b-1
``asym_omni``            as found           clip((hi-lo)/(2^b-1),       rn(clip(-lo/s, -1e4, 1e4))    0 .. 2^b-1
                                            1e-5, 1e4)
``sym_full``             max \\|x\\|          max / (2^(b-1) - 1)         none                          -2^(b-1) .. hi
``sym_narrow``           max \\|x\\|          max / (2^(b-1) - 1)         none                          symmetric
``sym_gptq``             max \\|x\\|          2 max / (2^b - 1)           2^(b-1)                       0 .. 2^b-1
``sym_gptq_half_range``  see below          (hi - lo) / (2^b - 1)       2^(b-1)                       0 .. 2^b-1
======================== ================== =========================== ============================= ==================

Sources: ``asym_incl0``, ``sym_gptq``: IST-DASLab/gptq; ``asym_minmax``: llm-awq; ``asym_omni``: OmniQuant and DuQuant;
``sym_full``: QuaRot; ``sym_narrow``: SmoothQuant. ``sym_gptq_half_range`` is a fault of the GPTQ code kept for byte equality with it: a
tile without a negative entry keeps ``lo = 0``, so its scale is half as large and everything above half its maximum saturates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from refquant.errors import UsageError

RangeRule = Literal["minmax", "minmax_with_zero", "absmax", "absmax_if_negative"]
StepsRule = Literal["levels", "half_levels", "largest"]
ZeroRule = Literal["none", "midpoint", "integer", "integer_wide", "real"]
EmptyRule = Literal["unit_range", "floor", "unit_scale", "span_floor", "scale_limits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """One rule from extremes to scale and zero point.

    Parameters
    ----------
    name : str
    range : {"minmax", "minmax_with_zero", "absmax", "absmax_if_negative"}
        Which interval the grid covers.
    steps : {"levels", "half_levels", "largest"}
        Divide the whole range by ``2^b - 1``, or its upper end by ``2^(b-1) - 1``, or by the largest member of the format.
    zero : {"none", "midpoint", "integer", "integer_wide", "real"}
        No zero point; the constant ``2^(b-1)``; a rounded one clipped to the codes; a rounded one clipped to +-10^4 before rounding
        and not to the codes; an unrounded one.
    empty : {"unit_range", "floor", "unit_scale", "span_floor", "scale_limits"}
        What a range of zero width becomes: the interval [-1, 1]; a maximum of at least 1e-5; a scale of 1; a width of at least 1e-5;
        a scale clipped to [1e-5, 1e4]. The last two and ``floor`` act on every tile, the others on empty ranges alone.
    signed, narrow : bool
        The codes: signed or unsigned; whether a bare width such as ``int4`` means the format without the lowest code.
    reciprocal : bool
        Multiply by the rounded reciprocal of the scale instead of dividing, as torch and torchao do. It moves exact ties.

    Raises
    ------
    UsageError
        If a rule is unknown, or two rules do not go together: steps of half the levels without a symmetric range, narrow unsigned
        codes, or a range as found (``minmax``) whose empty rule leaves tiles of equal numbers without a width.
    """

    name: str
    range: RangeRule
    steps: StepsRule
    zero: ZeroRule
    empty: EmptyRule
    signed: bool
    narrow: bool = False
    reciprocal: bool = False

    def __post_init__(self) -> None:
        rules = {"range": RangeRule, "steps": StepsRule, "zero": ZeroRule, "empty": EmptyRule}
        for rule, known in rules.items():
            if getattr(self, rule) not in get_args(known):
                raise UsageError(f"unknown {rule} rule {getattr(self, rule)!r} of a scheme; known are {', '.join(get_args(known))}")
        flags = (self.signed, self.narrow, self.reciprocal)
        if not isinstance(self.name, str) or not all(isinstance(flag, bool) for flag in flags):
            raise UsageError(f"a scheme's name is a text, and signed, narrow and reciprocal are True or False; got {self}")
        if self.steps != "levels" and self.range != "absmax":
            raise UsageError(f"scheme {self.name}: steps {self.steps!r} divide the upper end of an 'absmax' range, not of {self.range!r}")
        if self.narrow and not self.signed:
            raise UsageError(f"scheme {self.name}: narrow codes are signed")
        if self.range == "minmax" and self.empty in ("unit_range", "floor"):
            raise UsageError(
                f"scheme {self.name}: under range 'minmax' the rule {self.empty!r} leaves a tile of equal numbers without a width; "
                "choose 'unit_scale', 'span_floor' or 'scale_limits'"
            )


SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Scheme(name="asym_incl0", range="minmax_with_zero", steps="levels", zero="integer", empty="unit_range", signed=False),
        Scheme(name="asym_minmax", range="minmax", steps="levels", zero="integer", empty="span_floor", signed=False),
        Scheme(name="asym_omni", range="minmax", steps="levels", zero="integer_wide", empty="scale_limits", signed=False),
        Scheme(name="sym_full", range="absmax", steps="half_levels", zero="none", empty="floor", signed=True),
        Scheme(name="sym_narrow", range="absmax", steps="half_levels", zero="none", empty="floor", signed=True, narrow=True),
        Scheme(name="sym_gptq", range="absmax", steps="levels", zero="midpoint", empty="unit_range", signed=False),
        Scheme(name="sym_gptq_half_range", range="absmax_if_negative", steps="levels", zero="midpoint", empty="unit_range", signed=False),
    )
}

# Of floating-point formats and codebooks: the largest magnitude becomes the largest member, and a tile of zeros gets scale 1.
MEMBER_SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Scheme(name="absmax", range="absmax", steps="largest", zero="none", empty="unit_scale", signed=True),
        Scheme(name="absmax_reciprocal", range="absmax", steps="largest", zero="none", empty="unit_scale", signed=True, reciprocal=True),
    )
}


def find_scheme(name: str) -> Scheme:
    """Look a scheme up by name.

    Raises
    ------
    UsageError
        If there is no such scheme.

    Examples
    --------
    >>> find_scheme("sym_gptq").zero
    'midpoint'
    """
    known = SCHEMES | MEMBER_SCHEMES
    if name not in known:
        raise UsageError(f"unknown scheme {name!r}; known are {', '.join(known)}")
    return known[name]
