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

from refquant.core.block_formats import BlockFormat, named_block
from refquant.core.scales import ScaleSpec
from refquant.core.scheme import EmptyRule, Scheme, find_scheme
from refquant.core.spec_trees import format_from_tree, format_tree, scales_from_tree, scales_tree
from refquant.core.tiling import Tiling
from refquant.errors import InputError, UsageError
from refquant.formats import Format, IntFormat, MemberRounding, find_format, rounding_for
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
    format : Format
        The codes: integers, a floating-point format or a codebook.
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
    rounding : Rounding or MemberRounding
        How ``x / scale`` becomes an integer, or a member of another format. (Zero points always round half to even, as in every scheme's
        source.)
    overflow : {"saturate", "wrap", "raise"}
        What happens to codes outside the format. Infinities follow it too: they saturate, or raise under the other two. ``"wrap"``
        counts modulo the number of members of an integer format.
    nan : {"raise", "zero"}
        NaN raises, or counts as the number zero everywhere, in the range and in the codes.
    scales : ScaleSpec, optional
        A nested spec: the scales are codes themselves. Without one they are numbers of `scale_format`.

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

    format: Format
    tiling: Tiling
    scheme: Scheme
    scale_format: str | None = None
    clip_search: ClipSearch | None = None
    range_ratio: float = 1.0
    rounding: Rounding | MemberRounding = field(default=Rounding.HALF_EVEN)
    overflow: Overflow = "saturate"
    nan: NanPolicy = "raise"
    scales: ScaleSpec | None = None

    def __post_init__(self) -> None:
        if isinstance(self.format, IntFormat):
            self._check_integers(self.format)
        else:
            self._check_members()
        if self.scales is not None:
            self._check_scales()
        object.__setattr__(self, "range_ratio", _number(self.range_ratio, "range_ratio"))
        if not 0 < self.range_ratio <= 1:
            raise UsageError(f"range_ratio lies in (0, 1], not {self.range_ratio!r}")
        if self.overflow not in ("saturate", "wrap", "raise"):
            raise UsageError(f"overflow is 'saturate', 'wrap' or 'raise', not {self.overflow!r}")
        if self.nan not in ("raise", "zero"):
            raise UsageError(f"nan is 'raise' or 'zero', not {self.nan!r}")
        if self.scale_format is not None:
            float_dtype(self.scale_format)

    def _check_integers(self, fmt: IntFormat) -> None:
        if fmt.signed != self.scheme.signed:
            kind = "signed" if self.scheme.signed else "unsigned"
            raise UsageError(f"scheme {self.scheme.name} has {kind} codes; {fmt.name} does not")
        if self.scheme.steps not in ("levels", "half_range") and fmt.bits == 1:
            raise UsageError(f"scheme {self.scheme.name} divides by 2^(bits-1) - 1, which is 0 for 1 bit; use at least 2 bits")
        if self.rounding not in list(Rounding):
            raise UsageError(f"unknown rounding {self.rounding!r}; known are {', '.join(Rounding)}")
        object.__setattr__(self, "rounding", Rounding(self.rounding))

    def _check_members(self) -> None:
        if self.scheme.steps != "largest":
            raise UsageError(
                f"scheme {self.scheme.name} makes a grid of integers; {self.format.name} takes 'absmax' or 'absmax_reciprocal'"
            )
        if self.overflow == "wrap":
            raise UsageError(f"only integers wrap; overflow of {self.format.name} is 'saturate' or 'raise'")
        object.__setattr__(self, "rounding", rounding_for(self.format, str(self.rounding)))

    def _check_scales(self) -> None:
        if self.scheme.zero != "none" or self.scheme.reciprocal or self.scheme.range != "absmax":
            raise UsageError(f"nested scales need an 'absmax' scheme that divides and has no zero point, unlike {self.scheme.name}")
        if self.scale_format is not None or self.clip_search is not None:
            raise UsageError("nested scales have a format of their own and are not searched: leave out scale_format and clip_search")
        if isinstance(self.format, IntFormat) and self.scales is not None and self.scales.coded_by != "stored":
            raise UsageError(f"integers such as {self.format.name} are divided by the stored scale; coded_by is 'stored'")

    @property
    def integers(self) -> IntFormat:
        """The format, where only integers make sense.

        Raises
        ------
        UsageError
            If it is a floating-point format or a codebook.
        """
        if not isinstance(self.format, IntFormat):
            raise UsageError(f"{self.format.name} is not an integer format, which is needed here")
        return self.format

    @property
    def scale_divisor(self) -> float:
        """What the range (``levels``) or its upper end (the other rules) is divided by."""
        if self.scheme.steps == "largest":
            return self.format.hi
        bits = self.format.bits
        half = 1 << (bits - 1)
        left_out = isinstance(self.format, IntFormat) and self.format.narrow and not self.format.signed
        return {"levels": (1 << bits) - 1 - left_out, "half_range": half}.get(self.scheme.steps, half - 1)

    def with_tiling(self, tiling: Tiling) -> QuantSpec:
        """Return the same spec for tiles of another shape."""
        return replace(self, tiling=tiling)

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces. Two specs are equal exactly if their texts are."""
        tree = asdict(self)
        tree["format"] = format_tree(self.format)
        if self.scales is None:
            del tree["scales"]  # texts, and with them digests, of specs without one are what they were before there were any
        else:
            tree["scales"] = scales_tree(self.scales)
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
                format=format_from_tree(tree["format"]),
                tiling=Tiling(tuple(tree["tiling"])),
                scheme=Scheme(**tree["scheme"]),
                scale_format=tree["scale_format"],
                clip_search=None if search is None else ClipSearch(**search),
                range_ratio=tree["range_ratio"],
                rounding=tree["rounding"],
                overflow=tree["overflow"],
                nan=tree["nan"],
                scales=scales_from_tree(tree["scales"]) if "scales" in tree else None,
            )
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            found = f"it has no field {error}" if isinstance(error, KeyError) else error
            raise InputError(f"this is not the JSON of a quantization spec: {found}") from error


def spec(
    format: str | Format = "int4",
    *,
    group_size: int | None = None,
    granularity: Granularity = "channel",
    scheme: str | Scheme | None = None,
    empty: EmptyRule | None = None,
    tiling: Tiling | None = None,
    scale_format: str | None = None,
    mse: bool | ClipSearch = False,
    range_ratio: float = 1.0,
    rounding: str | Rounding | MemberRounding | None = None,
    overflow: Overflow = "saturate",
    nan: NanPolicy = "raise",
    scales: ScaleSpec | None = None,
) -> QuantSpec:
    """Build a :class:`QuantSpec` for a two-dimensional tensor from the field's usual words.

    Parameters
    ----------
    format : str or Format
        ``"int4"`` names a width, and the scheme decides whether codes are signed and narrow: ``int4`` under ``asym_incl0`` has codes
        0..15. ``"uint4"`` or an :class:`IntFormat` insists, and contradicting the scheme is an error. A block format such as ``"mxfp4"``
        (:data:`refquant.core.block_formats.BLOCK_FORMATS`) brings element, block, scheme and scales.
    group_size : int, optional
        Elements along the input axis that share a scale; ``None`` or ``-1`` leaves it to `granularity`.
    granularity : {"channel", "token", "tensor"}
        Without groups: one scale a row, or one for all. ("channel" and "token" are the same tiling of a matrix.)
    scheme : str or Scheme, optional
        A name of :data:`refquant.core.scheme.SCHEMES`; by default ``asym_incl0``, and ``absmax`` for formats other than integers.
    empty : str, optional
        Another rule for ranges of zero width than the scheme's own; QuaRot's activations use ``sym_full`` with ``"unit_scale"``.
    tiling : Tiling, optional
        Any tiling, instead of `group_size` and `granularity`.
    mse : bool or ClipSearch
        Search the clipping range.
    scale_format, range_ratio, rounding, overflow, nan, scales
        As in :class:`QuantSpec`. Rounding is half to even by default, or the codebook's own rule.

    Raises
    ------
    UsageError
        If a name is unknown or two arguments contradict each other.

    Examples
    --------
    >>> spec("int4", group_size=128, scheme="asym_incl0").format.name
    'uint4'
    """
    block = named_block(format) if isinstance(format, str) else None
    if block is not None:
        _refuse_block(block, group_size, scheme, scale_format, scales, tiling)
        format, scheme, scales, scale_format = find_format(block.element), block.scheme, block.scales, block.scale_format
        group_size = group_size if group_size is not None or tiling is not None else block.block
    if scheme is None:
        named = find_format(format) if isinstance(format, str) else format
        scheme = "asym_incl0" if isinstance(named, IntFormat) else "absmax"
    chosen = find_scheme(scheme) if isinstance(scheme, str) else scheme
    if empty is not None:
        chosen = replace(chosen, empty=empty)
    if tiling is not None and group_size is not None:
        raise UsageError("give either tiling or group_size, not both")
    if tiling is None:
        tiling = _usual_tiling(group_size, granularity)
    codes = _codes_for(format, chosen)
    return QuantSpec(
        format=codes,
        tiling=tiling,
        scheme=chosen,
        scale_format=scale_format,
        clip_search=(ClipSearch() if mse else None) if isinstance(mse, bool) else mse,
        range_ratio=range_ratio,
        rounding=cast(Rounding, rounding_for(codes, None) if rounding is None else rounding),
        overflow=overflow,
        nan=nan,
        scales=scales,
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


def _refuse_block(block: BlockFormat, group_size: int | None, *given: object) -> None:
    """A block format is all of its parts; only where the block size is free may it be another."""
    if any(value is not None for value in given[:-1]):
        raise UsageError(f"{block.name} brings its own scheme, scale format and scales; give find_format({block.element!r}) to choose them")
    if not block.any_block and (given[-1] is not None or group_size not in (None, block.block)):
        raise UsageError(f"{block.name} has blocks of {block.block} along the last axis; give find_format({block.element!r}) for others")


def _codes_for(format: str | Format, scheme: Scheme) -> Format:
    """Let the scheme complete a bare width such as ``int4``; anything more explicit is taken at its word."""
    if not isinstance(format, str):
        return format
    named = find_format(format)
    if isinstance(named, IntFormat) and named.signed and not named.narrow:
        return IntFormat(bits=named.bits, signed=scheme.signed, narrow=scheme.narrow)
    return named
