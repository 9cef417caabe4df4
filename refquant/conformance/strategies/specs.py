"""Specs over all schemes, widths, tilings, stored scales, roundings and policies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from refquant.core import SCHEMES, ClipSearch, QuantSpec, Scheme, Tiling, spec
from refquant.errors import UsageError
from refquant.numerics.rounding import Rounding

# What examples shrink to comes first.
SCHEME_ORDER = ("sym_narrow", "sym_full", "asym_incl0", *sorted(set(SCHEMES) - {"sym_narrow", "sym_full", "asym_incl0"}))


def schemes(names: Sequence[str] = SCHEME_ORDER, *, reciprocal: bool = True) -> st.SearchStrategy[Scheme]:
    """The named schemes, dividing, or (if `reciprocal`) multiplying by the rounded reciprocal.

    Raises
    ------
    UsageError
        If a name is unknown.

    Examples
    --------
    >>> from hypothesis import find
    >>> find(schemes(), lambda s: s.zero != "none").name
    'asym_incl0'
    """
    unknown = [name for name in names if name not in SCHEMES]
    if unknown:
        raise UsageError(f"unknown schemes {', '.join(unknown)}; known are {', '.join(SCHEMES)}")
    ways = st.booleans() if reciprocal else st.just(False)
    return st.builds(lambda name, way: replace(SCHEMES[name], reciprocal=way), st.sampled_from(list(names)), ways)


@st.composite
def tilings(draw: st.DrawFn, ndim: int = 2, *, max_extent: int = 5) -> Tiling:
    """Which elements share a scale: one a row, one for all, groups, columns, blocks, single elements, and any other extents.

    Parameters
    ----------
    ndim : int
        Axes of the arrays that are tiled.
    max_extent : int
        Of extents that are not whole axes; they need not divide an array's, so that tails are ragged.

    Examples
    --------
    >>> from hypothesis import find
    >>> find(tilings(), lambda t: t.extents[-1] is not None)
    Tiling(extents=(1, 1))
    """
    extent = st.one_of(st.none(), st.integers(1, max_extent))
    usual = [Tiling.channel(ndim), Tiling.tensor(ndim), Tiling.token(ndim)] if ndim else [Tiling(())]
    tiles = st.tuples(*[extent] * ndim).map(Tiling)
    groups = st.integers(1, max_extent).map(lambda size: Tiling.group(size, ndim)) if ndim else st.nothing()
    return draw(st.one_of(st.sampled_from(usual), groups, tiles))


@st.composite
def specs(
    draw: st.DrawFn,
    /,
    *,
    bits: Sequence[int] = (4, 2, 3, 8, 1, 5, 6, 7, 16),
    scheme: st.SearchStrategy[Scheme] | None = None,
    clip_search: bool = True,
    **fixed: Any,
) -> QuantSpec:
    """Specs of every scheme, width, tiling, stored scale, rounding, overflow and NaN policy.

    Parameters
    ----------
    bits : sequence of int
        Widths; 1 becomes 2 under schemes that divide by ``2**(bits-1) - 1``.
    scheme : strategy, optional
        :func:`schemes` otherwise.
    clip_search : bool
        Some search their range (coarsely: 5 candidates).
    **fixed
        Arguments of :func:`refquant.core.spec` that are not drawn, such as ``overflow="saturate"``.

    Examples
    --------
    >>> from hypothesis import find
    >>> s = find(specs(), lambda s: s.scale_format == "float16")
    >>> s.format.name, s.scheme.name, s.rounding.value, s.overflow
    ('int4_narrow', 'sym_narrow', 'half_even', 'saturate')
    """
    chosen = draw(schemes() if scheme is None else scheme)
    width = draw(st.sampled_from(list(bits)))
    if width == 1 and (chosen.steps == "half_levels" or chosen.narrow):
        width = 2
    drawn: dict[str, st.SearchStrategy[Any]] = {
        "tiling": tilings(),
        "scale_format": st.sampled_from([None, "float16", "bfloat16", "float32", "float64"]),
        "range_ratio": st.sampled_from([1.0, 0.5, 0.9]),
        "rounding": st.sampled_from(list(Rounding)),
        "overflow": st.sampled_from(["saturate", "wrap", "raise"]),
        "nan": st.sampled_from(["raise", "zero"]),
        "mse": st.sampled_from([False, ClipSearch(steps=10, max_shrink=0.5)] if clip_search else [False]),
    }
    options = {name: fixed[name] if name in fixed else draw(strategy) for name, strategy in drawn.items()}
    return spec(f"int{width}", scheme=chosen, **{**fixed, **options})
