"""Writes the tables of docs/formats.md from the catalogue: ``python -m tests.formats.formats_page``. A test holds them to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from refquant.core import spec
from refquant.core.block_formats import BLOCK_FORMATS
from refquant.formats import CODEBOOKS, FLOATS, INTEGERS, members_of
from refquant.report.footprint import planned_bits

PAGE = Path(__file__).parents[2] / "docs" / "formats.md"
START, END = "<!-- tables -->\n", "<!-- end of tables -->\n"


def number(x: float) -> str:
    if x and abs(np.log2(abs(x))) % 1 == 0 and not 0.001 < abs(x) < 10000:
        return f"{'-' if x < 0 else ''}2^{int(np.log2(abs(x)))}"
    return f"{x:.7g}"


def hexadecimal(code: int | None) -> str:
    return "none" if code is None else f"0x{code:02X}"


def floats() -> str:
    rows = [
        "| format | bits | sign, exponent, mantissa | bias | largest | smallest normal | smallest | numbers | infinity | NaN | -0 |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for fmt in FLOATS:
        widths = f"{int(fmt.signed)}, {fmt.exponent_bits}, {fmt.mantissa_bits}"
        nan = "none" if fmt.nan_code is None else f"{fmt.nan}, {hexadecimal(fmt.nan_code)}"
        cells = (
            fmt.name,
            fmt.bits,
            widths,
            fmt.bias,
            number(fmt.hi),
            number(fmt.smallest_normal),
            number(fmt.smallest),
            len(members_of(fmt).values),
        )
        rows.append(f"| {' | '.join(map(str, cells))} | {hexadecimal(fmt.infinity_code)} | {nan} | {hexadecimal(fmt.negative_zero_code)} |")
    return "\n".join(rows)


def codebooks() -> str:
    rows = ["| codebook | bits | numbers | range | ties | members above 0 |", "|---|---|---|---|---|---|"]
    for fmt in CODEBOOKS:
        values = members_of(fmt).values
        positive = values[values > 0]
        shown = (
            ", ".join(number(v) for v in positive)
            if len(positive) <= 8
            else f"{', '.join(number(v) for v in positive[:3])}, ..., {number(positive[-1])}"
        )
        beside = ", middles rounded to float32" if fmt.midpoints == "float32" else ""
        rows.append(f"| {fmt.name} | {fmt.bits} | {len(values)} | {number(fmt.lo)} .. {number(fmt.hi)} | {fmt.ties}{beside} | {shown} |")
    return "\n".join(rows)


def blocks() -> str:
    rows = ["| name | element | block | scales | bits a weight of 4096 x 4096 | whose |", "|---|---|---|---|---|---|"]
    for block in BLOCK_FORMATS.values():
        how = spec(block.name)
        if how.scales is None:
            scales = "float32"
        else:
            scales = f"{how.scales.format.name}, {how.scales.rule}" + (f", times one {how.scales.outer}" if how.scales.outer else "")
            scales = scales.replace("times", "over") if how.scales.outer_kind == "divisor" else scales
            scales += ", minus their mean" if how.scales.center == "mean" else ""
            scales += f" a run of {how.scales.tiling.extents[-1]} scales" if how.scales.tiling else ""
        bits = planned_bits(how, (4096, 4096)) / (1 << 24) if how.scales is not None else how.format.bits + 32 / block.block
        rows.append(f"| {block.name} | {how.format.name} | {block.block} | {scales} | {bits:.6g} | {block.whose} |")
    return "\n".join(rows)


def tables() -> str:
    integers = f"{INTEGERS[0].name}, {INTEGERS[1].name}, {INTEGERS[2].name}, ..., {INTEGERS[-1].name}"
    return "\n\n".join(
        (
            "### Floating point",
            floats(),
            "### Codebooks",
            codebooks(),
            "### Integers",
            f"{len(INTEGERS)} formats: {integers}. Codes are the integers; `to_patterns` writes them as two's complement or offset binary. "
            "`uint2_narrow` to `uint16_narrow` lack the highest code, as brevitas has it.",
            "### Blocks",
            blocks(),
            "",
        )
    )


def page() -> str:
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n{tables()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
