"""Export to GGUF: one file that llama.cpp runs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import numpy as np

from model import Config
from refquant.apply.exporting import Exported, ExportSource, Loss, chosen_variant
from refquant.apply.gguf_llada import metadata, require_held, rotated_rows, tensor_names, with_rows
from refquant.apply.spec_texts import kind_text
from refquant.core import QTensor
from refquant.core.affine_tensor import AffineTensor
from refquant.core.qtensor import Quantized
from refquant.errors import InputError
from refquant.layout.gguf import BLOCK_TYPES, GgufTensor, Value, quantize, writing_gguf
from refquant.layout.gguf.coded import from_coded, types_that_hold, what_no_type_holds
from refquant.numerics.arrays import Array
from refquant.numerics.casting import as_working

FILE = "model.gguf"
AS_IS = "as-is"
VARIANTS = (AS_IS, *(name.lower() for name, kind in BLOCK_TYPES.items() if kind.quantize is not None))
# llama.cpp's numbers for what most tensors of a file are; of the K types those of their plain mixtures.
FILE_TYPES = {
    **{"F32": 0, "F16": 1, "BF16": 32, "Q8_0": 7, "Q4_0": 2, "Q4_1": 3, "Q5_0": 8, "Q5_1": 9},
    **{"Q2_K": 10, "Q3_K": 12, "Q4_K": 15, "Q5_K": 17, "Q6_K": 18, "TQ1_0": 36, "TQ2_0": 37, "MXFP4": 38},
    **{"IQ2_XXS": 19, "IQ2_XS": 20, "IQ3_XXS": 23, "IQ1_S": 24, "IQ4_NL": 25, "IQ3_S": 26, "IQ2_S": 28, "IQ4_XS": 30, "IQ1_M": 31},
    **{"NVFP4": 39},
}
FLOATS = ("F32", "F16", "BF16")


def write_gguf_folder(source: ExportSource, out: Path, *, variant: str, requantize: bool) -> Exported:
    """Write ``model.gguf``, a tensor at a time.

    The variant is the type of the linears; ``as-is`` takes for every tensor the type that holds it exactly: of codes theirs, of numbers
    that of the dtype in which they are stored. Norms are F32, and so are, under block types, embedding, head, and linears that a quantized
    folder leaves plain; under F16 and BF16 they have that type, too.
    """
    variant = chosen_variant("gguf", VARIANTS, variant)
    config = require_held(Config.from_dict(source.config, str(source.folder / "config.json")), str(source.folder))
    names = tensor_names(config)
    _require_tensors(source, config)
    files = {path.name: path.read_bytes() for path in source.files}
    keys, notes = metadata(config, files, FILE_TYPES["F32"])
    shapes = config.architecture().tensor_shapes()
    losses: dict[str, Loss] = {}
    kinds: Counter[str] = Counter()
    bits = count = 0
    with writing_gguf(out / FILE, keys, {f"{theirs}.weight": shapes[f"{ours}.weight"] for theirs, ours in names.items()}) as file:
        for theirs, ours in names.items():
            held, loss = _held(ours, *_tensor(source, ours, variant), requantize)
            if loss is not None:
                losses[ours] = loss
            file.put(f"{theirs}.weight", with_rows(held, rotated_rows(theirs, config)))
            if theirs.startswith("blk.") and len(held.shape) == 2:
                kinds[held.kind.name] += 1
                bits, count = bits + 8 * held.blocks.nbytes, count + math.prod(held.shape)
        # What most linears are, the first by name of those that are equally many.
        most = min(kinds, key=lambda name: (-kinds[name], name))
        file.metadata["general.file_type"] = Value(kind="uint32", value=FILE_TYPES[most])
    return Exported(
        variant=", ".join(sorted(kinds)).lower(),
        weights=sum(kinds.values()),
        bits_per_weight=Fraction(bits, count),
        losses=losses,
        notes=(*notes, *_left_out(source, config)),
    )


def _require_tensors(source: ExportSource, config: Config) -> None:
    for theirs, ours in tensor_names(config).items():
        if ours not in source.weights and f"{ours}.weight" not in source.untouched:
            raise InputError(f"{source.folder}: no tensor {ours}.weight, for GGUF's {theirs}.weight")


def _tensor(source: ExportSource, name: str, variant: str) -> tuple[Quantized | Array, str]:
    """A tensor of the source, and the variant for it."""
    if name in source.weights:
        return source.weights[name], variant
    if variant == AS_IS and name in source.tables:
        return source.tables[name], variant
    found = source.untouched[f"{name}.weight"]
    matrix = len(found.shape) == 2
    return found, variant if matrix and (variant == AS_IS or variant.upper() in FLOATS) else "f32"


def _held(name: str, found: Quantized | Array, variant: str, requantize: bool) -> tuple[GgufTensor, Loss | None]:
    """A tensor in the type that is wanted, and what that lost; InputError if it may lose nothing and does."""
    if isinstance(found, QTensor | AffineTensor):
        fitting = types_that_hold(found)
        if variant == AS_IS and fitting:
            return from_coded(found), None
        if variant.upper() in fitting:
            return from_coded(found, variant), None
    if variant == AS_IS and not isinstance(found, np.ndarray):
        reason = what_no_type_holds(found) if isinstance(found, QTensor | AffineTensor) else kind_text(found.spec)
        then = "choose the --variant to requantize to" if requantize else "choose a --variant and --requantize"
        raise InputError(f"{name}: layout gguf cannot hold {reason}; {then}")
    values = _numbers(found)
    try:
        held = quantize(values, _stored_type(found) if variant == AS_IS else variant)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    back = held.dequantize(values.dtype)
    if np.array_equal(back, values):
        return held, None
    if not requantize:
        wrong = tuple(int(i) for i in np.argwhere(back != values)[0])
        raise InputError(
            f"{name}: {held.kind.name} cannot hold {float(values[wrong])!r} at {wrong}; choose another --variant or --requantize"
        )
    return held, Loss.between(values, back)


def _numbers(found: Quantized | Array) -> Array:
    """A tensor's numbers, in float32 where that holds them: an embedding in float64 is large."""
    if isinstance(found, np.ndarray):
        return as_working(found)
    return found.dequantize() if isinstance(found, AffineTensor) else found.dequantize(np.dtype(np.float64))


def _stored_type(found: Quantized | Array) -> str:
    """The type of plain numbers as they are stored; F32 of all that is no matrix, and of what is wider."""
    if isinstance(found, np.ndarray) and len(found.shape) == 2:
        return {"float16": "F16", "bfloat16": "BF16"}.get(found.dtype.name, "F32")
    return "F32"


def _left_out(source: ExportSource, config: Config) -> tuple[str, ...]:
    used: Mapping[str, str] = {f"{ours}.weight": theirs for theirs, ours in tensor_names(config).items()}
    rest = sorted(set(source.untouched) - set(used))
    return (f"left out: {', '.join(rest)}",) if rest else ()
