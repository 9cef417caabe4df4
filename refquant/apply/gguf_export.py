"""Export to GGUF: one file that llama.cpp runs."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import numpy as np

from model import Config
from refquant.apply.exporting import Exported, ExportSource, Loss, chosen_variant
from refquant.apply.gguf_llada import metadata, require_held, rotated_rows, tensor_names, with_rows
from refquant.core import QTensor
from refquant.errors import InputError
from refquant.layout.gguf import BLOCK_TYPES, GgufTensor, quantize, write_gguf
from refquant.layout.gguf.grids import to_gguf, type_for, why_not
from refquant.numerics.arrays import Array
from refquant.numerics.casting import as_float64

FILE = "model.gguf"
AS_IS = "as-is"
VARIANTS = (AS_IS, *(name.lower() for name, kind in BLOCK_TYPES.items() if kind.quantize is not None))
# llama.cpp's numbers for what most tensors of a file are; of the K types those of their plain mixtures.
FILE_TYPES = {
    **{"F32": 0, "F16": 1, "BF16": 32, "Q8_0": 7, "Q4_0": 2, "Q4_1": 3, "Q5_0": 8, "Q5_1": 9},
    **{"Q2_K": 10, "Q3_K": 12, "Q4_K": 15, "Q5_K": 17, "Q6_K": 18, "TQ1_0": 36, "TQ2_0": 37, "MXFP4": 38},
}
FLOATS = ("F32", "F16", "BF16")


def write_gguf_folder(source: ExportSource, out: Path, *, variant: str, requantize: bool) -> Exported:
    """Write ``model.gguf``.

    The variant is the type of the linears; ``as-is`` takes for each the type that holds it exactly, F32 for what is not quantized. Norms,
    and under block types embedding and head, are F32; under F16 and BF16 the embedding and the head have that type, too.
    """
    variant = chosen_variant("gguf", VARIANTS, variant)
    config = require_held(Config.from_dict(source.config, str(source.folder / "config.json")), str(source.folder))
    tensors: dict[str, GgufTensor] = {}
    losses: dict[str, Loss] = {}
    for theirs, ours in tensor_names(config).items():
        found = source.weights.get(ours, source.untouched.get(f"{ours}.weight"))
        if found is None:
            raise InputError(f"{source.folder}: no tensor {ours}.weight")
        kind = variant
        if ours not in source.weights:
            kind = "f32" if len(found.shape) < 2 or variant.upper() not in FLOATS else variant
        held, loss = _held(ours, found, kind, requantize)
        if loss is not None:
            losses[ours] = loss
        tensors[f"{theirs}.weight"] = with_rows(held, rotated_rows(theirs, config))
    linears = [tensors[f"{theirs}.weight"] for theirs, ours in tensor_names(config).items() if ours in source.weights]
    kinds = sorted({tensor.kind.name for tensor in linears})
    files = {path.name: path.read_bytes() for path in source.files}
    keys, notes = metadata(config, files, FILE_TYPES[kinds[0]] if len(kinds) == 1 else FILE_TYPES["F32"])
    write_gguf(out / FILE, keys, tensors)
    bits = sum(8 * tensor.blocks.nbytes for tensor in linears)
    count = sum(int(np.prod(tensor.shape)) for tensor in linears)
    return Exported(
        variant=", ".join(kinds).lower(),
        weights=len(linears),
        bits_per_weight=Fraction(bits, count) if count else Fraction(0),
        losses=losses,
        notes=(*notes, *_left_out(source, config)),
    )


def _held(name: str, found: QTensor | Array, variant: str, requantize: bool) -> tuple[GgufTensor, Loss | None]:
    """A tensor in the type that is wanted, and what that lost; InputError if it may lose nothing and does."""
    if isinstance(found, QTensor) and variant == AS_IS:
        reason = why_not(found)
        if reason is None:
            return to_gguf(found), None
        if not requantize:
            raise InputError(f"{name}: layout gguf cannot hold {reason}; choose a --variant and --requantize")
        raise InputError(f"{name}: layout gguf cannot hold {reason}; choose the --variant to requantize to")
    if isinstance(found, QTensor) and why_not(found) is None and type_for(found) == variant.upper():
        return to_gguf(found), None
    values = found.dequantize(np.dtype(np.float64)) if isinstance(found, QTensor) else as_float64(found)
    try:
        held = quantize(values, "F32" if variant == AS_IS else variant)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    back = held.dequantize(np.dtype(np.float64))
    if np.array_equal(back, values):
        return held, None
    if not requantize:
        wrong = tuple(int(i) for i in np.argwhere(back != values)[0])
        raise InputError(
            f"{name}: {held.kind.name} cannot hold {float(values[wrong])!r} at {wrong}; choose another --variant or --requantize"
        )
    return held, Loss.between(values, back)


def _left_out(source: ExportSource, config: Config) -> tuple[str, ...]:
    used: Mapping[str, str] = {f"{ours}.weight": theirs for theirs, ours in tensor_names(config).items()}
    rest = sorted(set(source.untouched) - set(used))
    return (f"left out: {', '.join(rest)}",) if rest else ()
