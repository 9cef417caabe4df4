"""Import of GGUF files with llama.cpp's ``llada``, and what `inspect` shows of any GGUF file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from model import Config
from refquant.apply.gguf_export import FILE
from refquant.apply.gguf_llada import config_of, files_of, require_held, rotated_rows, tensor_names, unrotated, with_rows
from refquant.apply.importing import Imported
from refquant.apply.inspecting import Inspection, Range, Row, code_counts, histogram
from refquant.apply.lazy_tensors import ReadAtUse, source_at_use
from refquant.core import QTensor
from refquant.core.affine_tensor import AffineTensor
from refquant.errors import InputError, UsageError
from refquant.layout.gguf import Fields, GgufFile, GgufTensor, read_gguf
from refquant.layout.gguf.coded import to_coded, why_not_coded
from refquant.numerics.arrays import Array
from refquant.numerics.casting import as_float64, float_dtype
from refquant.storage import TensorSource, canonical_json, digest

VARIANTS = ("as-is", "dequantized")
FLOAT_DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": float_dtype("bfloat16")}


def read_gguf_model(path: Path, *, variant: str) -> Imported:
    """Read a file, or a folder that holds ``model.gguf``: its keys now, its tensors one at a time when they are asked for.

    Matrices of block types, embedding and head among them, become codes, each in the form that gives its bytes back; the variant
    ``dequantized`` makes a checkpoint of plain numbers of any file.
    """
    if variant and variant not in VARIANTS:
        raise UsageError(f"variants of gguf are {', '.join(VARIANTS)}, not {variant!r}")
    file = read_gguf(path / FILE if path.is_dir() else path)
    config = config_of(file)
    checked = require_held(Config.from_dict(config, str(file.path)), str(file.path))
    wanted = tensor_names(checked)
    _require_tensors(file, checked, wanted)
    matrices = {ours: theirs for theirs, ours in wanted.items() if len(file.tensors[f"{theirs}.weight"].shape) == 2}
    coded = {} if variant == "dequantized" else {ours: theirs for ours, theirs in matrices.items() if not _is_plain(file, theirs)}
    for theirs in coded.values():
        reason = why_not_coded(file.tensors[f"{theirs}.weight"].kind.name)
        if reason is not None:
            raise InputError(f"{file.path}: {theirs}: {reason}; --variant dequantized makes a checkpoint of plain numbers")
    plain = {f"{ours}.weight": theirs for theirs, ours in wanted.items() if ours not in coded}
    untouched = ReadAtUse(list(plain), lambda name: _numbers(file, plain[name], checked))
    digests = {theirs: file.digest(f"{theirs}.weight") for theirs in wanted}
    return Imported(
        layout="gguf",
        variant=variant or VARIANTS[0],
        config=config,
        weights=ReadAtUse(list(coded), lambda name: _codes(file, coded[name], checked)),
        untouched=untouched,
        sources={name: _source(file, theirs, untouched, name) for name, theirs in plain.items()},
        digest=digest(canonical_json([digests, config])),
        files=files_of(file),
        linears=tuple(ours for ours, theirs in matrices.items() if theirs.startswith("blk.")),
    )


def _require_tensors(file: GgufFile, config: Config, wanted: Mapping[str, str]) -> None:
    """Raise InputError unless a file has the tensors that its keys ask for, and no others."""
    strange = sorted(set(file.tensors) - {f"{theirs}.weight" for theirs in wanted} - {"rope_freqs.weight"})
    if strange or "rope_freqs.weight" in file.tensors:
        name = strange[0] if strange else "rope_freqs.weight"
        raise InputError(f"{file.path}: a tensor {name!a}, for which LLaDA has no place")
    shapes = config.architecture().tensor_shapes()
    for theirs, ours in wanted.items():
        place, shape = file.tensors.get(f"{theirs}.weight"), shapes[f"{ours}.weight"]
        if place is None or place.shape != shape:
            found = "missing" if place is None else f"of shape {place.shape}"
            raise InputError(f"{file.path}: tensor {theirs}.weight is {found}; the file's keys ask for {shape}")


def _is_plain(file: GgufFile, theirs: str) -> bool:
    return file.tensors[f"{theirs}.weight"].kind.name in FLOAT_DTYPES


def _codes(file: GgufFile, theirs: str, config: Config) -> QTensor | AffineTensor:
    """A tensor's codes, with rows in our order."""
    order = rotated_rows(theirs, config)
    tensor = with_rows(file.read(f"{theirs}.weight"), None if order is None else np.argsort(order, kind="stable"))
    try:
        return to_coded(tensor)
    except InputError as error:
        raise InputError(f"{file.path}: {theirs}: {error}; --variant dequantized makes a checkpoint of plain numbers") from error


def _numbers(file: GgufFile, theirs: str, config: Config) -> Array:
    """A tensor's numbers, as they are stored where they are floats, with rows in our order."""
    tensor = file.read(f"{theirs}.weight")
    values = tensor.fields().codes.reshape(tensor.shape) if _is_plain(file, theirs) else tensor.dequantize()
    return unrotated(values, rotated_rows(theirs, config))


def _source(file: GgufFile, theirs: str, untouched: Mapping[str, Array], name: str) -> TensorSource:
    place = file.tensors[f"{theirs}.weight"]
    dtype = FLOAT_DTYPES.get(place.kind.name, np.dtype(np.float32))
    return source_at_use(dtype, place.shape, lambda: untouched[name])


def gguf_file(path: Path) -> Inspection:
    """The rows of any GGUF file."""
    file = read_gguf(path)

    def rows() -> Iterator[Row]:
        for name in file.tensors:
            yield _row(name, file.read(name))

    return Inspection(kind=f"GGUF file (version {file.version}, {len(file.metadata)} keys)", rows=rows())


def _row(name: str, tensor: GgufTensor) -> Row:
    fields, numbers = tensor.fields(), tensor.dequantize()
    values, scales, minima = Range.of(numbers), _scales(tensor.kind.name, fields), _minima(fields)
    coded = fields.d is not None or fields.scales is not None
    low, high = (int(fields.codes.min()), int(fields.codes.max())) if coded else (0, 0)
    return Row(
        name=name,
        format=tensor.kind.name,
        shape=tensor.shape,
        stored_bits=8 * tensor.blocks.nbytes,
        values=values,
        scales=None if scales is None else Range.of(scales),
        zeros=None if minima is None else Range.of(minima),
        counts=code_counts(fields.codes, low, high - low + 1) if coded else histogram(numbers, values),
        digest=tensor.digest(),
    )


def _scales(kind: str, fields: Fields) -> Array | None:
    """What codes are multiplied by: of super-blocks the product of both scales, of MXFP4 the power of two."""
    if kind == "MXFP4":
        return np.ldexp(1.0, np.asarray(fields.d).astype(np.int64) - 127)
    if fields.d is None or fields.scales is None or why_not_coded(kind) is not None:
        return fields.d
    return _times(fields.d, fields.scales)


def _minima(fields: Fields) -> Array | None:
    """What is taken off: of super-blocks the product of both numbers, otherwise the number that is added, with its sign turned."""
    if fields.m is None:
        return None
    return -as_float64(fields.m) if fields.mins is None else _times(fields.m, fields.mins)


def _times(numbers: Array, codes: Array) -> Array:
    with np.errstate(invalid="ignore"):  # an infinite number over a code of 0: it is counted among those that are not finite
        return as_float64(numbers)[:, None] * codes
