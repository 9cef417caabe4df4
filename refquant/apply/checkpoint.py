"""Quantized folders: written whole or not at all, read back with every digest checked. The format is described in docs/checkpoint.md."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import model
from model import Config, Transformer
from refquant.apply.description import (
    DESCRIPTION,
    SCHEMA_VERSION,
    Description,
    GridEntry,
    RewrittenEntry,
    TransformEntry,
    WeightEntry,
    check_digests,
    read_description,
    tensor_digest,
)
from refquant.apply.quantized import LinearArithmetic, QuantizedModel
from refquant.apply.recipe import Recipe
from refquant.apply.rewritten import RewrittenModel
from refquant.core import Origin, QTensor, QuantSpec
from refquant.core.binary_tensor import BINARY_PARTS, BinarySpec, BinaryTensor, is_binary
from refquant.core.qtensor import Quantized
from refquant.errors import InputError, UsageError
from refquant.methods.activation.tac import AffineCorrection
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array
from refquant.storage import Checkpoint, canonical_json, digest, new_directory, open_checkpoint, read_json, write_bytes, write_tensors

KEPT_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "special_tokens_map.json")
GRID_PARTS = ("codes", "scale", "scale_codes", "scale_outer", "scale_offset", "zero", "perm")
PARTS = tuple(dict.fromkeys((*GRID_PARTS, *BINARY_PARTS)))
CORRECTION_PARTS = ("matrices", "offset")


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
        Folder of the full-precision checkpoint; config and tokenizer are copied as they are (but a model that got a head of its own says
        so in its config), and every tensor that was neither quantized nor rewritten is kept in its stored dtype.
    quantized : QuantizedModel
    provenance : Provenance

    Raises
    ------
    UsageError, InputError
        If `path` exists or cannot be written; nothing is left behind.
    """
    stored = open_checkpoint(source)
    replaced = {f"{name}.weight" for name in quantized.weights}
    absent = sorted(replaced - set(stored.names))
    if absent:
        raise InputError(f"{source}: {absent[0]} was quantized but is not in this checkpoint")
    rewritten = quantized.rewritten
    entry, arrays = _rewritten_entry(rewritten)[0], run_time_arrays(quantized)
    untouched = {name: stored.read(name) for name in stored.names if name not in replaced | set(rewritten.tensors)}
    untouched |= rewritten.tensors
    parts = {f"{name}.{part}": array for name, weight in quantized.weights.items() for part, array in weight.parts().items()}
    both = sorted((set(untouched) & set(parts)) | (set(untouched) | set(parts)) & set(arrays))
    if both:
        raise InputError(f"{source}: the tensor {both[0]} has the name of a quantized weight's part or a transform's")
    untouched |= arrays
    files = {name: _read_bytes(source / name) for name in KEPT_FILES if (source / name).is_file()}
    if rewritten.untied:
        files["config.json"] = _untied_config(files["config.json"])
    description = _describe(quantized, provenance, untouched, files, entry)
    with new_directory(path) as folder:
        for name, data in files.items():
            write_bytes(folder / name, data)
        write_tensors(folder / "model.safetensors", untouched | parts, {"format": "pt"})
        description.write(folder)


def run_time_arrays(quantized: QuantizedModel) -> dict[str, Array]:
    """Arrays that a quantized model needs at run time besides its tensors, by the names that they are stored under.

    They are those of online transforms and of corrections of the attention output.
    """
    corrections = quantized.corrections.items()
    matrices = {_correction_name(index, part): getattr(one, part) for index, one in corrections for part in CORRECTION_PARTS}
    return _rewritten_entry(quantized.rewritten)[1] | matrices


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error}") from error


def _rewritten_entry(rewritten: RewrittenModel) -> tuple[RewrittenEntry, dict[str, Array]]:
    """What ``quantization.json`` says of rewrites, and the arrays of their transforms by the names that they are stored under."""
    online, arrays = {}, {}
    for name, transforms in rewritten.online.items():
        prefixes = [f"{name}.online.{number}" for number in range(len(transforms))]
        online[name] = [TransformEntry.of(transform, prefix) for transform, prefix in zip(transforms, prefixes, strict=True)]
        arrays.update({f"{prefix}.{part}": a for t, prefix in zip(transforms, prefixes, strict=True) for part, a in t.parts().items()})
    scores = {str(index): TransformEntry.of(transform, f"blocks.{index}.scores") for index, transform in rewritten.scores.items()}
    arrays.update({f"blocks.{index}.scores.{part}": a for index, t in rewritten.scores.items() for part, a in t.parts().items()})
    entry = RewrittenEntry(
        tensors=sorted(rewritten.tensors),
        online=online,
        scores=scores,
        untied=rewritten.untied,
        notes=[dict(note) for note in rewritten.notes],
    )
    return entry, arrays


def _untied_config(data: bytes) -> bytes:
    """``config.json`` of a model that got a head of its own."""
    tree = json.loads(data)
    key = "weight_tying" if Config.from_dict(tree).architecture().family == "llada" else "tie_word_embeddings"
    return (canonical_json({**tree, key: False}) + "\n").encode()


def _describe(
    quantized: QuantizedModel, provenance: Provenance, untouched: dict[str, Array], files: dict[str, bytes], rewritten: RewrittenEntry
) -> Description:
    return Description(
        schema_version=SCHEMA_VERSION,
        recipe=quantized.recipe.to_dict(),
        input_digest=provenance.input_digest,
        calibration_digest=provenance.calibration_digest,
        seed=provenance.seed,
        run_digest=provenance.run_digest,
        weights={
            name: WeightEntry(
                spec=weight.spec.to_json(),
                method=weight.origin.method,
                version=weight.origin.version,
                parameters=dict(weight.origin.parameters),
                digest=weight.digest(),
                bits_per_weight=str(weight.bits_per_weight),
            )
            for name, weight in quantized.weights.items()
        },
        activation_scales={name: GridEntry.of(grid) for name, grid in quantized.input_grids.items()},
        value_scales={str(index): GridEntry.of(grid) for index, grid in quantized.value_grids.items()},
        value_alphas={str(index): list(alphas) for index, alphas in quantized.value_alphas.items()},
        untouched={name: tensor_digest(array) for name, array in untouched.items()},
        files={name: digest(data) for name, data in files.items()},
        rewritten=rewritten,
        corrections=sorted(quantized.corrections),
    )


def _correction_name(index: int, part: str) -> str:
    """What an array of a block's correction of the attention output is called among the tensors."""
    return f"blocks.{index}.attention_output.{part}"


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
    files = {name: digest(_read_bytes(path / name)) for name in description.files if (path / name).is_file()}
    check_digests(str(path), files, description.files)
    stored = open_checkpoint(path)
    weights = {name: _read_weight(stored, name, entry, where) for name, entry in description.weights.items()}
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
    names = {index: {part: _correction_name(index, part) for part in CORRECTION_PARTS} for index in blocks}
    taken = {name for parts in names.values() for name in parts.values()}
    for name in sorted(taken):
        if name not in tensors:
            raise InputError(f"{where}: {name} is missing, which it promises")
    found = {index: AffineCorrection(**{part: tensors[name] for part, name in parts.items()}) for index, parts in names.items()}
    return found, taken


def _read_weight(stored: Checkpoint, name: str, entry: WeightEntry, where: Path) -> Quantized:
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
