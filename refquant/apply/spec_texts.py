"""Specs in a few words, for tables and for messages about what a layout cannot hold."""

from __future__ import annotations

from refquant.core import QuantSpec
from refquant.core.affine_spec import AffineSpec, Stored
from refquant.core.binary_tensor import BinarySpec
from refquant.core.qtensor import Described
from refquant.core.scales import ScaleSpec
from refquant.core.tiling import Tiling


def format_text(spec: Described) -> str:
    """A spec in a few words.

    Examples
    --------
    >>> from refquant.core import spec
    >>> from refquant.core.affine_spec import AFFINE_FORMATS
    >>> format_text(spec("int4", group_size=128, scale_format="float16"))
    'uint4 1x128 float16'
    >>> format_text(AFFINE_FORMATS["q4_k"]), format_text(AFFINE_FORMATS["q4_1"]), format_text(AFFINE_FORMATS["q6_k"])
    ('uint4 1x32 uint6 of float16 - uint6 of float16', 'uint4 1x32 float16 - float16', 'int6 1x16 int8 of float16')
    >>> format_text(BinarySpec(block=128, scale_format="float32"))
    'signs 1x128 float32'
    """
    if isinstance(spec, AffineSpec):
        text = f"{spec.format.name} {_tile(spec.tiling)} {_stored(spec.scales)}"
        return text if spec.minima is None else f"{text} - {_stored(spec.minima)}"
    if isinstance(spec, BinarySpec):
        return f"signs 1x{spec.block} {spec.scale_format}"
    if isinstance(spec, QuantSpec):
        scales = (spec.scale_format or "") if spec.scales is None else spec.scales.format.name
        return f"{spec.format.name} {_tile(spec.tiling)} {scales}".rstrip()
    return spec.to_json()


def _tile(tiling: Tiling) -> str:
    return "x".join("all" if extent is None else str(extent) for extent in tiling.extents)


def _stored(stored: Stored) -> str:
    if not isinstance(stored, ScaleSpec):
        return stored
    return stored.format.name if stored.outer is None else f"{stored.format.name} of {stored.outer}"


def kind_text(spec: Described) -> str:
    """What a spec is that is no grid, as a message calls it.

    Examples
    --------
    >>> from refquant.core.affine_spec import AFFINE_FORMATS
    >>> kind_text(AFFINE_FORMATS["q4_1"]), kind_text(AFFINE_FORMATS["q6_k"])
    ('blocks with minima (uint4 1x32 float16 - float16)', 'blocks of scales of either sign (int6 1x16 int8 of float16)')
    """
    what = "sums of signs"
    if isinstance(spec, AffineSpec):
        what = "blocks with minima" if spec.minima is not None else "blocks of scales of either sign"
    return f"{what} ({format_text(spec)})"
