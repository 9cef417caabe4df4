"""Quantized folders: written whole or not at all, read back with every digest checked. The format is described in docs/checkpoint.md."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import model
from model import Config, Transformer
from refquant.apply.quantize import QuantizedModel
from refquant.apply.recipe import Recipe
from refquant.core import Grid, Origin, QTensor, QuantSpec
from refquant.errors import InputError, UsageError
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array
from refquant.numerics.casting import float_dtype
from refquant.storage import Checkpoint, canonical_json, digest, new_directory, open_checkpoint, read_json, write_tensors, write_text

SCHEMA_VERSION = 1
DESCRIPTION = "quantization.json"
KEPT_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "special_tokens_map.json")
PARTS = ("codes", "scale", "zero", "perm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """What a quantized folder was made from.

    Parameters
    ----------
    input_digest : str
        Of the full-precision checkpoint's tensors, and its config.
    calibration_digest : str
        Of the calibration states; empty without calibration.
    seed : int
    run_digest : str
        Of recipe, input, calibration file, seed and number of samples: the same run has the same digest.
    """

    input_digest: str
    calibration_digest: str
    seed: int
    run_digest: str


def save_quantized(path: Path, source: Path, quantized: QuantizedModel, provenance: Provenance) -> None:
    """Write a quantized folder.

    Parameters
    ----------
    path : Path
        Must not exist.
    source : Path
        Folder of the full-precision checkpoint; config and tokenizer are copied as they are, and every tensor that was not quantized is
        kept in its stored dtype.
    quantized : QuantizedModel
    provenance : Provenance

    Raises
    ------
    UsageError, InputError
        If `path` exists or cannot be written; nothing is left behind.
    """
    stored = open_checkpoint(source)
    replaced = {f"{name}.weight" for name in quantized.weights}
    tensors: dict[str, Array] = {name: stored.read(name) for name in stored.names if name not in replaced}
    for name, weight in quantized.weights.items():
        tensors |= {f"{name}.{part}": array for part, array in weight.parts().items()}
    with new_directory(path) as folder:
        for name in KEPT_FILES:
            if (source / name).is_file():
                shutil.copyfile(source / name, folder / name)
        write_tensors(folder / "model.safetensors", tensors, {"format": "pt"})
        write_text(folder / DESCRIPTION, canonical_json(_description(quantized, provenance)) + "\n")


def _description(quantized: QuantizedModel, provenance: Provenance) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "recipe": quantized.recipe.to_dict(),
        "input_digest": provenance.input_digest,
        "calibration_digest": provenance.calibration_digest,
        "seed": provenance.seed,
        "run_digest": provenance.run_digest,
        "weights": {
            name: {
                "spec": weight.spec.to_json(),
                "method": weight.origin.method,
                "parameters": dict(weight.origin.parameters),
                "digest": weight.digest(),
                "bits_per_weight": str(weight.bits_per_weight),
            }
            for name, weight in quantized.weights.items()
        },
        "activation_scales": {name: _grid_tree(grid) for name, grid in quantized.input_grids.items()},
        "value_scales": {str(index): _grid_tree(grid) for index, grid in quantized.value_grids.items()},
        "value_alphas": {str(index): list(alphas) for index, alphas in quantized.value_alphas.items()},
    }


def _grid_tree(grid: Grid) -> dict[str, Any]:
    zero = grid.zero
    return {
        "shape": list(grid.scale.shape),
        "dtype": grid.scale.dtype.name,
        "scale": [float(value) for value in grid.scale.ravel()],
        "zero": None if zero is None else [float(value) for value in zero.ravel()],
        "zero_dtype": None if zero is None else zero.dtype.name,
    }


def _grid_from_tree(tree: Mapping[str, Any]) -> Grid:
    shape = tuple(tree["shape"])
    scale = np.array(tree["scale"], dtype=np.float64).reshape(shape).astype(float_dtype(tree["dtype"]))
    if tree["zero"] is None:
        return Grid(scale=scale, zero=None)
    return Grid(scale=scale, zero=np.array(tree["zero"]).reshape(shape).astype(np.dtype(tree["zero_dtype"])))


def is_quantized(path: Path) -> bool:
    """Whether a folder is a quantized one."""
    return (path / DESCRIPTION).is_file()


def read_provenance(path: Path) -> Provenance:
    """Where a quantized folder comes from; errors as :func:`load_quantized`."""
    tree = _read_description(path)
    return Provenance(**{name: tree[name] for name in ("input_digest", "calibration_digest", "seed", "run_digest")})


def load_quantized(path: Path) -> QuantizedModel:
    """Read a quantized folder's codes and grids, and check every tensor against its recorded digest.

    Raises
    ------
    InputError
        If anything is missing, damaged, or not what its digest says.
    """
    tree = _read_description(path)
    stored = open_checkpoint(path)
    where = path / DESCRIPTION
    try:
        recipe = Recipe.from_dict(tree["recipe"], f"{where}: recipe")
        weights = {name: _read_weight(stored, name, entry, where) for name, entry in tree["weights"].items()}
        input_grids = {name: _grid_from_tree(entry) for name, entry in tree["activation_scales"].items()}
        value_grids = {int(index): _grid_from_tree(entry) for index, entry in tree["value_scales"].items()}
        alphas = {int(index): tuple(values) for index, values in tree["value_alphas"].items()}
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{where}: damaged: {type(error).__name__}: {error}") from error
    return QuantizedModel(recipe=recipe, weights=weights, input_grids=input_grids, value_grids=value_grids, value_alphas=alphas)


def _read_description(path: Path) -> dict[str, Any]:
    where = path / DESCRIPTION
    if not where.is_file():
        raise InputError(f"{path}: not a quantized folder: it holds no {DESCRIPTION}")
    tree = read_json(where)
    if tree.get("schema_version") != SCHEMA_VERSION:
        raise InputError(f"{where}: schema_version is {tree.get('schema_version')!r}; this version reads {SCHEMA_VERSION}")
    needed = (
        "recipe",
        "input_digest",
        "calibration_digest",
        "seed",
        "run_digest",
        "weights",
        "activation_scales",
        "value_scales",
        "value_alphas",
    )
    missing = [key for key in needed if key not in tree]
    if missing:
        raise InputError(f"{where}: the keys {', '.join(missing)} are missing")
    return tree


def _read_weight(stored: Checkpoint, name: str, entry: Mapping[str, Any], where: Path) -> QTensor:
    parts = {part: stored.read(f"{name}.{part}") for part in PARTS if f"{name}.{part}" in stored.names}
    missing = {"codes", "scale"} - set(parts)
    if missing:
        raise InputError(f"{stored.directory}: {name} lacks {', '.join(sorted(missing))}, which {where.name} promises")
    weight = QTensor(
        codes=parts["codes"],
        scale=parts["scale"],
        zero=parts.get("zero"),
        spec=QuantSpec.from_json(entry["spec"]),
        permutation=parts.get("perm"),
        origin=Origin(method=entry["method"], parameters=entry["parameters"]),
    )
    if weight.digest() != entry["digest"]:
        raise InputError(
            f"{stored.directory}: {name} is damaged: its digest is {weight.digest()[:12]}..., {entry['digest'][:12]}... was recorded"
        )
    return weight


def load(path: Path | str, dtype: str = "float32", arithmetic: Arithmetic = FAST) -> Transformer:
    """Load a checkpoint folder as a model, quantized or not.

    Parameters
    ----------
    path : path
        A LLaDA checkpoint, or a folder that ``refquant quantize`` wrote.
    dtype : {"float32", "float64"}
    arithmetic : Arithmetic

    Raises
    ------
    InputError
        If the folder is not one of the two or is damaged.
    """
    path = Path(path)
    if not is_quantized(path):
        return model.load(path, dtype, arithmetic)
    quantized = load_quantized(path)
    stored = open_checkpoint(path)
    parts = {f"{name}.{part}" for name in quantized.weights for part in PARTS}
    tensors = {name: stored.read(name) for name in stored.names if name not in parts}
    for name, weight in quantized.weights.items():
        tensors[f"{name}.weight"] = weight.dequantize(np.dtype(dtype))
    config = Config.from_dict(read_json(path / "config.json"))
    return quantized.attach(model.build(config, tensors, dtype, arithmetic))


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
