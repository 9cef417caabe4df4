"""Quantized folders, read back with every digest checked; :mod:`refquant.apply.saving` writes them. The format: docs/checkpoint.md."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import model
from model import Config, Transformer
from refquant.apply.description import DESCRIPTION, RewrittenEntry, check_digests, read_description, tensor_digest
from refquant.apply.quantized import LinearArithmetic, QuantizedModel
from refquant.apply.rewritten import RewrittenModel
from refquant.apply.saving import KEPT_FILES, Provenance, read_whole, run_time_arrays, save_quantized
from refquant.apply.stored_parts import PARTS, described_model, read_corrections, read_weight
from refquant.apply.streamed_folder import load_streamed
from refquant.errors import InputError, UsageError
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array
from refquant.storage import canonical_json, digest, open_checkpoint, read_json


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
    corrections, taken = read_corrections(description.corrections, untouched, where)
    untouched = {name: array for name, array in untouched.items() if name not in description.rewritten.parts | taken}
    return described_model(description, where, weights, rewritten, corrections), untouched


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


def load(
    path: Path | str,
    dtype: str = "float32",
    arithmetic: Arithmetic = FAST,
    *,
    linears: LinearArithmetic = "fake",
    stream: bool = False,
) -> Transformer:
    """Load a checkpoint folder as a model, quantized or not.

    Parameters
    ----------
    path : path
        A LLaDA checkpoint, or a folder that ``refquant quantize`` wrote.
    dtype : {"float32", "float64"}
    arithmetic : Arithmetic
    linears : {"fake", "integer"}
        How quantized linears are computed; see :meth:`QuantizedModel.attach`.
    stream : bool
        Read tensors and decode codes when they are needed, and drop them after: memory stays near one linear's weight plus activations.
        The numbers are the same.

    Raises
    ------
    InputError
        If the folder is not one of the two or is damaged.
    UsageError
        If linears are to multiply integers and the folder's recipe does not give them any, or the folder is streamed; or a streamed
        folder is one of a rewritten model.
    """
    path = Path(path)
    if not is_quantized(path):
        if linears != "fake":
            raise UsageError(f"{path} is a full-precision checkpoint; {linears} arithmetic needs a quantized folder")
        return model.load(path, dtype, arithmetic, stream)
    if dtype not in ("float32", "float64"):
        raise UsageError(f"dtype is {dtype!r}; allowed: float32, float64")
    if stream:
        if linears != "fake":
            raise UsageError(f"{linears} arithmetic keeps every linear's codes at hand; a streamed folder has none, load it into memory")
        return load_streamed(path, np.dtype(dtype), arithmetic)
    quantized, tensors = _read_folder(path)
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
