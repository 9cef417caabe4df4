"""Write golden/uniform.safetensors: uniform quantization of nasty rows, by the oracle alone.

    python tools/make_golden.py [FOLDER]

Every expected number comes from exact fractions rounded once an operation (refquant.oracle); the code under test is not imported. The rows
are literals, and each has a reason: see ROWS.
"""

import json
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np

from refquant.oracle.coding import quantize_row
from refquant.oracle.ieee import BINARY16, BINARY32
from refquant.oracle.uniform import Uniform
from refquant.storage import digest, write_bytes, write_tensors

COLUMNS = 40
GROUPS = {"row": None, "g16": 16}  # 16 leaves a ragged tail of 8
SCHEMES = ("asym_incl0", "asym_minmax", "asym_omni", "sym_full", "sym_narrow", "sym_gptq")
BITS = (2, 3, 4, 8)

ROWS: dict[str, tuple[str, list[float]]] = {
    "ramp": ("ordinary values; a group boundary off by one changes scales", [(i - 13) / 8 for i in range(COLUMNS)]),
    "ties": ("halves of a step: half-even, half-away and trunc(x + 0.5) part here", [(i - 20) / 2 for i in range(COLUMNS)]),
    "zeros": ("a range of zero width", [0.0] * COLUMNS),
    "constant": ("one value, not zero", [0.37] * COLUMNS),
    "positive": ("no negative entry: GPTQ's symmetric mode halves its range here by mistake", [(i + 1) / 16 for i in range(COLUMNS)]),
    "negative": ("no positive entry: a zero point at the upper end", [-(i + 1) / 16 for i in range(COLUMNS)]),
    "outlier": ("one huge value takes the whole grid", [1e4 if i == 7 else (i - 20) / 32 for i in range(COLUMNS)]),
    "tiny": ("below every floor of 1e-5, and a float16 scale would vanish", [(i - 20) * 2.0**-60 for i in range(COLUMNS)]),
    "signed_zeros": ("-0.0 among few values", [(-0.0 if i % 2 else 0.0) if i % 5 else (i - 20) / 4 for i in range(COLUMNS)]),
    "near_ties": ("one unit in the last place beside ties: a multiplication with the reciprocal parts from the division",
                  [float(np.nextafter(np.float32((i - 20) * 0.0035), np.float32((-1) ** i * 9))) for i in range(COLUMNS)]),
}  # fmt: skip


def make(folder: Path) -> None:
    x = np.array([values for _, values in ROWS.values()], dtype=np.float32)
    tensors = {"input": x}
    for scheme in SCHEMES:
        for bits in BITS:
            for name, group in GROUPS.items():
                for stored, binary in (("float32", None), ("float16", BINARY16)):
                    if stored == "float16" and scheme != "asym_incl0":
                        continue  # what a stored float16 scale does is the same for all schemes
                    tensors |= case(x, f"{scheme}.b{bits}.{name}.{stored}", Uniform(scheme, bits, BINARY32, binary), group, stored)
    write_tensors(folder / "uniform.safetensors", tensors, {"made_by": "refquant.oracle", "lane": "exact"})
    manifest = {
        "uniform.safetensors": {
            "sha256": digest((folder / "uniform.safetensors").read_bytes()),
            "lane": "exact",
            "expected_from": "refquant.oracle: exact fractions, one rounding to float32 an operation",
            "rows": {name: reason for name, (reason, _) in ROWS.items()},
        }
    }
    write_bytes(folder / "manifest.json", (json.dumps(manifest, indent=1) + "\n").encode())


def case(x: np.ndarray, name: str, scheme: Uniform, group: int | None, stored: str) -> dict[str, np.ndarray]:
    rows = [quantize_row([Fraction(float(v)) for v in values], scheme, group) for values in x]
    signed = scheme.scheme in ("sym_full", "sym_narrow")
    return {
        f"{name}.codes": np.array([row.codes for row in rows], dtype=np.int8 if signed else np.uint8),
        f"{name}.scale": np.array([[float(grid.scale) for grid in row.grids] for row in rows]).astype(stored),
        f"{name}.zero": np.array([[grid.zero for grid in row.grids] for row in rows], dtype=np.int32),
        f"{name}.values": np.array([[float(BINARY32(v)) for v in row.values] for row in rows], dtype=np.float32),
    }


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "golden")
