"""Writes docs/degenerate.md from what the code does: ``python -m tests.core.degenerate_page``. A test holds the page to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from refquant.core import SCHEMES, QuantSpec, Tiling, encode, fake_quantize, fit_grid, spec
from refquant.errors import RefquantError
from refquant.numerics.arrays import Array

PAGE = Path(__file__).parents[2] / "docs" / "degenerate.md"

TILES: dict[str, list[float]] = {
    "all zero": [0.0, -0.0, 0.0],
    "all equal, positive": [0.5, 0.5, 0.5],
    "all equal, negative": [-0.5, -0.5, -0.5],
    "positive only": [1.0, 2.0, 4.0],
    "negative only": [-1.0, -2.0, -4.0],
    "both signs, 0 between": [-1.0, 0.0, 2.0],
    "tiny (below the floors)": [-1e-6, 0.0, 2e-6],
    "subnormal": [-3e-45, 0.0, 3e-44],
    "one outlier": [0.01, -0.01, 1e6],
    "far from 0": [1e38, 1e38, 1e38],
    "reaching across float32": [-3e38, 0.0, 3e38],
}

INTRO = """\
# Degenerate inputs

What happens where a formula alone does not say. This page is written by `python -m tests.core.degenerate_page` from what the code does, and a test
holds it to that; the rules stand in the docstrings of `refquant.core.scheme`, `coding`, `fitting` and `grid`.

Nothing here depends on the machine. No NumPy warning escapes, not even under `np.errstate(all="raise")`.
"""

RULES = """\
## Rules

- **NaN** raises `InputError` (`nan="raise"`), or counts as the number 0 everywhere, in the range and in the codes (`nan="zero"`).
- **Infinities** cannot be in a range: `InputError`. On a grid that is given they saturate; under `overflow="wrap"` and `"raise"` they raise `NumericalError`.
- **A range wider than the working dtype** raises `NumericalError` naming the tile. Symmetric steps (`sym_full`, `sym_narrow`) need no width and go up to the largest number.
- **A scale too large for its stored format** raises `NumericalError` naming the tile; one too small becomes the format's smallest positive number.
- **A zero point** is clipped to the codes in `asym_incl0` and `asym_minmax`. For `asym_incl0` this acts only where the scale was rounded down coarsely (bfloat16 from 8 bits,
  float16 from 11 bits, subnormal scales); the authors' code has no stored scale format and does not clip. A quotient `lo / s` that overflows saturates likewise.
- **Zeros** are always +0 after decoding: a code has no sign of zero. Fake quantization agrees with decoding byte for byte.
- **A product `s (code - z)` beyond the largest number** (a tile that reaches almost to the end of float32) raises `NumericalError`; decoding to float64 works.
- **A float64 scale with a float32 array** is rounded to float32; if that gives 0 or an infinity, `NumericalError`.
- **A reciprocal that overflows** (schemes with `reciprocal=True`, scales below 2^-128 in float32) raises `NumericalError`.
- **Empty arrays** have empty grids: an axis of length 0 has no tiles. Bits per weight are then 0.
- **Ragged tails**: the last run of an axis is a short tile of its own.
- **0-d, 1-d, 3-d, ...** arrays take any tiling with as many extents as axes; another number of extents is an `InputError`.
- **float16 and bfloat16** arrays are computed in float32, exactly as if they had been cast first. Other dtypes are an `InputError`.
- **1 bit**: unsigned codes 0 and 1, signed codes -1 and 0; `sym_full` and `sym_narrow` refuse, their divisor would be 0.

## Laws that do not hold

- *Quantizing twice.* On the same grid, coding a coded number gives its code again for `half_even` and `half_away`. It does not for `floor` and `ceil`, where `s k / s` may round to
  the other side of `k`, nor for `trunc_half`, which moves negative integers up. Fitting anew to dequantized numbers may change the grid under every scheme: `sym_gptq` turns [-7.5, 7.5]
  at 4 bits into [-8, 7], and the scale 1 into 16/15.
- *Half a step.* Between the end codes the error is at most half a step, and a few rounding errors. At an end code it may be more: `sym_gptq` loses half a step at +max; a rounded
  zero point shifts the grid by up to half a step; `asym_minmax` and `asym_omni` clip what lies on the other side of 0 (see "positive only").
- *Sign symmetry.* `sym_narrow` alone has it for all inputs. In `sym_full` a scale that is rounded down coarsely lets the lowest code appear; `sym_gptq` is off centre by half a step.
- *Scaling by powers of two* stops at the floors (1e-5 and 1e4 in `asym_minmax`, `asym_omni`, `sym_full`, `sym_narrow`), at subnormal scales and at overflow.
- *Tiles do not see each other*, except that the FAST lane's clip search may sum a ragged tail in another order than a tile of that length alone.

## Where peers differ (each held by tests/methods/test_rtn_peers.py)

| peer | difference |
|---|---|
| IST-DASLab/gptq, `sym=True` | rows without negative numbers use half their range; `sym_gptq_half_range` does so bit for bit, `sym_gptq` does not |
| QuaRot weights, asymmetric, no search | the width is at least 1e-5; `asym_incl0` has no such floor |
| QuaRot activations, asymmetric groups | ranges are not widened to hold 0; a constant group gives NaN |
| SmoothQuant | does not clip; nothing ever exceeds the codes, so `sym_narrow` gives its numbers |
| DuQuant | passes `round(x / s)` through float16: beyond 2048 steps (a value far outside the grid) its codes are coarser; its symmetric mode is no scheme here |
| ONNX Runtime | NaN becomes the lowest code; here it raises or is 0 |
| torch | multiplies by the rounded reciprocal (`reciprocal=True`); `quantize_per_tensor` and `_per_channel` add the zero point before rounding (`zero="real"`), per tensor with one rounding (FMA), which moves ties; `fake_quantize` adds it after. Observer scales are at least 2^-23 |
| compressed-tensors | an all-zero tile has scale 2^-23; asymmetric codes add the zero point before rounding |
"""


def number(value: object) -> str:
    """A float32 in as few digits as tell what happened."""
    return f"{float(value):.4g}"  # type: ignore[arg-type]


def outcome(x: Array, s: QuantSpec) -> str:
    """Scale, zero point, codes and values of a single tile, or the error."""
    try:
        grid = fit_grid(x, s)
        codes, values = encode(x, grid, s), fake_quantize(x, grid, s)
    except RefquantError as error:
        return type(error).__name__
    zero = "" if grid.zero is None else f", z {grid.zero[0, 0]}"
    shown = " ".join(map(str, codes[0].tolist()))
    return f"s {number(grid.scale[0, 0])}{zero}: codes {shown} = {' '.join(map(number, values[0]))}"


def table(situations: dict[str, tuple[Array, dict[str, str]]], names: list[str]) -> str:
    """One row a situation, one column a scheme."""
    lines = ["| tile | " + " | ".join(f"`{name}`" for name in names) + " |", "|---" * (len(names) + 1) + "|"]
    for situation, (x, options) in situations.items():
        cells = [outcome(x, spec("int4", scheme=name, tiling=Tiling.tensor(), **options)) for name in names]  # type: ignore[arg-type]
        lines.append(f"| {situation} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def page() -> str:
    """The whole page."""

    def row(values: list[float]) -> Array:
        return np.array([values], dtype=np.float32)

    tiles = {f"{what}: {' '.join(map(number, values))}": (row(values), {}) for what, values in TILES.items()}
    stored = {
        "float16 scale overflows: ±1e6": (row([-1e6, 1e6]), {"scale_format": "float16"}),
        "float16 scale underflows: ±1e-7": (row([-1e-7, 1e-7]), {"scale_format": "float16"}),
        "bfloat16 scale: -1 2": (row([-1.0, 2.0]), {"scale_format": "bfloat16"}),
        "NaN, `nan=raise`: NaN 1": (row([np.nan, 1.0]), {}),
        "NaN, `nan=zero`: NaN 1": (row([np.nan, 1.0]), {"nan": "zero"}),
        "infinity: inf 1": (row([np.inf, 1.0]), {}),
    }
    names = list(SCHEMES)
    parts = [
        INTRO,
        "## One tile, float32, 4 bits: the asymmetric schemes",
        table(tiles, [name for name in names if name.startswith("asym")]),
        "## One tile, float32, 4 bits: the symmetric schemes",
        table(tiles, [name for name in names if name.startswith("sym")]),
        "## Stored scales, NaN and infinities",
        table(stored, ["asym_incl0", "asym_minmax", "sym_gptq", "sym_full"]),
        RULES,
    ]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
