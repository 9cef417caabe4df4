"""Import of GGUF files with llama.cpp's ``llada``, and what `inspect` shows of any GGUF file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from model import Config
from refquant.apply.gguf_export import FILE, FLOATS
from refquant.apply.gguf_llada import config_of, files_of, require_held, rotated_rows, tensor_names, unrotated, with_rows
from refquant.apply.importing import Imported
from refquant.apply.inspecting import BINS, Inspection, Range, Row
from refquant.core import QTensor
from refquant.errors import InputError, UsageError
from refquant.layout.gguf import GgufFile, GgufTensor, read_gguf
from refquant.layout.gguf.grids import from_gguf
from refquant.numerics.arrays import Array
from refquant.storage import canonical_json, digest

VARIANTS = ("as-is", "dequantized")


def read_gguf_model(path: Path, *, variant: str) -> Imported:
    """Read a file, or a folder that holds ``model.gguf``.

    Linears become tensors on a grid where their type is one; the variant ``dequantized`` makes a checkpoint of plain numbers of any file.
    """
    if variant and variant not in VARIANTS:
        raise UsageError(f"variants of gguf are {', '.join(VARIANTS)}, not {variant!r}")
    file = read_gguf(path / FILE if path.is_dir() else path)
    config = config_of(file)
    checked = require_held(Config.from_dict(config, str(file.path)), str(file.path))
    wanted = tensor_names(checked)
    strange = sorted(set(file.tensors) - {f"{theirs}.weight" for theirs in wanted} - {"rope_freqs.weight"})
    if strange or "rope_freqs.weight" in file.tensors:
        name = strange[0] if strange else "rope_freqs.weight"
        raise InputError(f"{file.path}: a tensor {name!a}, for which LLaDA has no place")
    shapes = checked.architecture().tensor_shapes()
    for theirs, ours in wanted.items():
        place, shape = file.tensors.get(f"{theirs}.weight"), shapes[f"{ours}.weight"]
        if place is None or place.shape != shape:
            found = "missing" if place is None else f"of shape {place.shape}"
            raise InputError(f"{file.path}: tensor {theirs}.weight is {found}; the file's keys ask for {shape}")
    weights: dict[str, QTensor] = {}
    untouched: dict[str, Array] = {}
    digests: dict[str, str] = {}
    for theirs, ours in wanted.items():
        tensor = file.read(f"{theirs}.weight")
        digests[theirs] = tensor.digest()
        order = rotated_rows(theirs, checked)
        linear = theirs.startswith("blk.") and len(tensor.shape) == 2
        if tensor.kind.name in FLOATS:
            untouched[f"{ours}.weight"] = unrotated(tensor.fields().codes.reshape(tensor.shape), order)
        elif linear and variant != "dequantized":
            weights[ours] = _on_grid(file, theirs, with_rows(tensor, None if order is None else np.argsort(order, kind="stable")))
        else:
            untouched[f"{ours}.weight"] = unrotated(tensor.dequantize(), order)
    return Imported(
        layout="gguf",
        variant=variant or VARIANTS[0],
        config=config,
        weights=weights,
        untouched=untouched,
        digest=digest(canonical_json([digests, config])),
        files=files_of(file),
    )


def _on_grid(file: GgufFile, name: str, tensor: GgufTensor) -> QTensor:
    try:
        return from_gguf(tensor)
    except InputError as error:
        raise InputError(f"{file.path}: {name}: {error}; --variant dequantized makes a checkpoint of plain numbers") from error


def gguf_file(path: Path) -> Inspection:
    """The rows of any GGUF file."""
    file = read_gguf(path)

    def rows() -> Iterator[Row]:
        for name in file.tensors:
            yield _row(name, file.read(name))

    return Inspection(kind=f"GGUF file (version {file.version}, {len(file.metadata)} keys)", rows=rows())


def _row(name: str, tensor: GgufTensor) -> Row:
    fields, values = tensor.fields(), Range.of(tensor.dequantize())
    counts: tuple[int, ...] = ()
    if fields.d is not None:
        low, high = int(fields.codes.min()), int(fields.codes.max())
        bins = min(high - low + 1, BINS)
        places = (fields.codes.astype(np.int64).ravel() - low) * bins // (high - low + 1)
        counts = tuple(int(n) for n in np.bincount(places, minlength=bins))
    return Row(
        name=name,
        format=tensor.kind.name,
        shape=tensor.shape,
        stored_bits=8 * tensor.blocks.nbytes,
        values=values,
        scales=None if fields.d is None else Range.of(fields.d),
        zeros=None if fields.m is None else Range.of(fields.m),
        counts=counts,
        digest=tensor.digest(),
    )
