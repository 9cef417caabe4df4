"""MX and NVFP4 as torchao and modelopt keep their tensors, as a folder.

Those programs write no folder that says of itself what it is: torchao pickles, modelopt has settings for a few of the formats. So the
``quantization_config`` here is ours: ``{"quant_method": "mx", "format": NAME, "ignore": [...]}`` with NAME a block format such as
``mxfp6_e3m2`` (its rule for the shared exponent included). A linear is ``weight``, ``weight_scale`` and, of NVFP4, ``weight_scale_2``;
:mod:`refquant.layout.mx` says where each byte lies. Codes of 6 bits lie four in three bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from refquant.apply.linear_layout import Described, LinearLayout, Settings, entry, one_spec
from refquant.core import QTensor, QuantSpec, spec
from refquant.core.block_formats import BLOCK_FORMATS
from refquant.errors import InputError
from refquant.layout import mx
from refquant.storage.border import quoted

VARIANTS = tuple(name for name, block in BLOCK_FORMATS.items() if name.startswith(("mx", "nvfp4")) and block.element in mx.ELEMENTS)


def _why_not(q: QTensor, variant: str) -> str | None:
    reason = mx.why_not(q)
    if reason is None and len(q.shape) != 2:
        reason = f"a tensor of shape {q.shape}; it holds matrices"
    block = BLOCK_FORMATS[variant].block
    if reason is None and q.spec == spec(variant) and (not q.codes.size or q.shape[1] % block):
        reason = f"{q.shape[1]} columns in blocks of {block}; it holds whole ones"
    if reason is None and q.spec != spec(variant):
        named = [name for name in VARIANTS if spec(name) == q.spec]
        reason = f"another format than {variant}" + (f"; --variant {named[0]} does" if named else "")
    return reason


def _native(like: QTensor | None, shape: tuple[int, ...], variant: str) -> QuantSpec:
    del like, shape
    return spec(variant)


def _config(weights: Mapping[str, Described], plain: Sequence[str], variant: str) -> dict[str, Any]:
    one_spec(weights)
    return {"quant_method": "mx", "format": variant, "ignore": list(plain)}


def _settings(block: Mapping[str, Any]) -> Settings:
    name = entry(block, "format", str)
    if name not in VARIANTS:
        raise InputError(f"quantization_config: format is {quoted(name)}; {', '.join(VARIANTS)} are read")
    return Settings(variant=name, spec=spec(name))


def _parts(variant: str) -> tuple[str, ...]:
    scales = BLOCK_FORMATS[variant].scales
    return ("weight_scale", "weight", *(("weight_scale_2",) if scales is not None and scales.outer is not None else ()))


def _unpack(parts: Mapping[str, Any], settings: Settings) -> QTensor:
    # A variant that was asked for in the place of what the file says has another spec.
    return mx.unpack(parts, spec(settings.variant), "dense")


MX = LinearLayout(
    name="mx",
    method="mx",
    variants=VARIANTS,
    parts=_parts,
    why_not=_why_not,
    pack=lambda q, variant: mx.pack(q, "dense"),
    unpack=_unpack,
    native=_native,
    config=_config,
    settings=_settings,
    dtype="float32",
)
