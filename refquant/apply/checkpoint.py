"""Quantized folders, read back with every digest checked; :mod:`refquant.apply.saving` writes them. The format: docs/checkpoint.md."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import model
from model import Config, Transformer
from refquant.apply.description import (
    DESCRIPTION,
    RewrittenEntry,
    WeightEntry,
    check_digests,
    read_description,
    tensor_digest,
)
from refquant.apply.quantized import LinearArithmetic, QuantizedModel
from refquant.apply.recipe import Recipe
from refquant.apply.rewritten import RewrittenModel
from refquant.apply.saving import CORRECTION_PARTS, KEPT_FILES, Provenance, correction_name, read_whole, run_time_arrays, save_quantized
from refquant.core import Origin, QTensor, QuantSpec
from refquant.core.binary_tensor import BINARY_PARTS, BinarySpec, BinaryTensor, is_binary
from refquant.core.qtensor import Quantized
from refquant.errors import InputError, UsageError
from refquant.methods.activation.tac import AffineCorrection
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array
from refquant.storage import Checkpoint, canonical_json, digest, open_checkpoint, read_json

GRID_PARTS = ("codes", "scale", "scale_codes", "scale_outer", "scale_offset", "zero", "perm")
PARTS = tuple(dict.fromkeys((*GRID_PARTS, *BINARY_PARTS)))


def is_quantized(path: Path) -> bool:
    """Whether a folder is a quantized one."""
    return (path / DESCRIPTION).is_file()


def read_provenance(path: Path) -> Provenance:
    """Where a quantized folder comes from; errors as :func:`load_quantized`."""
    found = read_description(path)
    return Provenance(
        input_digest=found.input_digest, calibration_digest=found.calibration_digest, seed=found.seed, run_digest=found.run_digest
    )


def load_quantized(path: Path) -> QuantizedModel:
    """Read a quantized folder's codes and grids, and check everything in it, untouched tensors and config too, against its digest.

    Raises
    ------
    InputError
        If anything is missing, damaged, not recorded, or not what its digest says.
    """
    return _read_folder(path)[0]


def _read_folder(path: Path) -> tuple[QuantizedModel, dict[str, Array]]:
    """What :func:`load_quantized` returns, and the untouched tensors, all of it checked."""
    description = read_description(path)
    where = path / DESCRIPTION
    files = {name: digest(read_whole(path / name)) for name in description.files if (path / name).is_file()}
    check_digests(str(path), files, description.files)
    stored = open_checkpoint(path)
    weights = {name: read_weight(stored, name, entry, where) for name, entry in description.weights.items()}
    parts = {f"{name}.{part}" for name, weight in weights.items() for part in weight.parts()}
    untouched = {name: stored.read(name) for name in stored.names if name not in parts}
    check_digests(str(path), {name: tensor_digest(array) for name, array in untouched.items()}, description.untouched)
    rewritten = _read_rewritten(description.rewritten, untouched, where)
    corrections, taken = _read_corrections(description.corrections, untouched, where)
    untouched = {name: array for name, array in untouched.items() if name not in description.rewritten.parts | taken}
    recipe = Recipe.from_dict(description.recipe, f"{where}: recipe")
    try:
        quantized = QuantizedModel(
            recipe=recipe,
            weights=weights,
            input_grids={name: entry.grid() for name, entry in description.activation_scales.items()},
            value_grids={int(index): entry.grid() for index, entry in description.value_scales.items()},
            value_alphas={int(index): tuple(values) for index, values in description.value_alphas.items()},
            rewritten=rewritten,
            corrections=corrections,
        )
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {error}") from error
    return quantized, untouched


def _read_rewritten(entry: RewrittenEntry, tensors: dict[str, Array], where: Path) -> RewrittenModel:
    """What rewrites left, from the tensors of a folder."""
    for name in entry.tensors:
        if name not in tensors:
            raise InputError(f"{where}: {name} was rewritten and is not among the tensors")
    try:
        return RewrittenModel(
            tensors={name: tensors[name] for name in entry.tensors},
            online={name: tuple(one.transform(tensors) for one in found) for name, found in entry.online.items()},
            scores={int(index): one.transform(tensors) for index, one in entry.scores.items()},
            untied=entry.untied,
            notes=tuple(entry.notes),
        )
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error


def _read_corrections(blocks: list[int], tensors: dict[str, Array], where: Path) -> tuple[dict[int, AffineCorrection], set[str]]:
    """Corrections of the attention output by block, and the names of their arrays."""
    names = {index: {part: correction_name(index, part) for part in CORRECTION_PARTS} for index in blocks}
    taken = {name for parts in names.values() for name in parts.values()}
    for name in sorted(taken):
        if name not in tensors:
            raise InputError(f"{where}: {name} is missing, which it promises")
    found = {index: AffineCorrection(**{part: tensors[name] for part, name in parts.items()}) for index, parts in names.items()}
    return found, taken


def read_weight(stored: Checkpoint, name: str, entry: WeightEntry, where: Path) -> Quantized:
    """Read the parts of one weight and check them against what is recorded of them; `where` is named in messages.

    Raises
    ------
    InputError
        If a part is missing, damaged or not what its digest says.
    """
    binary = is_binary(entry.spec)
    wanted = BINARY_PARTS if binary else GRID_PARTS
    parts = {part: stored.read(f"{name}.{part}") for part in wanted if f"{name}.{part}" in stored.names}
    missing = (set(wanted) if binary else {"codes", "scale" if "scale_codes" not in parts else "scale_codes"}) - set(parts)
    if missing:
        raise InputError(f"{stored.directory}: {name} lacks {', '.join(sorted(missing))}, which {where.name} promises")
    try:
        origin = Origin(method=entry.method, version=entry.version, parameters=entry.parameters)
        weight = _from_parts(parts, entry.spec, origin, binary)
    except InputError as error:
        raise InputError(f"{stored.directory}: {name} is damaged: {error}") from error
    check_digests(str(stored.directory), {name: weight.digest()}, {name: entry.digest})
    return weight


def _from_parts(parts: dict[str, Array], spec: str, origin: Origin, binary: bool) -> Quantized:
    if binary:
        return BinaryTensor.from_parts(parts, BinarySpec.from_json(spec), origin)
    return QTensor.from_parts(parts, QuantSpec.from_json(spec), origin)


def load(path: Path | str, dtype: str = "float32", arithmetic: Arithmetic = FAST, *, linears: LinearArithmetic = "fake") -> Transformer:
    """Load a checkpoint folder as a model, quantized or not.

    Parameters
    ----------
    path : path
        A LLaDA checkpoint, or a folder that ``refquant quantize`` wrote.
    dtype : {"float32", "float64"}
    arithmetic : Arithmetic
    linears : {"fake", "integer"}
        How quantized linears are computed; see :meth:`QuantizedModel.attach`.

    Raises
    ------
    InputError
        If the folder is not one of the two or is damaged.
    UsageError
        If linears are to multiply integers and the folder's recipe does not give them any.
    """
    path = Path(path)
    if not is_quantized(path):
        if linears != "fake":
            raise UsageError(f"{path} is a full-precision checkpoint; {linears} arithmetic needs a quantized folder")
        return model.load(path, dtype, arithmetic)
    quantized, tensors = _read_folder(path)
    if dtype not in ("float32", "float64"):
        raise UsageError(f"dtype is {dtype!r}; allowed: float32, float64")
    for name, weight in quantized.weights.items():
        tensors[f"{name}.weight"] = weight.dequantize(np.dtype(dtype))
    for name, array in quantized.rewritten.tensors.items():  # computed, not published: rounding them to another dtype loses nothing stored
        tensors[name] = array.astype(dtype)
    config = Config.from_dict(read_json(path / "config.json"), str(path / "config.json"))
    return quantized.attach(model.build(config, tensors, dtype, arithmetic), arithmetic=linears)


def input_digest(source: Path) -> str:
    """SHA-256 over a full-precision checkpoint's tensors and config.

    Raises
    ------
    UsageError
        If the folder is already quantized.
    """
    if is_quantized(source):
        raise UsageError(f"{source} is already quantized; quantize a full-precision checkpoint")
    return digest(canonical_json([open_checkpoint(source).digest(), read_json(source / "config.json")]))


__all__ = [
    "KEPT_FILES",
    "PARTS",
    "Provenance",
    "input_digest",
    "is_quantized",
    "load",
    "load_quantized",
    "read_provenance",
    "read_weight",
    "run_time_arrays",
    "save_quantized",
]
