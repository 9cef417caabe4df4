"""Writing a quantized folder, tensor by tensor: from memory, or from files that were put aside while a long run went on.

The format is described in docs/checkpoint.md. Reading is :mod:`refquant.apply.checkpoint`'s.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from model import Config
from refquant.apply.description import SCHEMA_VERSION, Description, GridEntry, RewrittenEntry, TransformEntry, WeightEntry
from refquant.apply.quantized import QuantizedModel
from refquant.apply.rewritten import RewrittenModel
from refquant.core.qtensor import Quantized
from refquant.errors import InputError
from refquant.numerics.arrays import Array
from refquant.storage import (
    TensorSource,
    canonical_json,
    digest,
    new_directory,
    open_checkpoint,
    plan_shards,
    write_bytes,
    write_index,
    write_streamed,
)
from refquant.storage.streaming import SHARD_BYTES

KEPT_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "special_tokens_map.json")
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


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightOnDisk:
    """A quantized weight as it is written: what the description says of it, and its parts by their full names."""

    entry: WeightEntry
    parts: Mapping[str, TensorSource]

    @classmethod
    def of(cls, name: str, weight: Quantized) -> WeightOnDisk:
        """The weight of a linear, from memory."""
        return cls(entry=weight_entry(weight), parts={f"{name}.{part}": TensorSource.of(array) for part, array in weight.parts().items()})


def weight_entry(weight: Quantized) -> WeightEntry:
    """What the description says of a weight."""
    return WeightEntry(
        spec=weight.spec.to_json(),
        method=weight.origin.method,
        version=weight.origin.version,
        parameters=dict(weight.origin.parameters),
        digest=weight.digest(),
        bits_per_weight=str(weight.bits_per_weight),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FilledShard:
    """A file of tensors that is complete: the digests of the kept tensors in it, and the linears whose parts are in it."""

    file: str
    untouched: Mapping[str, str]
    weights: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardLog:
    """Which files an earlier run completed, and whom to tell of more.

    Parameters
    ----------
    complete : mapping of str to mapping
        By file name: digests of the kept tensors in it.
    tell : callable
        Called with each file as it is complete and synced.
    """

    complete: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    tell: Callable[[FilledShard], None] = lambda shard: None


def save_quantized(path: Path, source: Path, quantized: QuantizedModel, provenance: Provenance, shard_bytes: int = SHARD_BYTES) -> None:
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
    shard_bytes : int
        Most bytes of tensors in one file.

    Raises
    ------
    UsageError, InputError
        If `path` exists or cannot be written; nothing is left behind.
    """
    weights = {name: WeightOnDisk.of(name, weight) for name, weight in quantized.weights.items()}
    groups = gather_groups(source, weights, quantized)
    with new_directory(path) as folder:
        fill_folder(folder, source, groups, weights, quantized, provenance, shard_bytes=shard_bytes)


def gather_groups(source: Path, weights: Mapping[str, WeightOnDisk], quantized: QuantizedModel) -> dict[str, Mapping[str, TensorSource]]:
    """All tensors of a folder, in groups that stay in one file: the parts of a linear together, kept tensors one by one.

    Parameters
    ----------
    source : Path
        Folder of the full-precision checkpoint.
    weights : mapping of str to WeightOnDisk
    quantized : QuantizedModel
        Its weights are not looked at.

    Raises
    ------
    InputError
        If a quantized linear is not in the checkpoint, or two tensors would have one name.
    """
    stored = open_checkpoint(source)
    replaced = {f"{name}.weight" for name in weights}
    absent = sorted(replaced - set(stored.names))
    if absent:
        raise InputError(f"{source}: {absent[0]} was quantized but is not in this checkpoint")
    changed = quantized.rewritten.tensors
    kept = {name: TensorSource.stored(stored, name) for name in stored.names if name not in replaced | set(changed)}
    kept |= {name: TensorSource.of(array) for name, array in changed.items()}
    parts = {name: one for weight in weights.values() for name, one in weight.parts.items()}
    arrays = {name: TensorSource.of(array) for name, array in run_time_arrays(quantized).items()}
    both = sorted((set(kept) & set(parts)) | (set(kept) | set(parts)) & set(arrays))
    if both:
        raise InputError(f"{source}: the tensor {both[0]} has the name of a quantized weight's part or a transform's")
    groups: dict[str, Mapping[str, TensorSource]] = {name: {name: one} for name, one in (kept | arrays).items()}
    groups |= {f"{name}.weight": weight.parts for name, weight in weights.items()}
    return dict(sorted(groups.items()))


def fill_folder(
    folder: Path,
    source: Path,
    groups: Mapping[str, Mapping[str, TensorSource]],
    weights: Mapping[str, WeightOnDisk],
    quantized: QuantizedModel,
    provenance: Provenance,
    *,
    log: ShardLog | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write everything that belongs into a quantized folder: shards one by one, copies, the index, and the description last.

    Parameters
    ----------
    folder : Path
        Exists; files of the same names are replaced.
    source, groups, weights, quantized, provenance
        As in :func:`gather_groups` and :func:`save_quantized`.
    log : ShardLog, optional
    shard_bytes : int
    """
    log = log or ShardLog()
    names, untouched, homes = list(groups), dict[str, str](), dict[str, str]()
    sizes = [sum(one.nbytes for one in groups[name].values()) for name in names]
    shards = plan_shards(sizes, shard_bytes)
    linears = {f"{name}.weight": name for name in weights}
    for shard in shards:
        owners = [names[group] for group in shard.groups]
        tensors = {name: one for owner in owners for name, one in groups[owner].items()}
        homes |= dict.fromkeys(tensors, shard.file)
        if shard.file not in log.complete:
            kept = {owner for owner in owners if owner not in linears}
            found = _write_shard(folder / shard.file, tensors, kept)
            log.tell(FilledShard(file=shard.file, untouched=found, weights=tuple(linears[owner] for owner in owners if owner in linears)))
            untouched |= found
        untouched |= log.complete.get(shard.file, {})
    files = {name: read_whole(source / name) for name in KEPT_FILES if (source / name).is_file()}
    if quantized.rewritten.untied:
        files["config.json"] = _untied_config(files["config.json"])
    for name, data in files.items():
        write_bytes(folder / name, data)
    if len(shards) > 1:
        write_index(folder, homes, sum(sizes))
    entries = {name: weight.entry for name, weight in weights.items()}
    _describe(quantized, entries, provenance, untouched, {name: digest(data) for name, data in files.items()}).write(folder)


def _write_shard(path: Path, tensors: Mapping[str, TensorSource], kept: set[str]) -> dict[str, str]:
    """Write a file of tensors; returns the digests of the kept ones, taken while their bytes pass."""
    hashes = {name: hashlib.sha256(canonical_json([tensors[name].dtype.name, list(tensors[name].shape)]).encode() + b"\n") for name in kept}

    def watched(name: str, source: TensorSource) -> TensorSource:
        def pieces() -> Iterator[bytes | memoryview]:
            for piece in source.pieces():
                hashes[name].update(piece)
                yield piece

        return TensorSource(dtype=source.dtype, shape=source.shape, pieces=pieces)

    write_streamed(path, {name: watched(name, one) if name in kept else one for name, one in tensors.items()}, {"format": "pt"})
    return {name: found.hexdigest() for name, found in hashes.items()}


def run_time_arrays(quantized: QuantizedModel) -> dict[str, Array]:
    """Arrays that a quantized model needs at run time besides its tensors, by the names that they are stored under.

    They are those of online transforms and of corrections of the attention output.
    """
    corrections = quantized.corrections.items()
    matrices = {correction_name(index, part): getattr(one, part) for index, one in corrections for part in CORRECTION_PARTS}
    return _rewritten_entry(quantized.rewritten)[1] | matrices


def correction_name(index: int, part: str) -> str:
    """What an array of a block's correction of the attention output is called among the tensors."""
    return f"blocks.{index}.attention_output.{part}"


def read_whole(path: Path) -> bytes:
    """Bytes of a small file; InputError if it cannot be read."""
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
    quantized: QuantizedModel, weights: Mapping[str, WeightEntry], provenance: Provenance, untouched: dict[str, str], files: dict[str, str]
) -> Description:
    return Description(
        schema_version=SCHEMA_VERSION,
        recipe=quantized.recipe.to_dict(),
        input_digest=provenance.input_digest,
        calibration_digest=provenance.calibration_digest,
        seed=provenance.seed,
        run_digest=provenance.run_digest,
        weights=dict(weights),
        activation_scales={name: GridEntry.of(grid) for name, grid in quantized.input_grids.items()},
        value_scales={str(index): GridEntry.of(grid) for index, grid in quantized.value_grids.items()},
        value_alphas={str(index): list(alphas) for index, alphas in quantized.value_alphas.items()},
        untouched=untouched,
        files=files,
        rewritten=_rewritten_entry(quantized.rewritten)[0],
        corrections=sorted(quantized.corrections),
    )
