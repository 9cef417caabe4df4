"""Writes the tables of docs/degenerate.md from what the code does: ``python -m tests.core.degenerate_page``. A test holds them to it."""

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

START, END = "<!-- tables -->\n", "<!-- end of tables -->\n"


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


def tables() -> str:
    """What stands between the two marks of the page."""

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
        "## One tile, float32, 4 bits: the asymmetric schemes",
        table(tiles, [name for name in names if name.startswith("asym")]),
        "## One tile, float32, 4 bits: the symmetric schemes",
        table(tiles, [name for name in names if name.startswith("sym")]),
        "## Stored scales, NaN and infinities",
        table(stored, ["asym_incl0", "asym_minmax", "sym_gptq", "sym_full"]),
    ]
    return "\n\n".join(parts) + "\n"


def page() -> str:
    """The page as it stands, with fresh tables between its marks."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    _, _, after = rest.partition(END)
    return before + START + tables() + END + after


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
