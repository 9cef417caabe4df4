"""What a function promises, so that it is held to its own promises and not to somebody else's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from refquant.core import QuantSpec, Tiling
from refquant.formats import IntFormat

Promise = bool | str | None
NanRule = Literal["raise", "zero", "propagate"]
InfinityRule = Literal["raise", "saturate", "propagate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """Promises of a function: ``True``, a reason why not, or ``None`` where nobody said.

    Parameters
    ----------
    tiling : Tiling, optional
        Which elements share a scale. Laws on permutations and pieces follow it.
    ends : tuple of int, optional
        Lowest and highest code.
    nearest : bool or str, optional
        Every number goes to a nearest level.
    monotone : bool or str, optional
        Larger numbers of a tile have no smaller results.
    symmetric : bool or str, optional
        ``f(-x) = -f(x)``.
    scalable : bool or str, optional
        ``f(2^k x) = 2^k f(x)`` away from underflow, overflow and floors.
    keeps_zero : bool or str, optional
        0 becomes 0.
    idempotent : bool or str, optional
        ``f(f(x)) = f(x)`` up to rounding, although the function chooses a grid anew.
    order_free : bool or str, optional
        No result depends on the order of the elements of a tile (a sum in floating point may).
    dead_inputs : bool or str, optional
        Of weight methods: columns whose input was always 0 become 0 and do not touch the others.
    hessian_scalable : bool or str, optional
        Of weight methods: a factor on the Hessian changes nothing.
    nan, infinity : str, optional
        What happens to them: ``raise`` an error; NaN counts as ``zero``; infinities ``saturate``; they ``propagate`` to the result, and
        leave other tiles alone.

    Examples
    --------
    >>> from refquant.core import spec
    >>> Traits.of(spec("int4", scheme="sym_narrow")).symmetric
    True
    >>> Traits.of(spec("int4", scheme="sym_gptq")).symmetric
    'codes of sym_gptq lie off centre: 2^(b-1) below 0 and 2^(b-1) - 1 above'
    """

    tiling: Tiling | None = None
    ends: tuple[int, int] | None = None
    nearest: Promise = None
    monotone: Promise = None
    symmetric: Promise = None
    scalable: Promise = None
    keeps_zero: Promise = None
    idempotent: Promise = None
    order_free: Promise = None
    dead_inputs: Promise = None
    hessian_scalable: Promise = None
    nan: NanRule | None = None
    infinity: InfinityRule | None = None

    @classmethod
    def of(cls, spec: QuantSpec) -> Traits:
        """Promises of rounding to nearest by `spec`, with reasons where a scheme or policy breaks one (see docs/degenerate.md)."""
        saturates: Promise = True if spec.overflow == "saturate" else f"overflow={spec.overflow!r} does not saturate"
        to_nearest: Promise = True if str(spec.rounding).startswith("half_") else f"rounding {spec.rounding} is not to nearest"
        integers = spec.format if isinstance(spec.format, IntFormat) else None
        return cls(
            tiling=spec.tiling,
            ends=None if integers is None else (integers.lo, integers.hi),
            nearest=_both(saturates, to_nearest),
            monotone=saturates,
            symmetric=_both(_both(saturates, to_nearest), _symmetric(spec, integers)),
            scalable=_scalable(spec),
            keeps_zero=_both(saturates, _keeps_zero(spec)),
            idempotent=_both(_both(saturates, to_nearest), _idempotent(spec)),
            order_free=True if spec.clip_search is None else "the error sums of a clip search are taken in the order of the elements",
            nan=spec.nan,
            infinity="raise",
        )


def reason_against(promise: Promise, what: str) -> str | None:
    """None if something is promised, else why it is not asked for."""
    if promise is True:
        return None
    if isinstance(promise, str):
        return promise
    return f"{what} is not promised" if promise is False else f"nobody said whether {what}; give spec= or traits="


def _both(first: Promise, second: Promise) -> Promise:
    return first if first is not True else second


def _symmetric(spec: QuantSpec, integers: IntFormat | None) -> Promise:
    scheme = spec.scheme
    if scheme.zero in ("midpoint", "midpoint_low") or scheme.signed_scale:
        return f"codes of {scheme.name} lie off centre: 2^(b-1) below 0 and 2^(b-1) - 1 above"
    if scheme.zero != "none":
        return f"the zero point of {scheme.name} is rounded, and -x has another"
    if integers is None:
        return f"members of {spec.format.name} need not come in pairs of both signs"
    if not integers.narrow and (spec.scale_format in ("float16", "bfloat16") or spec.range_ratio < 1 or spec.clip_search is not None):
        return "below -hi there is one more code, which clipped numbers and scales that were rounded down reach on one side alone"
    return True


def _scalable(spec: QuantSpec) -> Promise:
    if spec.scheme.empty in ("span_floor", "span_floor_low", "scale_limits", "scale_floor", "scale_epsilon", "scale_normal"):
        return f"scheme {spec.scheme.name} has a floor that acts on every tile of small width"
    if spec.scale_format == "float16":
        return "float16 scales soon leave its normal numbers"
    if spec.clip_search is not None:
        return "the powers in the error sums of a clip search round differently at another scale"
    return True


def _keeps_zero(spec: QuantSpec) -> Promise:
    if spec.scheme.zero in ("integer_wide", "real"):
        return f"the zero point of {spec.scheme.name} may lie outside the codes or between them"
    return True


def _idempotent(spec: QuantSpec) -> Promise:
    if spec.scheme.zero != "none" or spec.clip_search is not None or spec.range_ratio < 1:
        return "a grid that is fitted anew to dequantized numbers may be another one"
    if spec.scale_format in ("float16", "bfloat16"):
        return "a scale that was rounded to its stored format need not be the one that is fitted to its own numbers"
    return True
