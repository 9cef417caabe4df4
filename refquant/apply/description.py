"""``quantization.json``: what a quantized folder says of itself, typed, and covered by its own digest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from refquant.core import Grid
from refquant.core.transform import Transform, transform_kind
from refquant.errors import InputError
from refquant.numerics.arrays import Array
from refquant.numerics.casting import float_dtype
from refquant.storage import canonical_json, digest, read_json, write_text
from refquant.storage.tensors import little_endian_bytes

SCHEMA_VERSION = 1
DESCRIPTION = "quantization.json"


@dataclass(frozen=True, kw_only=True)
class WeightEntry:
    """One quantized weight: its spec as canonical JSON, who made it, the digest of its parts."""

    spec: str
    method: str
    version: str
    parameters: dict[str, str | int | float | bool | None]
    digest: str
    bits_per_weight: str


@dataclass(frozen=True, kw_only=True)
class GridEntry:
    """A calibrated grid; its numbers are written so that they read back exactly."""

    shape: list[int]
    dtype: str
    scale: list[float]
    zero: list[float] | None
    zero_dtype: str | None

    @classmethod
    def of(cls, grid: Grid) -> GridEntry:
        """Write a grid down."""
        zero = grid.zero
        return cls(
            shape=list(grid.scale.shape),
            dtype=grid.scale.dtype.name,
            scale=[float(value) for value in grid.scale.ravel()],
            zero=None if zero is None else [float(value) for value in zero.ravel()],
            zero_dtype=None if zero is None else zero.dtype.name,
        )

    def grid(self) -> Grid:
        """Read the grid; ValueError or TypeError if the numbers do not make one."""
        scale = np.array(self.scale, dtype=np.float64).reshape(self.shape).astype(float_dtype(self.dtype))
        if self.zero is None:
            return Grid(scale=scale, zero=None)
        return Grid(scale=scale, zero=np.array(self.zero).reshape(self.shape).astype(np.dtype(self.zero_dtype)))


@dataclass(frozen=True, kw_only=True)
class TransformEntry:
    """A transform of a rewrite: its kind, its settings, and what its arrays are called among the tensors."""

    kind: str
    settings: dict[str, str | int | float | bool | None]
    parts: dict[str, str]

    @classmethod
    def of(cls, transform: Transform, prefix: str) -> TransformEntry:
        """Write a transform down whose arrays are stored under a prefix."""
        return cls(kind=transform.kind, settings=transform.settings(), parts={part: f"{prefix}.{part}" for part in transform.parts()})

    def transform(self, tensors: Mapping[str, Array]) -> Transform:
        """Read the transform; InputError if an array is missing or they do not make one."""
        for name in self.parts.values():
            if name not in tensors:
                raise InputError(f"{name} is missing, which {DESCRIPTION} promises")
        return transform_kind(self.kind).from_parts({part: tensors[name] for part, name in self.parts.items()}, self.settings)


@dataclass(frozen=True, kw_only=True)
class RewrittenEntry:
    """What rewrites left besides quantized weights; the tensors lie among the untouched ones, whose digests cover them.

    Parameters
    ----------
    tensors : list of str
        Rewritten ones, by full name.
    online : dict of list of TransformEntry
        By linear.
    scores : dict of TransformEntry
        By block.
    untied : bool
        Whether the model got a head of its own; ``config.json`` says so, too.
    notes : list of dict
        What was chosen.
    """

    tensors: list[str] = field(default_factory=list)
    online: dict[str, list[TransformEntry]] = field(default_factory=dict)
    scores: dict[str, TransformEntry] = field(default_factory=dict)
    untied: bool = False
    notes: list[dict[str, str | int | float]] = field(default_factory=list)

    @property
    def parts(self) -> set[str]:
        """Names of all stored arrays of transforms."""
        entries = [entry for found in self.online.values() for entry in found] + list(self.scores.values())
        return {name for entry in entries for name in entry.parts.values()}


@dataclass(frozen=True, kw_only=True)
class Description:
    """All that ``quantization.json`` holds.

    Parameters
    ----------
    schema_version : int
    recipe : dict
    input_digest, calibration_digest, seed, run_digest
        See :class:`refquant.apply.checkpoint.Provenance`.
    weights : dict of WeightEntry
    activation_scales : dict of GridEntry
        By linear.
    value_scales : dict of GridEntry
        By block.
    value_alphas : dict of list
        By block.
    untouched : dict of str
        Digest of every tensor that was kept as it was.
    files : dict of str
        SHA-256 of the files beside the tensors, such as ``config.json``.
    rewritten : RewrittenEntry
    corrections : list of int
        Blocks whose attention output is corrected; the maps lie among the untouched tensors.
    digest : str
        SHA-256 over the canonical JSON of all the rest.
    """

    schema_version: int
    recipe: dict[str, Any]
    input_digest: str
    calibration_digest: str
    seed: int
    run_digest: str
    weights: dict[str, WeightEntry]
    activation_scales: dict[str, GridEntry]
    value_scales: dict[str, GridEntry]
    value_alphas: dict[str, list[float]]
    untouched: dict[str, str]
    files: dict[str, str]
    rewritten: RewrittenEntry = field(default_factory=RewrittenEntry)
    corrections: list[int] = field(default_factory=list)
    digest: str = field(default="")

    def write(self, folder: Path) -> None:
        """Write ``quantization.json`` into a folder, with its digest."""
        tree = msgspec.to_builtins(replace(self, digest=""))
        del tree["digest"]
        tree["digest"] = digest(canonical_json(tree))
        write_text(folder / DESCRIPTION, canonical_json(tree) + "\n")


def read_description(folder: Path) -> Description:
    """Read ``quantization.json`` and check it against its own digest.

    Raises
    ------
    InputError
        If there is none, it is of another schema version, changed since it was written, or not what is expected.
    """
    where = folder / DESCRIPTION
    if not where.is_file():
        raise InputError(f"{folder}: not a quantized folder: it holds no {DESCRIPTION}")
    tree = read_json(where)
    if tree.get("schema_version") != SCHEMA_VERSION:
        raise InputError(f"{where}: schema_version is {tree.get('schema_version')!r}; this version reads {SCHEMA_VERSION}")
    recorded = tree.get("digest")
    found = digest(canonical_json({key: value for key, value in tree.items() if key != "digest"}))
    if recorded != found:
        raise InputError(f"{where}: changed since it was written: its digest is {found[:12]}..., {str(recorded)[:12]}... was recorded")
    try:
        return msgspec.convert(tree, Description, strict=True)
    except msgspec.ValidationError as error:
        raise InputError(f"{where}: {error}") from error


def tensor_digest(array: Array) -> str:
    """SHA-256 over dtype, shape and little-endian bytes of a tensor."""
    found = hashlib.sha256(canonical_json([array.dtype.name, list(array.shape)]).encode() + b"\n")
    found.update(little_endian_bytes(array).data)
    return found.hexdigest()


def check_digests(what: str, found: Mapping[str, str], recorded: Mapping[str, str]) -> None:
    """Raise InputError unless both name the same things with the same digests."""
    for name in sorted({*found, *recorded}):
        if name not in found:
            raise InputError(f"{what}: {name} is missing, which {DESCRIPTION} promises")
        if name not in recorded:
            raise InputError(f"{what}: {name} is not recorded in {DESCRIPTION}")
        if found[name] != recorded[name]:
            raise InputError(f"{what}: {name} is damaged: its digest is {found[name][:12]}..., {recorded[name][:12]}... was recorded")
