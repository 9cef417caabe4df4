"""Layouts of folders whose linears are each a handful of tensors: what they call them, and what ``config.json`` says of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from refquant.core import QTensor, QuantSpec, Tiling, spec
from refquant.errors import InputError
from refquant.layout import awq, bitsandbytes, compressed_tensors, gptq
from refquant.layout.fields import column_tiles
from refquant.numerics.arrays import Array

DEFAULT_GROUP = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a folder's ``quantization_config`` says of all its linears.

    Parameters
    ----------
    variant : str
        One of the layout's.
    spec : QuantSpec
        Bits, groups, scheme; the scale format is what the tensors have.
    """

    variant: str
    spec: QuantSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearLayout:
    """One layout.

    Parameters
    ----------
    name : str
        As ``--to`` and ``--from`` say it.
    method : str
        What ``quant_method`` says.
    variants : tuple of str
        The first is the default.
    parts : tuple of str
        Names that follow a linear's, all that may be there; the first is always there and nowhere else.
    why_not, pack, unpack : callable
        Of a tensor (or its arrays) and a variant; see the modules of :mod:`refquant.layout`.
    native : callable
        The spec that a weight is quantized to where the layout cannot hold what is there, from what is there and the variant.
    config : callable
        The ``quantization_config`` of some weights, the linears that are not quantized, and a variant.
    settings : callable
        What such a block says; raises InputError.
    dtype : {"float64", "float32"}
        In which weights are requantized; where scales keep the dtype that they were computed in, it is theirs.
    """

    name: str
    method: str
    variants: tuple[str, ...]
    parts: Callable[[str], tuple[str, ...]]
    why_not: Callable[[QTensor, str], str | None]
    pack: Callable[[QTensor, str], dict[str, Array]]
    unpack: Callable[[Mapping[str, Array], Settings], QTensor]
    native: Callable[[QTensor | None, tuple[int, ...], str], QuantSpec]
    config: Callable[[Mapping[str, QTensor], Sequence[str], str], dict[str, Any]]
    settings: Callable[[Mapping[str, Any]], Settings]
    dtype: Literal["float64", "float32"] = "float64"


def one_spec(weights: Mapping[str, QTensor]) -> QuantSpec:
    """The spec that all weights share as far as a ``quantization_config`` speaks of it; InputError naming two that differ."""
    first, *others = weights
    wanted = weights[first].spec
    for name in others:
        found = weights[name].spec
        if (found.format, found.tiling, found.scheme) != (wanted.format, wanted.tiling, wanted.scheme):
            raise InputError(
                f"{first} and {name} differ in format, groups or scheme; a quantization_config says one for all: {wanted.format.name}, "
                f"{wanted.tiling.extents}, {wanted.scheme.name} or {found.format.name}, {found.tiling.extents}, {found.scheme.name}"
            )
    return wanted


def entry(block: Mapping[str, Any], key: str, kind: type, default: Any = None) -> Any:
    """A value of a ``quantization_config`` that has to be of a kind; InputError otherwise."""
    value = block.get(key, default)
    if type(value) is not kind:
        raise InputError(f"quantization_config: {key} is {value!r}; a {kind.__name__} is needed")
    return value


def _native(bits: tuple[int, ...], multiple: bool) -> Callable[[QTensor | None, tuple[int, ...], str], QuantSpec]:
    """Integer codes on float16 scales: the width and groups that are there as far as the layout has them, else 4 bits in groups of 128."""

    def native(like: QTensor | None, shape: tuple[int, ...], variant: str) -> QuantSpec:
        del variant
        symmetric = like is not None and like.spec.scheme.zero in ("none", "midpoint")
        width = like.spec.format.bits if like is not None and like.spec.format.bits in bits else (4 if 4 in bits else bits[0])
        size = None if like is None else column_tiles(like.spec, shape)
        group = DEFAULT_GROUP if size is None else size
        if multiple and shape[1] % group:
            group = shape[1]
        tiling = Tiling.channel() if group >= shape[1] else Tiling.group(group)
        return spec(f"int{width}", scheme="sym_gptq" if symmetric else "asym_incl0", tiling=tiling, scale_format="float16")

    return native


def _group_size(found: QuantSpec) -> int:
    size = found.tiling.extents[1]
    return -1 if size is None else size


def _gptq_zeros(variant: str) -> gptq.ZeroFormat:
    return cast(gptq.ZeroFormat, variant)


def _gptq_config(weights: Mapping[str, QTensor], plain: Sequence[str], variant: str) -> dict[str, Any]:
    found = one_spec(weights)
    block: dict[str, Any] = {
        "quant_method": "gptq",
        "bits": found.format.bits,
        "group_size": _group_size(found),
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
    return Settings(variant="v2" if kind == "gptq_v2" else "v1", spec=_integer_spec(block, "bits", scheme, gptq.WIDTHS))


def _integer_spec(block: Mapping[str, Any], bits: str, scheme: str, widths: Sequence[int]) -> QuantSpec:
    width, group = entry(block, bits, int), entry(block, "group_size", int, -1)
    if width not in widths:
        raise InputError(f"quantization_config: {bits} is {width}; {', '.join(map(str, widths))} are read")
    if group != -1 and not 0 < group < 1 << 31:
        raise InputError(f"quantization_config: group_size is {group}; -1 or a positive number is needed")
    return spec(f"int{width}", group_size=group, scheme=scheme)


def _gptq_unpack(parts: Mapping[str, Array], settings: Settings) -> QTensor:
    try:
        return gptq.unpack(parts, settings.spec, _gptq_zeros(settings.variant))
    except InputError as error:
        if settings.spec.scheme.zero == "midpoint" and "zero point" in str(error):
            other = "v2" if settings.variant == "v1" else "v1"
            raise InputError(f"{error}; if the file stores zero points the other way, read it with --variant {other}") from error
        raise


def _awq_config(weights: Mapping[str, QTensor], plain: Sequence[str], variant: str) -> dict[str, Any]:
    found = one_spec(weights)
    return {
        "quant_method": "awq",
        "bits": found.format.bits,
        "group_size": _group_size(found),
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
    return Settings(variant="gemm", spec=_integer_spec(block, "bits", "asym_incl0", (4,)))


def _compressed_variant(variant: str) -> compressed_tensors.IntegerLayout:
    return cast(compressed_tensors.IntegerLayout, variant)


def _compressed_config(weights: Mapping[str, QTensor], plain: Sequence[str], variant: str) -> dict[str, Any]:
    found = one_spec(weights)
    size = found.tiling.extents[1]
    strategy = "tensor" if compressed_tensors.is_per_tensor(found) else "channel" if size is None else "group"
    arguments = {
        "num_bits": found.format.bits,
        "type": "int",
        "symmetric": compressed_tensors.is_symmetric(found),
        "strategy": strategy,
        "group_size": size,
        "dynamic": False,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": variant,
        "quantization_status": "compressed",
        "ignore": list(plain),
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": arguments, "input_activations": None, "output_activations": None}},
    }


def _compressed_settings(block: Mapping[str, Any]) -> Settings:
    kind = entry(block, "format", str)
    if kind not in compressed_tensors.PARTS:
        raise InputError(f"quantization_config: format is {kind!r}; {', '.join(compressed_tensors.PARTS)} are read")
    groups = entry(block, "config_groups", dict)
    if len(groups) != 1 or not isinstance(group := next(iter(groups.values())), dict):
        raise InputError(f"quantization_config: config_groups has {len(groups)} entries; one for all linears is read")
    if group.get("input_activations") is not None:
        raise InputError("quantization_config: input_activations are quantized; folders of weights alone are read")
    weights = entry(group, "weights", dict)
    if entry(weights, "type", str, "int") != "int":
        raise InputError(f"quantization_config: weights of type {weights['type']!r}; int is read")
    strategy, symmetric = entry(weights, "strategy", str), entry(weights, "symmetric", bool, True)
    block = weights if strategy == "group" else {**weights, "group_size": -1}
    found = _integer_spec(block, "num_bits", "sym_full" if symmetric else "asym_incl0", range(1 + symmetric, 9))
    if strategy not in ("tensor", "channel", "group"):
        raise InputError(f"quantization_config: strategy is {strategy!r}; tensor, channel and group are read")
    return Settings(variant=kind, spec=replace(found, tiling=Tiling.tensor()) if strategy == "tensor" else found)


def _blocks_why_not(q: QTensor, variant: str) -> str | None:
    kind, nested = q.spec.format.name, q.spec.scales is not None
    found = f"{kind}-nested" if nested else kind
    if kind in bitsandbytes.KINDS and found != variant:
        return f"{found} in the variant {variant}; --variant {found} does"
    return bitsandbytes.why_not(q)


def _blocks_native(like: QTensor | None, shape: tuple[int, ...], variant: str) -> QuantSpec:
    del like, shape
    kind, _, nested = variant.partition("-")
    return bitsandbytes.block_spec(kind, 64, bool(nested))


def _blocks_config(weights: Mapping[str, QTensor], plain: Sequence[str], variant: str) -> dict[str, Any]:
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
    native=_native(gptq.WIDTHS, multiple=False),
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
    native=_native((4,), multiple=True),
    config=_awq_config,
    settings=_awq_settings,
)

COMPRESSED_TENSORS = LinearLayout(
    name="compressed-tensors",
    method="compressed-tensors",
    variants=("pack-quantized", "int-quantized"),
    parts=lambda variant: compressed_tensors.PARTS[variant] + compressed_tensors.OPTIONAL[variant],
    why_not=lambda q, variant: compressed_tensors.why_not(q, _compressed_variant(variant)),
    pack=lambda q, variant: compressed_tensors.pack(q, _compressed_variant(variant)),
    unpack=lambda parts, settings: compressed_tensors.unpack(parts, settings.spec, _compressed_variant(settings.variant)),
    native=_native(tuple(range(1, 9)), multiple=True),
    config=_compressed_config,
    settings=_compressed_settings,
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

LINEAR_LAYOUTS: dict[str, LinearLayout] = {layout.name: layout for layout in (GPTQ, AWQ, COMPRESSED_TENSORS, BITSANDBYTES)}
