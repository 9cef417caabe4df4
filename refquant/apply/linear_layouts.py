"""Layouts of folders whose linears are each a handful of tensors: what they call them, and what ``config.json`` says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from refquant.apply.compressed_layout import COMPRESSED_TENSORS
from refquant.apply.linear_layout import Described, LinearLayout, Settings, entry, group_size, integer_spec, native_integers, one_spec
from refquant.apply.mx_layout import MX
from refquant.core import QTensor, QuantSpec
from refquant.errors import InputError
from refquant.layout import awq, bitsandbytes, gptq
from refquant.numerics.arrays import Array


def _gptq_zeros(variant: str) -> gptq.ZeroFormat:
    return cast(gptq.ZeroFormat, variant)


def _gptq_config(weights: Mapping[str, Described], plain: Sequence[str], variant: str) -> dict[str, Any]:
    found = one_spec(weights)
    block: dict[str, Any] = {
        "quant_method": "gptq",
        "bits": found.format.bits,
        "group_size": group_size(found),
        "desc_act": any(q.permutation is not None for q in weights.values()),
        "sym": found.scheme.zero in ("none", "midpoint"),
        "checkpoint_format": "gptq_v2" if variant == "v2" else "gptq",
        "lm_head": False,
    }
    if plain:
        block["dynamic"] = {f"-:^{name.replace('.', chr(92) + '.')}$": {} for name in plain}
    return block


def _gptq_settings(block: Mapping[str, Any]) -> Settings:
    kind = entry(block, "checkpoint_format", str, "gptq")
    if kind not in ("gptq", "gptq_v2"):
        raise InputError(f"quantization_config: checkpoint_format is {kind!r}; gptq and gptq_v2 are read")
    scheme = "sym_gptq" if entry(block, "sym", bool, True) else "asym_incl0"
    return Settings(variant="v2" if kind == "gptq_v2" else "v1", spec=integer_spec(block, "bits", scheme, gptq.WIDTHS))


def _gptq_unpack(parts: Mapping[str, Array], settings: Settings) -> QTensor:
    try:
        return gptq.unpack(parts, settings.spec, _gptq_zeros(settings.variant))
    except InputError as error:
        if settings.spec.scheme.zero == "midpoint" and "zero point" in str(error):
            other = "v2" if settings.variant == "v1" else "v1"
            raise InputError(f"{error}; if the file stores zero points the other way, read it with --variant {other}") from error
        raise


def _awq_config(weights: Mapping[str, Described], plain: Sequence[str], variant: str) -> dict[str, Any]:
    found = one_spec(weights)
    return {
        "quant_method": "awq",
        "bits": found.format.bits,
        "group_size": group_size(found),
        "zero_point": True,
        "version": variant,
        "modules_to_not_convert": list(plain) or None,
    }


def _awq_settings(block: Mapping[str, Any]) -> Settings:
    version = entry(block, "version", str, "gemm").lower()
    if version != "gemm":
        raise InputError(f"quantization_config: version is {version!r}; gemm is read")
    if not entry(block, "zero_point", bool, True):
        raise InputError("quantization_config: zero_point is False; files with zero points are read")
    return Settings(variant="gemm", spec=integer_spec(block, "bits", "asym_incl0", (4,)))


def _blocks_why_not(q: QTensor, variant: str) -> str | None:
    kind, nested = q.spec.format.name, q.spec.scales is not None
    found = f"{kind}-nested" if nested else kind
    if kind in bitsandbytes.KINDS and found != variant:
        return f"{found} in the variant {variant}; --variant {found} does"
    return bitsandbytes.why_not(q)


def _blocks_native(like: QTensor | None, shape: tuple[int, ...], variant: str) -> QuantSpec:
    del shape
    kind, _, nested = variant.partition("-")
    blocks = like is not None and like.spec.format.name in bitsandbytes.KINDS and like.spec.tiling.extents[-1]
    return bitsandbytes.block_spec(kind, blocks or 64, bool(nested))


def _blocks_config(weights: Mapping[str, Described], plain: Sequence[str], variant: str) -> dict[str, Any]:
    one_spec(weights)
    kind, _, nested = variant.partition("-")
    return {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "load_in_8bit": False,
        "bnb_4bit_quant_type": kind,
        "bnb_4bit_use_double_quant": bool(nested),
        "bnb_4bit_compute_dtype": "float32",
        "bnb_4bit_quant_storage": "uint8",
        "llm_int8_skip_modules": list(plain),
    }


def _blocks_settings(block: Mapping[str, Any]) -> Settings:
    if not entry(block, "load_in_4bit", bool, False):
        raise InputError("quantization_config: load_in_4bit is not true; files of 4 bits are read")
    kind, nested = entry(block, "bnb_4bit_quant_type", str, "fp4"), entry(block, "bnb_4bit_use_double_quant", bool, False)
    if kind not in bitsandbytes.KINDS:
        raise InputError(f"quantization_config: bnb_4bit_quant_type is {kind!r}; {' and '.join(bitsandbytes.KINDS)} are read")
    return Settings(variant=f"{kind}-nested" if nested else kind, spec=bitsandbytes.block_spec(kind, 64, nested))


GPTQ = LinearLayout(
    name="gptq",
    method="gptq",
    variants=("v1", "v2"),
    parts=lambda variant: gptq.PARTS,
    why_not=lambda q, variant: gptq.why_not(q, _gptq_zeros(variant)),
    pack=lambda q, variant: gptq.pack(q, _gptq_zeros(variant)),
    unpack=_gptq_unpack,
    native=native_integers(gptq.WIDTHS, multiple=False),
    config=_gptq_config,
    settings=_gptq_settings,
)

AWQ = LinearLayout(
    name="awq",
    method="awq",
    variants=("gemm",),
    parts=lambda variant: awq.PARTS,
    why_not=lambda q, variant: awq.why_not(q),
    pack=lambda q, variant: awq.pack(q),
    unpack=lambda parts, settings: awq.unpack(parts, settings.spec),
    native=native_integers((4,), multiple=True),
    config=_awq_config,
    settings=_awq_settings,
)

BITSANDBYTES = LinearLayout(
    name="bitsandbytes",
    method="bitsandbytes",
    variants=("nf4", "fp4", "nf4-nested", "fp4-nested"),
    parts=lambda variant: bitsandbytes.PARTS,
    why_not=_blocks_why_not,
    pack=lambda q, variant: bitsandbytes.pack(q),
    unpack=lambda parts, settings: bitsandbytes.unpack(parts),
    native=_blocks_native,
    config=_blocks_config,
    settings=_blocks_settings,
    dtype="float32",
)

LINEAR_LAYOUTS: dict[str, LinearLayout] = {layout.name: layout for layout in (GPTQ, AWQ, COMPRESSED_TENSORS, BITSANDBYTES, MX)}
