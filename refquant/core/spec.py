"""What a quantized tensor is to look like: format, tile, scheme, scale format, rounding, overflow, NaN policy.

A spec is pure data: hashable, with one canonical JSON text that is its identity. Nothing that is inferred from a tensor is ever
written back into it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, cast

import numpy as np

from refquant.core.scheme import EmptyRule, Scheme, find_scheme
from refquant.core.tiling import Tiling
from refquant.errors import InputError, UsageError
from refquant.formats import IntFormat, find_format
from refquant.numerics.casting import float_dtype
from refquant.numerics.rounding import Rounding

Overflow = Literal["saturate", "wrap", "raise"]
NanPolicy = Literal["raise", "zero"]
Granularity = Literal["tensor", "channel", "token"]


def _number(value: object, what: str) -> float:
    """Return a finite real number as a Python float, so that equal specs have equal texts."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating) or not np.isfinite(value):
        raise UsageError(f"{what} is a finite number, not {value!r}")
    return float(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSearch:
    """Search of a shrunken range with less weight error, as in the GPTQ and QuaRot code.

    For ``i = 0, 1, ...`` below ``int(max_shrink * steps)`` the range is multiplied by ``1 - i/steps`` and the error
    ``sum |Q(x) - x|^norm`` taken over the tile; the first smallest wins.

    Parameters
    ----------
    steps : int
        Fineness of the search.
    max_shrink : float
        Share of the steps that is tried.
    norm : float
        Exponent of the error.
    """

    steps: int = 100
    max_shrink: float = 0.8
    norm: float = 2.4

    def __post_init__(self) -> None:
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise UsageError(f"the steps of a clip search are a positive integer, not {self.steps!r}")
        object.__setattr__(self, "max_shrink", _number(self.max_shrink, "max_shrink"))
        object.__setattr__(self, "norm", _number(self.norm, "norm"))
        if not 0 < self.max_shrink <= 1 or int(self.max_shrink * self.steps) < 1 or self.norm <= 0:
            raise UsageError(f"a clip search needs 0 < max_shrink <= 1, at least one step, norm > 0; got {self}")

    @property
    def ratios(self) -> tuple[float, ...]:
        """The factors that are tried, from 1 downwards."""
        return tuple(1 - i / self.steps for i in range(int(self.max_shrink * self.steps)))


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantSpec:
    """Everything that decides how a tensor becomes codes.

    Parameters
    ----------
    format : IntFormat
        The codes.
    tiling : Tiling
        Which elements share a scale.
    scheme : Scheme
        From extremes to scale and zero point.
    scale_format : {None, "float16", "bfloat16", "float32", "float64"}
        The dtype that scales are rounded to *before* zero points and codes are computed; ``None`` keeps the working dtype.
    clip_search : ClipSearch, optional
        Search the range instead of taking it from the extremes.
    range_ratio : float
        Multiplies both ends of every range, in (0, 1].
    rounding : Rounding
        How ``x / scale`` becomes an integer. (Zero points always round half to even, as in every scheme's source.)
    overflow : {"saturate", "wrap", "raise"}
        What happens to codes outside the format. Infinities follow it too: they saturate, or raise under the other two. ``"wrap"``
        counts modulo the number of members of the format.
    nan : {"raise", "zero"}
        NaN raises, or counts as the number zero everywhere, in the range and in the codes.

    Raises
    ------
    UsageError
        If a field is not one of these, or format and scheme contradict each other.

    Examples
    --------
    >>> s = spec("int4", group_size=128, scheme="asym_incl0", scale_format="float16")
    >>> QuantSpec.from_json(s.to_json()) == s
    True
    """

    format: IntFormat
    tiling: Tiling
    scheme: Scheme
    scale_format: str | None = None
    clip_search: ClipSearch | None = None
    range_ratio: float = 1.0
    rounding: Rounding = field(default=Rounding.HALF_EVEN)
    overflow: Overflow = "saturate"
    nan: NanPolicy = "raise"

    def __post_init__(self) -> None:
        if self.format.signed != self.scheme.signed:
            kind = "signed" if self.scheme.signed else "unsigned"
            raise UsageError(f"scheme {self.scheme.name} has {kind} codes; {self.format.name} does not")
        if self.scheme.steps == "half_levels" and self.format.bits == 1:
            raise UsageError(f"scheme {self.scheme.name} divides by 2^(bits-1) - 1, which is 0 for 1 bit; use at least 2 bits")
        object.__setattr__(self, "range_ratio", _number(self.range_ratio, "range_ratio"))
        if self.rounding not in list(Rounding):
            raise UsageError(f"unknown rounding {self.rounding!r}; known are {', '.join(Rounding)}")
        object.__setattr__(self, "rounding", Rounding(self.rounding))
        if not 0 < self.range_ratio <= 1:
            raise UsageError(f"range_ratio lies in (0, 1], not {self.range_ratio!r}")
        if self.overflow not in ("saturate", "wrap", "raise"):
            raise UsageError(f"overflow is 'saturate', 'wrap' or 'raise', not {self.overflow!r}")
        if self.nan not in ("raise", "zero"):
            raise UsageError(f"nan is 'raise' or 'zero', not {self.nan!r}")
        if self.scale_format is not None:
            float_dtype(self.scale_format)

    @property
    def scale_divisor(self) -> int:
        """What the range (``levels``) or its upper end (``half_levels``) is divided by."""
        bits = self.format.bits
        return (1 << bits) - 1 if self.scheme.steps == "levels" else (1 << (bits - 1)) - 1

    def with_tiling(self, tiling: Tiling) -> QuantSpec:
        """Return the same spec for tiles of another shape."""
        return replace(self, tiling=tiling)

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces. Two specs are equal exactly if their texts are."""
        tree = asdict(self)
        tree["tiling"] = list(self.tiling.extents)
        return json.dumps(tree, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> QuantSpec:
        """Read what :meth:`to_json` wrote.

        Raises
        ------
        InputError
            If the text is not the JSON of a spec.
        """
        try:
            tree: Mapping[str, Any] = json.loads(text)
            unknown = set(tree) - {entry.name for entry in fields(cls)}
            if unknown:
                raise InputError(f"a quantization spec has no field {', '.join(sorted(unknown))}")
            search = tree["clip_search"]
            return cls(
                format=IntFormat(**tree["format"]),
                tiling=Tiling(tuple(tree["tiling"])),
                scheme=Scheme(**tree["scheme"]),
                scale_format=tree["scale_format"],
                clip_search=None if search is None else ClipSearch(**search),
                range_ratio=tree["range_ratio"],
                rounding=Rounding(tree["rounding"]),
                overflow=tree["overflow"],
                nan=tree["nan"],
            )
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            found = f"it has no field {error}" if isinstance(error, KeyError) else error
            raise InputError(f"this is not the JSON of a quantization spec: {found}") from error


def spec(
    format: str | IntFormat = "int4",
    *,
    group_size: int | None = None,
    granularity: Granularity = "channel",
    scheme: str | Scheme = "asym_incl0",
    empty: EmptyRule | None = None,
    tiling: Tiling | None = None,
    scale_format: str | None = None,
    mse: bool | ClipSearch = False,
    range_ratio: float = 1.0,
    rounding: str | Rounding = Rounding.HALF_EVEN,
    overflow: Overflow = "saturate",
    nan: NanPolicy = "raise",
) -> QuantSpec:
    """Build a :class:`QuantSpec` for a two-dimensional tensor from the field's usual words.

    Parameters
    ----------
    format : str or IntFormat
        ``"int4"`` names a width, and the scheme decides whether codes are signed and narrow: ``int4`` under ``asym_incl0`` has codes
        0..15. ``"uint4"`` or an :class:`IntFormat` insists, and contradicting the scheme is an error.
    group_size : int, optional
        Elements along the input axis that share a scale; ``None`` or ``-1`` leaves it to `granularity`.
    granularity : {"channel", "token", "tensor"}
        Without groups: one scale a row, or one for all. ("channel" and "token" are the same tiling of a matrix.)
    scheme : str or Scheme
        A name of :data:`refquant.core.scheme.SCHEMES`.
    empty : str, optional
        Another rule for ranges of zero width than the scheme's own; QuaRot's activations use ``sym_full`` with ``"unit_scale"``.
    tiling : Tiling, optional
        Any tiling, instead of `group_size` and `granularity`.
    mse : bool or ClipSearch
        Search the clipping range.
    scale_format, range_ratio, rounding, overflow, nan
        As in :class:`QuantSpec`.

    Raises
    ------
    UsageError
        If a name is unknown or two arguments contradict each other.

    Examples
    --------
    >>> spec("int4", group_size=128, scheme="asym_incl0").format.name
    'uint4'
    """
    chosen = find_scheme(scheme) if isinstance(scheme, str) else scheme
    if empty is not None:
        chosen = replace(chosen, empty=empty)
    if tiling is not None and group_size is not None:
        raise UsageError("give either tiling or group_size, not both")
    if tiling is None:
        tiling = _usual_tiling(group_size, granularity)
    return QuantSpec(
        format=_codes_for(format, chosen),
        tiling=tiling,
        scheme=chosen,
        scale_format=scale_format,
        clip_search=(ClipSearch() if mse else None) if isinstance(mse, bool) else mse,
        range_ratio=range_ratio,
        rounding=cast(Rounding, rounding),
        overflow=overflow,
        nan=nan,
    )


def _usual_tiling(group_size: int | None, granularity: str) -> Tiling:
    if group_size is not None and group_size != -1:
        if isinstance(group_size, bool) or not isinstance(group_size, int) or group_size < 1:
            raise UsageError(f"group_size is a positive integer, or -1 or None for whole rows, not {group_size!r}")
        return Tiling.group(group_size)
    match granularity:
        case "tensor":
            return Tiling.tensor()
        case "channel" | "token":
            return Tiling.channel()
    raise UsageError(f"granularity is 'tensor', 'channel' or 'token', not {granularity!r}")


def _codes_for(format: str | IntFormat, scheme: Scheme) -> IntFormat:
    """Let the scheme complete a bare width such as ``int4``; anything more explicit is taken at its word."""
    if isinstance(format, IntFormat):
        return format
    named = find_format(format)
    if named.signed and not named.narrow:
        return IntFormat(bits=named.bits, signed=scheme.signed, narrow=scheme.narrow)
    return named
