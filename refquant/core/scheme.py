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
``sym_full``: QuaRot; ``sym_narrow``: SmoothQuant. :data:`PEER_SCHEMES` holds the conventions of further programs, one each.
``sym_gptq_half_range`` is a fault of the GPTQ code kept for byte equality with it: a
tile without a negative entry keeps ``lo = 0``, so its scale is half as large and everything above half its maximum saturates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from refquant.errors import UsageError

RangeRule = Literal["minmax", "minmax_with_zero", "lower_with_zero", "absmax", "absmax_if_negative", "signed_max_lower", "signed_max_upper"]
StepsRule = Literal["levels", "half_levels", "half_range", "each_end", "largest"]
ZeroRule = Literal["none", "midpoint", "midpoint_low", "integer", "integer_first", "integer_wide", "real"]
EmptyRule = Literal[
    "unit_range",
    "floor",
    "unit_scale",
    "span_floor",
    "span_floor_low",
    "unit_span",
    "scale_limits",
    "scale_floor",
    "scale_epsilon",
    "scale_normal",
    "epsilon_scale",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """One rule from extremes to scale and zero point.

    Parameters
    ----------
    name : str
    range : str
        Which interval the grid covers: as found (``minmax``); widened to hold 0 (``minmax_with_zero``), at its lower end alone
        (``lower_with_zero``); ``absmax`` to both sides, or so only where there are negative numbers (``absmax_if_negative``); or so that
        the lowest code stands for the number of largest magnitude, whose sign the scale then takes (``signed_max_lower``,
        ``signed_max_upper``: which end wins if both are as large).
    steps : str
        Divide the whole range by ``2^b - 1`` (``levels``; ``2^b - 2`` if narrow unsigned codes leave one out), or its upper end by
        ``2^(b-1) - 1`` (``half_levels``), by ``2^(b-1)`` (``half_range``) or by the largest member of the format (``largest``); or
        divide each end by the code that it must not pass, and take the larger scale (``each_end``).
    zero : str
        No zero point (``none``); the constant ``2^(b-1)`` or ``2^(b-1) - 1`` (``midpoint``, ``midpoint_low``); a rounded one clipped to the
        codes, which is added after rounding or before (``integer``, ``integer_first``: ties differ); a rounded one clipped to +-10^4 before
        rounding and not to the codes (``integer_wide``); an unrounded one (``real``).
    empty : str
        What a range of zero width becomes. On empty tiles alone act ``unit_range``, the interval [-1, 1]; ``unit_span``, a maximum of 1;
        ``unit_scale``, a scale of 1; ``epsilon_scale``, one of 2^-23. On every tile act ``floor``, a maximum of at least 1e-5;
        ``span_floor`` and ``span_floor_low``, a width of at least 1e-5 or 1e-10; ``scale_limits``, a scale clipped to [1e-5, 1e4];
        ``scale_floor``, ``scale_epsilon`` and ``scale_normal``, one of at least 1e-5, 2^-23, or the smallest normal number of the
        working dtype.
    signed, narrow : bool
        The codes: signed or unsigned; whether a bare width such as ``int4`` means the format without the lowest code, or, unsigned, without
        the highest.
    reciprocal : bool
        Multiply by the rounded reciprocal of the scale instead of dividing, as torch and torchao do. It moves exact ties.

    Raises
    ------
    UsageError
        If a rule is unknown, or two rules do not go together: steps of half the levels without a symmetric range or with narrow unsigned
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
        ranges = {"levels": get_args(RangeRule)[:5], "each_end": ("minmax_with_zero",), "half_range": ("absmax", *get_args(RangeRule)[5:])}
        if self.range not in ranges.get(self.steps, ("absmax",)):
            fitting = ", ".join(ranges.get(self.steps, ("absmax",)))
            raise UsageError(f"scheme {self.name}: steps {self.steps!r} go with the ranges {fitting}, not with {self.range!r}")
        if self.narrow and not self.signed and self.steps != "levels":
            raise UsageError(f"scheme {self.name}: narrow unsigned codes go with the steps 'levels'; {self.steps!r} speak of signed ones")
        if self.range in ("minmax", "lower_with_zero") and self.empty in ("unit_range", "floor"):
            raise UsageError(
                f"scheme {self.name}: under range {self.range!r} the rule {self.empty!r} leaves a tile of equal numbers without a width; "
                "choose 'unit_scale', 'span_floor' or 'scale_limits'"
            )

    @property
    def signed_scale(self) -> bool:
        """Whether scales may be negative."""
        return self.range in ("signed_max_lower", "signed_max_upper")


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

# Those of single programs, to the byte: docs/peers.md says which file each was held against.
PEER_SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Scheme(name="torch_symmetric", range="absmax", steps="levels", zero="none", empty="scale_epsilon", signed=True, reciprocal=True),
        Scheme(
            name="torch_affine",
            range="minmax_with_zero",
            steps="levels",
            zero="integer",
            empty="scale_epsilon",
            signed=False,
            reciprocal=True,
        ),
        Scheme(name="torchao_symmetric", range="absmax", steps="levels", zero="none", empty="scale_normal", signed=True, reciprocal=True),
        Scheme(
            name="torchao_midpoint", range="absmax", steps="levels", zero="midpoint", empty="scale_normal", signed=False, reciprocal=True
        ),
        Scheme(
            name="torchao_asymmetric",
            range="minmax_with_zero",
            steps="levels",
            zero="integer",
            empty="scale_normal",
            signed=True,
            reciprocal=True,
        ),
        Scheme(
            name="torchao_no_clipping",
            range="minmax_with_zero",
            steps="each_end",
            zero="none",
            empty="scale_normal",
            signed=True,
            reciprocal=True,
        ),
        Scheme(name="compressed_tensors_symmetric", range="absmax", steps="levels", zero="none", empty="epsilon_scale", signed=True),
        Scheme(
            name="compressed_tensors_asymmetric",
            range="minmax_with_zero",
            steps="levels",
            zero="integer_first",
            empty="epsilon_scale",
            signed=True,
        ),
        Scheme(name="brevitas_narrow", range="absmax", steps="half_levels", zero="none", empty="span_floor_low", signed=True, narrow=True),
        Scheme(name="brevitas_full", range="absmax", steps="half_range", zero="none", empty="span_floor_low", signed=True),
        Scheme(
            name="brevitas_asymmetric", range="lower_with_zero", steps="levels", zero="integer_first", empty="span_floor_low", signed=False
        ),
        Scheme(
            name="brevitas_asymmetric_narrow",
            range="lower_with_zero",
            steps="levels",
            zero="integer_first",
            empty="span_floor_low",
            signed=False,
            narrow=True,
        ),
        Scheme(
            name="auto_round_symmetric", range="signed_max_upper", steps="half_range", zero="midpoint", empty="scale_floor", signed=False
        ),
        Scheme(name="auto_round_asymmetric", range="minmax_with_zero", steps="levels", zero="integer", empty="scale_floor", signed=False),
        Scheme(name="auto_round_gptq", range="absmax_if_negative", steps="levels", zero="midpoint", empty="scale_floor", signed=False),
        Scheme(name="nncf_symmetric", range="signed_max_lower", steps="half_range", zero="none", empty="scale_epsilon", signed=True),
        Scheme(name="nncf_asymmetric", range="minmax_with_zero", steps="levels", zero="integer_first", empty="scale_epsilon", signed=False),
        Scheme(name="neural_compressor_symmetric", range="absmax", steps="half_levels", zero="none", empty="unit_span", signed=True),
        Scheme(
            name="neural_compressor_full_range", range="signed_max_lower", steps="half_range", zero="none", empty="unit_span", signed=True
        ),
        Scheme(name="duquant_symmetric", range="absmax", steps="half_levels", zero="midpoint_low", empty="scale_limits", signed=False),
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
    known = SCHEMES | MEMBER_SCHEMES | PEER_SCHEMES
    if name not in known:
        raise UsageError(f"unknown scheme {name!r}; known are {', '.join(known)}")
    return known[name]
