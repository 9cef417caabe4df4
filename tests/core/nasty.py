"""Arrays and specs that are drawn to break things: ties, signed zeros, subnormal numbers, equal rows, numbers near overflow."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import hypothesis.extra.numpy as hnp
import ml_dtypes
import numpy as np
from hypothesis import strategies as st

from refquant.core import SCHEMES, ClipSearch, QuantSpec, Scheme, Tiling, find_scheme, spec
from refquant.numerics.arrays import Array
from refquant.numerics.rounding import Rounding

DTYPES = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}
TILINGS = {
    "tensor": Tiling.tensor(),
    "channel": Tiling.channel(),
    "column": Tiling((None, 1)),
    "group3": Tiling.group(3),
    "group4": Tiling.group(4),
    "block": Tiling.block(2, 3),
    "element": Tiling((1, 1)),
}


def pool(dtype: np.dtype[Any]) -> list[float]:
    """Numbers of a dtype with a history of going wrong."""
    limits = ml_dtypes.finfo(dtype)
    smallest, normal, largest = float(limits.smallest_subnormal), float(limits.smallest_normal), float(limits.max)
    magnitudes = (
        0,
        1,
        0.5,
        1.5,
        2.5,
        7,
        7.5,
        8,
        127.5,
        128,
        0.1,
        0.3,
        1e-5,
        6e-5,
        1e4,
        smallest,
        3 * smallest,
        20 * smallest,
        normal,
        largest / 4,
    )
    values = [sign * m for m in magnitudes for sign in (1.0, -1.0)] + [largest, -largest]
    return [float(v) for v in np.array(values).astype(dtype)]


def numbers(dtype: np.dtype[Any]) -> st.SearchStrategy[float]:
    """Finite numbers of a dtype."""
    quarters = st.integers(-160, 160).map(lambda n: n / 4)
    width = {"float16": 16, "float64": 64}.get(dtype.name, 32)
    if dtype.name == "bfloat16":
        anything = st.floats(-(2.0**126), 2.0**126, width=32).map(lambda v: float(np.float32(v).astype(dtype)))
    else:
        anything = st.floats(allow_nan=False, allow_infinity=False, width=width)
    return st.one_of(st.sampled_from(pool(dtype)), quarters, st.floats(-4, 4, width=16), anything)


@st.composite
def matrices(draw: st.DrawFn, dtypes: tuple[str, ...] = tuple(DTYPES), elements: st.SearchStrategy[float] | None = None) -> Array:
    """Matrices of up to 5 x 9 finite numbers; some have no rows or columns, some rows are constant."""
    dtype = DTYPES[draw(st.sampled_from(dtypes))]
    elements = numbers(dtype) if elements is None else elements
    shape = draw(st.tuples(st.integers(0, 5), st.integers(0, 9)))
    values = draw(hnp.arrays(np.float64, shape, elements=elements))
    if shape[0] and draw(st.booleans()):
        values[draw(st.integers(0, shape[0] - 1))] = draw(elements)
    return values.astype(dtype)


def schemes() -> st.SearchStrategy[Scheme]:
    """The named schemes, as they are and multiplying by the reciprocal."""
    return st.builds(
        lambda name, reciprocal: replace(find_scheme(name), reciprocal=reciprocal), st.sampled_from(sorted(SCHEMES)), st.booleans()
    )


@st.composite
def specs(draw: st.DrawFn, scheme: Scheme | None = None, **fixed: Any) -> QuantSpec:
    """Specs of every scheme, width, tiling, scale format, rounding and policy; `fixed` overrides what is drawn."""
    scheme = scheme or draw(schemes())
    lowest = 2 if scheme.steps == "half_levels" or scheme.narrow else 1
    chosen: dict[str, Any] = {
        "tiling": draw(st.sampled_from(list(TILINGS.values()))),
        "scale_format": draw(st.sampled_from([None, None, "float16", "bfloat16", "float32", "float64"])),
        "range_ratio": draw(st.sampled_from([1.0, 1.0, 0.9, 0.5])),
        "rounding": draw(st.sampled_from(list(Rounding))),
        "overflow": draw(st.sampled_from(["saturate", "saturate", "wrap", "raise"])),
        "nan": draw(st.sampled_from(["raise", "zero"])),
        "mse": draw(st.sampled_from([False, False, False, ClipSearch(steps=10, max_shrink=0.5)])),
    }
    bits = draw(st.one_of(st.integers(lowest, 8), st.sampled_from([4, 8, 16])))
    return spec(f"int{bits}" if bits >= lowest else "int4", scheme=scheme, **{**chosen, **fixed})
