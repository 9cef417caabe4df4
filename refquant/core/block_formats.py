"""Block formats by name: an element format, a tile, and how the tile's scale is stored. One literal each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from refquant.core.scales import ScaleRule, ScaleSpec
from refquant.core.tiling import Tiling
from refquant.errors import UsageError
from refquant.formats import find_format


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockFormat:
    """What a name such as ``mxfp4`` stands for.

    Parameters
    ----------
    name, element : str
        The element's format.
    block : int
        Elements along the last axis that share a scale.
    scheme : str
    scales : ScaleSpec, optional
        How the scales are stored; by default in `scale_format`.
    scale_format : str, optional
    any_block : bool
        Whether another block size is still the same format.
    whose : str
        Specification, or the program whose arithmetic it is.
    """

    name: str
    element: str
    block: int
    scheme: str = "absmax"
    scales: ScaleSpec | None = None
    scale_format: str | None = None
    any_block: bool = False
    whose: str


def _mx() -> Iterator[BlockFormat]:
    elements = {
        "mxfp8_e4m3": "e4m3fn",
        "mxfp8_e5m2": "e5m2",
        "mxfp6_e2m3": "e2m3",
        "mxfp6_e3m2": "e3m2",
        "mxfp4": "e2m1",
        "mxint8": "int8_q6",
    }
    rules: tuple[ScaleRule, ...] = ("floor", "even", "ceil", "rceil")
    for name, element in elements.items():
        for rule in rules:
            if element == "int8_q6" and rule == "even":
                continue  # it rounds to a mantissa, which integers do not have
            yield BlockFormat(
                name=name if rule == "floor" else f"{name}_{rule}",
                element=element,
                block=32,
                scales=ScaleSpec(format=find_format("e8m0"), rule=rule),
                whose="OCP Microscaling Formats 1.0" if rule == "floor" else f"the same elements, scale rule {rule!r} as torchao names it",
            )


def _nvfp4() -> Iterator[BlockFormat]:
    e4m3 = find_format("e4m3fn")
    arithmetic = {
        "nvfp4": ("nvidia-modelopt", ScaleSpec(format=e4m3, outer="float32", empty_as=1.0)),
        "nvfp4_torchao": ("torchao", ScaleSpec(format=e4m3, outer="float32", least="smallest_normal", coded_by="reciprocals")),
        "nvfp4_compressed_tensors": ("compressed-tensors", ScaleSpec(format=e4m3, outer="float32", outer_kind="divisor", zero_as=0.125)),
        "nvfp4_1level": ("torchao without a tensor scale", ScaleSpec(format=e4m3, least="smallest_normal")),
    }
    for name, (whose, scales) in arithmetic.items():
        yield BlockFormat(name=name, element="e2m1", block=16, scales=scales, whose=whose)


DOUBLE = ScaleSpec(format=find_format("dynamic8"), outer="float32", tiling=Tiling((256,)), flat=True, center="mean", coded_by="raw")
# The scale grids of two K-quants: signed codes of scales, and a float16 number over the groups of 256 elements.
Q6_K = ScaleSpec(format=find_format("int8"), outer="float16", tiling=Tiling((1, 16)))
Q3_K = ScaleSpec(format=find_format("int6"), outer="float16", tiling=Tiling((1, 16)))

BLOCK_FORMATS: dict[str, BlockFormat] = {
    entry.name: entry
    for entry in (
        *_mx(),
        *_nvfp4(),
        BlockFormat(name="nf4", element="nf4", block=64, scheme="absmax_reciprocal", any_block=True, whose="bitsandbytes"),
        BlockFormat(name="fp4", element="fp4", block=64, scheme="absmax_reciprocal", any_block=True, whose="bitsandbytes"),
        BlockFormat(name="nf4_double", element="nf4", block=64, scales=DOUBLE, any_block=True, whose="bitsandbytes, nested"),
        BlockFormat(name="fp4_double", element="fp4", block=64, scales=DOUBLE, any_block=True, whose="bitsandbytes, nested"),
        BlockFormat(name="q6_k_grid", element="int6", block=16, scheme="sym_full", scales=Q6_K, whose="llama.cpp's Q6_K, its grid alone"),
        BlockFormat(name="q3_k_grid", element="int3", block=16, scheme="sym_full", scales=Q3_K, whose="llama.cpp's Q3_K, its grid alone"),
    )
}


def find_block_format(name: str) -> BlockFormat:
    """Look a block format up by name.

    Raises
    ------
    UsageError
        If there is no such block format.

    Examples
    --------
    >>> find_block_format("mxfp4").element
    'e2m1'
    """
    if name not in BLOCK_FORMATS:
        raise UsageError(f"unknown block format {name!r}; known are {', '.join(BLOCK_FORMATS)}")
    return BLOCK_FORMATS[name]


def named_block(name: str) -> BlockFormat | None:
    """Look a block format up, with its own block or, where that is free, another one behind an ``@``; None if there is none.

    Raises
    ------
    UsageError
        If the block is none, or the format's is not free.

    Examples
    --------
    >>> named_block("nf4@128").block, named_block("nf4").block, named_block("int4")
    (128, 64, None)
    """
    base, marked, size = name.partition("@")
    found = BLOCK_FORMATS.get(base)
    if found is None or not marked:
        return found
    if not found.any_block:
        raise UsageError(f"{name!r}: {base} has blocks of {found.block}, and no others")
    if not size.isascii() or not size.isdigit() or not 1 <= len(size) <= 7 or int(size) < 1:
        raise UsageError(f"{name!r}: a block is 1 to 9999999 elements, not {size!r}")
    return replace(found, name=f"{base}@{int(size)}", block=int(size))


def block_name(block: BlockFormat, size: int) -> str:
    """The name of a block format with blocks of another size; the inverse of :func:`named_block`."""
    return block.name if size == block.block else f"{block.name}@{size}"
