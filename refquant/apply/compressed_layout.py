"""The layouts of compressed-tensors as folders: one ``quantization_config`` for integers and floats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from refquant.apply.linear_layout import Described, LinearLayout, Settings, entry, integer_spec, native_integers, one_spec
from refquant.core import QTensor, QuantSpec, Tiling, spec
from refquant.errors import InputError
from refquant.layout import compressed_floats, compressed_tensors
from refquant.numerics.arrays import Array

COMPRESSED_VARIANTS = (*compressed_tensors.PARTS, *compressed_floats.PARTS)
# As compressed-tensors itself makes them.
FLOAT_BLOCKS = {
    "nvfp4-pack-quantized": "nvfp4_compressed_tensors",
    "mxfp4-pack-quantized": "mxfp4_even",
    "mxfp6-pack-quantized": "mxfp6_e2m3_even",
    "mxfp8-quantized": "mxfp8_e4m3_rceil",
}
BITS = {"float-quantized": 8, "nvfp4-pack-quantized": 4, "mxfp4-pack-quantized": 4, "mxfp6-pack-quantized": 6, "mxfp8-quantized": 8}


def _is_float(variant: str) -> bool:
    return variant in compressed_floats.PARTS


def _integers(variant: str) -> compressed_tensors.IntegerLayout:
    return cast(compressed_tensors.IntegerLayout, variant)


def _floats(variant: str) -> compressed_floats.FloatLayout:
    return cast(compressed_floats.FloatLayout, variant)


def _compressed_parts(variant: str) -> tuple[str, ...]:
    if _is_float(variant):
        return compressed_floats.PARTS[variant]
    return compressed_tensors.PARTS[variant] + compressed_tensors.OPTIONAL[variant]


def _compressed_why_not(q: QTensor, variant: str) -> str | None:
    if _is_float(variant):
        return compressed_floats.why_not(q, _floats(variant))
    return compressed_tensors.why_not(q, _integers(variant))


def _compressed_pack(q: QTensor, variant: str) -> dict[str, Array]:
    return compressed_floats.pack(q, _floats(variant)) if _is_float(variant) else compressed_tensors.pack(q, _integers(variant))


def _compressed_unpack(parts: Mapping[str, Array], settings: Settings) -> QTensor:
    if _is_float(settings.variant):
        return compressed_floats.unpack(parts, settings.spec, _floats(settings.variant))
    return compressed_tensors.unpack(parts, settings.spec, _integers(settings.variant))


def _compressed_native(like: QTensor | None, shape: tuple[int, ...], variant: str) -> QuantSpec:
    if variant == "float-quantized":
        return spec("e4m3fn", scale_format="float32")
    if variant in FLOAT_BLOCKS:
        return spec(FLOAT_BLOCKS[variant])
    return native_integers(tuple(range(1, 9)), multiple=True)(like, shape, variant)


def _compressed_config(weights: Mapping[str, Described], plain: Sequence[str], variant: str) -> dict[str, Any]:
    found = one_spec(weights)
    size = found.tiling.extents[1]
    strategy = "tensor" if compressed_tensors.is_per_tensor(found) else "channel" if size is None else "group"
    arguments = {
        "num_bits": found.format.bits,
        "type": "float" if _is_float(variant) else "int",
        "symmetric": compressed_tensors.is_symmetric(found),
        "strategy": "tensor_group" if variant == "nvfp4-pack-quantized" else strategy,
        "group_size": size,
        "dynamic": False,
    }
    group = {"targets": ["Linear"], "weights": arguments, "input_activations": None, "output_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": variant,
        "quantization_status": "compressed",
        "ignore": list(plain),
        "config_groups": {"group_0": group},
    }


def _compressed_settings(block: Mapping[str, Any]) -> Settings:
    kind = entry(block, "format", str)
    if kind not in COMPRESSED_VARIANTS:
        raise InputError(f"quantization_config: format is {kind!r}; {', '.join(COMPRESSED_VARIANTS)} are read")
    groups = entry(block, "config_groups", dict)
    if len(groups) != 1 or not isinstance(group := next(iter(groups.values())), dict):
        raise InputError(f"quantization_config: config_groups has {len(groups)} entries; one for all linears is read")
    if group.get("input_activations") is not None:
        raise InputError("quantization_config: input_activations are quantized; folders of weights alone are read")
    weights = entry(group, "weights", dict)
    wanted = "float" if _is_float(kind) else "int"
    found_type = entry(weights, "type", str, "int")
    if found_type != wanted:
        raise InputError(f"quantization_config: weights of type {found_type!r} in format {kind}; {wanted} is needed")
    strategy, symmetric = entry(weights, "strategy", str), entry(weights, "symmetric", bool, True)
    if _is_float(kind):
        _require_float_arguments(kind, weights, symmetric)
        return Settings(variant=kind, spec=_compressed_native(None, (0, 0), kind))
    if strategy not in ("tensor", "channel", "group"):
        raise InputError(f"quantization_config: strategy is {strategy!r}; tensor, channel and group are read")
    block = weights if strategy == "group" else {**weights, "group_size": -1}
    # Symmetric codes of 1 bit are -1 and 0: no number of theirs is positive, and only the scheme of a middle zero point has such codes.
    scheme = "asym_incl0" if not symmetric else "sym_gptq" if weights.get("num_bits") == 1 else "sym_full"
    found = integer_spec(block, "num_bits", scheme, range(1, 9))
    return Settings(variant=kind, spec=replace(found, tiling=Tiling.tensor()) if strategy == "tensor" else found)


def _require_float_arguments(kind: str, weights: Mapping[str, Any], symmetric: bool) -> None:
    bits = entry(weights, "num_bits", int)
    if bits != BITS[kind] or not symmetric:
        raise InputError(f"quantization_config: {bits} bits, symmetric {symmetric}, in format {kind}")
    if kind == "float-quantized" and weights.get("strategy") not in ("tensor", "channel"):
        raise InputError(f"quantization_config: strategy is {weights.get('strategy')!r}; tensor and channel are read")


COMPRESSED_TENSORS = LinearLayout(
    name="compressed-tensors",
    method="compressed-tensors",
    variants=COMPRESSED_VARIANTS,
    parts=_compressed_parts,
    why_not=_compressed_why_not,
    pack=_compressed_pack,
    unpack=_compressed_unpack,
    native=_compressed_native,
    config=_compressed_config,
    settings=_compressed_settings,
)
