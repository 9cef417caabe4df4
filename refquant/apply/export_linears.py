"""Exports in which every linear is a handful of tensors in ``model.safetensors``, and the dequantized one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from refquant.apply.compressed_layout import COMPRESSED_TENSORS
from refquant.apply.exporting import Exported, ExportSource, Loss, chosen_variant
from refquant.apply.lazy_tensors import Spool, write_shards
from refquant.apply.linear_layout import LinearLayout, Written
from refquant.apply.linear_layouts import AWQ, BITSANDBYTES, GPTQ
from refquant.apply.mx_layout import MX
from refquant.apply.spec_texts import kind_text
from refquant.core import QTensor
from refquant.core.qtensor import Quantized
from refquant.errors import InputError
from refquant.methods.grid.rtn import rtn
from refquant.numerics.arrays import Array
from refquant.numerics.casting import float_dtype
from refquant.storage import TensorSource, write_bytes, write_text

DEQUANTIZED = ("float32", "bfloat16", "float16", "float64")


def write_gptq(source: ExportSource, out: Path, *, variant: str, requantize: bool) -> Exported:
    """GPTQ's layout; variants ``v1`` and ``v2`` say how zero points are stored."""
    return _write(GPTQ, source, out, variant, requantize)


def write_awq(source: ExportSource, out: Path, *, variant: str, requantize: bool) -> Exported:
    """AWQ's layout, as AutoAWQ writes it."""
    return _write(AWQ, source, out, variant, requantize)


def write_compressed_tensors(source: ExportSource, out: Path, *, variant: str, requantize: bool) -> Exported:
    """The layouts of compressed-tensors; the variant is its ``format``."""
    return _write(COMPRESSED_TENSORS, source, out, variant, requantize)


def write_bitsandbytes(source: ExportSource, out: Path, *, variant: str, requantize: bool) -> Exported:
    """bitsandbytes' 4-bit layout; variants are its tables, with and without nested scales."""
    return _write(BITSANDBYTES, source, out, variant, requantize)


def write_mx(source: ExportSource, out: Path, *, variant: str, requantize: bool) -> Exported:
    """MX and NVFP4 as torchao and modelopt keep their tensors; the variant is the block format."""
    return _write(MX, source, out, variant, requantize)


def write_dequantized(source: ExportSource, out: Path, *, variant: str, requantize: bool) -> Exported:
    """Plain weights; the variant is their dtype, and a dtype that cannot hold a number is refused unless it may be rounded."""
    variant = chosen_variant("dequantized", DEQUANTIZED, variant)
    dtype, losses, groups = float_dtype(variant), dict[str, Loss](), dict[str, Mapping[str, TensorSource]]()
    with TemporaryDirectory(dir=out) as waiting:
        spool = Spool(Path(waiting))
        for name in source.weights:
            values = _values(source.weights[name])
            rounded = _rounded(name, values, variant, requantize)
            if not np.array_equal(rounded.astype(np.float64), values):
                losses[name] = Loss.between(values, rounded)
            groups[name] = spool.put(name, {"weight": rounded})
        _write_folder(source, out, groups, None)
    return Exported(variant=variant, weights=len(source.weights), bits_per_weight=Fraction(8 * dtype.itemsize), losses=losses)


def _rounded(name: str, values: Array, variant: str, requantize: bool) -> Array:
    """Numbers in a narrower dtype; InputError if one does not fit, or is changed though that is not allowed."""
    with np.errstate(over="ignore", under="ignore"):
        rounded = values.astype(float_dtype(variant))
    back = rounded.astype(np.float64)
    if not np.isfinite(back).all():
        raise InputError(f"{name}: {variant} cannot hold {float(np.abs(values).max()):g}; choose another --variant")
    if not requantize and not np.array_equal(back, values):
        wrong = tuple(int(i) for i in np.argwhere(back != values)[0])
        raise InputError(f"{name}: {variant} cannot hold {float(values[wrong])!r} at {wrong}; choose another --variant or --requantize")
    return rounded


def _write(layout: LinearLayout, source: ExportSource, out: Path, variant: str, requantize: bool) -> Exported:
    variant = chosen_variant(layout.name, layout.variants, variant)
    if not source.weights:
        raise InputError(f"{source.folder}: no linear is quantized; there is nothing to write in the {layout.name} layout")
    written: dict[str, Written] = {}
    losses: dict[str, Loss] = {}
    groups: dict[str, Mapping[str, TensorSource]] = {}
    count = stored_bits = 0
    with TemporaryDirectory(dir=out) as waiting:
        spool = Spool(Path(waiting))
        for name in source.weights:
            weight = source.weights[name]
            held = _held(layout, name, weight, variant, requantize)
            if held is not weight:
                losses[name] = Loss.between(_values(weight), _values(held))
            parts = layout.pack(held, variant)
            groups[name] = spool.put(name, parts)
            written[name] = Written(spec=held.spec, permutation=held.permutation)
            count, stored_bits = count + held.codes.size, stored_bits + sum(array.nbytes * 8 for array in parts.values())
        _write_folder(source, out, groups, layout.config(written, source.plain, variant))
    return Exported(
        variant=variant, weights=len(written), bits_per_weight=Fraction(stored_bits, count), losses=losses, notes=source.notes()
    )


def _held(layout: LinearLayout, name: str, weight: Quantized | Array, variant: str, requantize: bool) -> QTensor:
    """The weight if the layout can hold it; otherwise the nearest that it can, if that is allowed."""
    like = weight if isinstance(weight, QTensor) else None
    reason = _why_not(layout, weight, variant)
    if like is not None and reason is None:
        return like
    if not requantize:
        raise InputError(f"{name}: layout {layout.name} cannot hold {reason}; --requantize rounds to what it can hold")
    rounded = rtn(_values(weight).astype(layout.dtype), layout.native(like, weight.shape, variant))
    still = layout.why_not(rounded, variant)
    if still is not None:
        raise InputError(f"{name}: layout {layout.name} cannot hold {still}, requantized or not")
    return rounded


def _why_not(layout: LinearLayout, weight: Quantized | Array, variant: str) -> str | None:
    """What of a weight the layout cannot hold, or None."""
    if isinstance(weight, QTensor):
        return layout.why_not(weight, variant)
    return f"weights of {weight.dtype}; it holds quantized ones" if isinstance(weight, np.ndarray) else kind_text(weight.spec)


def _values(weight: Quantized | Array) -> Array:
    """The numbers, in float64."""
    return weight.astype(np.float64) if isinstance(weight, np.ndarray) else weight.dequantize(np.dtype(np.float64))


def _write_folder(
    source: ExportSource, out: Path, linears: Mapping[str, Mapping[str, TensorSource]], block: Mapping[str, Any] | None
) -> None:
    config = {key: value for key, value in source.config.items() if key != "quantization_config"}
    if block is not None:
        config["quantization_config"] = block
    write_text(out / "config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    for path in source.files:
        write_bytes(out / path.name, path.read_bytes())
    kept: dict[str, Mapping[str, TensorSource]] = {name: {name: one} for name, one in source.kept().items()}
    parts = {f"{name}.weight": group for name, group in linears.items()}
    both = sorted({part for group in parts.values() for part in group} & set(kept))
    if both:
        raise InputError(f"{source.folder}: the tensor {both[0]} has the name of a linear's part")
    write_shards(out, kept | parts, source.shard_bytes)
