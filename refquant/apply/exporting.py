"""Folders in other people's layouts: exact, or refused, or requantized with the loss said.

A layout is one line of :data:`EXPORTERS`: a function that writes an :class:`ExportSource` into an empty folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

import model
from model import Config
from refquant.apply.checkpoint import KEPT_FILES, is_quantized
from refquant.apply.description import DESCRIPTION, read_description
from refquant.apply.lazy_tensors import ReadAtUse, source_at_use
from refquant.apply.quantized import table_names
from refquant.apply.recipe import Recipe
from refquant.apply.saving import CORRECTION_PARTS, correction_name
from refquant.apply.stored_parts import PARTS, read_weight
from refquant.apply.verifying import verify_folder
from refquant.core.metrics import noise_to_signal
from refquant.core.qtensor import Quantized
from refquant.errors import InputError, UsageError
from refquant.numerics.arrays import Array
from refquant.storage import Checkpoint, TensorSource, new_directory, open_checkpoint, read_json
from refquant.storage.streaming import SHARD_BYTES

EXPORTERS: dict[str, str] = {
    "gptq": "refquant.apply.export_linears:write_gptq",
    "awq": "refquant.apply.export_linears:write_awq",
    "compressed-tensors": "refquant.apply.export_linears:write_compressed_tensors",
    "bitsandbytes": "refquant.apply.export_linears:write_bitsandbytes",
    "mx": "refquant.apply.export_linears:write_mx",
    "gguf": "refquant.apply.gguf_export:write_gguf_folder",
    "dequantized": "refquant.apply.export_linears:write_dequantized",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSource:
    """The folder to export, checked; its tensors are read when they are asked for, every time.

    Parameters
    ----------
    folder : Path
    stored : Checkpoint
        Its tensors.
    config : dict
        ``config.json``.
    weights : mapping of Quantized or ndarray
        By linear; arrays where it is in full precision.
    tables : mapping of Quantized
        Embedding and head where they are quantized, as in folders that were imported from GGUF; without ``.weight``.
    untouched : mapping of ndarray
        Every other tensor, and the numbers of the tables, by full name.
    files : tuple of Path
        Tokenizer and the like, to be copied.
    shard_bytes : int
        Most bytes of tensors in one file of what is written.
    """

    folder: Path
    stored: Checkpoint
    config: Mapping[str, Any]
    weights: Mapping[str, Quantized | Array]
    tables: Mapping[str, Quantized]
    untouched: Mapping[str, Array]
    files: tuple[Path, ...]
    shard_bytes: int = SHARD_BYTES

    @property
    def plain(self) -> tuple[str, ...]:
        """Linears that are not quantized, embedding and head included: untouched matrices, without ``.weight``."""
        matrices = (name for name, one in self.kept().items() if name.endswith(".weight") and len(one.shape) == 2)
        return tuple(name.removesuffix(".weight") for name in matrices)

    def kept(self) -> dict[str, TensorSource]:
        """The untouched tensors, to be written."""
        found = {}
        for name in self.untouched:
            table = name.removesuffix(".weight")
            if table in self.tables:
                shape = self.stored.shape(f"{table}.codes")
                found[name] = source_at_use(np.dtype(np.float32), shape, lambda name=name: self.untouched[name])  # type: ignore[misc]
            else:
                found[name] = TensorSource.stored(self.stored, name)
        return found

    def notes(self) -> tuple[str, ...]:
        """What somebody has to know of an export to a layout of linears alone."""
        return (f"written as plain numbers: {', '.join(sorted(self.tables))}",) if self.tables else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What requantizing did to a weight: largest absolute change, and squared change over squared weight."""

    largest: float
    noise_to_signal: float

    @classmethod
    def between(cls, before: Array, after: Array) -> Loss:
        """Of one array and another of the same shape."""
        a, b = before.astype(np.float64, copy=False), after.astype(np.float64, copy=False)
        return cls(largest=float(np.max(np.abs(a - b), initial=0.0)), noise_to_signal=noise_to_signal(a, b) if a.size else 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written.

    Parameters
    ----------
    variant : str
    weights : int
        Linears that were written in the layout.
    bits_per_weight : Fraction
        Of these linears, every byte of the layout counted.
    losses : mapping of Loss
        By linear; empty if the export is exact.
    notes : tuple of str
        Whatever else somebody has to know.
    """

    variant: str
    weights: int
    bits_per_weight: Fraction
    losses: Mapping[str, Loss] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Exporter(Protocol):
    """Writes a source into an empty folder in one layout; an empty `variant` is the layout's default."""

    def __call__(self, source: ExportSource, out: Path, *, variant: str, requantize: bool) -> Exported:
        """See :class:`Exporter`; raises InputError for what the layout cannot hold, UsageError for an unknown variant."""


def find_exporter(layout: str) -> Exporter:
    """Look a layout up; UsageError naming those there are."""
    if layout not in EXPORTERS:
        raise UsageError(f"there is no layout {layout!r} to export to; there are {', '.join(EXPORTERS)}")
    module, _, name = EXPORTERS[layout].partition(":")
    return cast(Exporter, getattr(import_module(module), name))


def chosen_variant(layout: str, variants: Sequence[str], variant: str) -> str:
    """The variant that was asked for, or the first; UsageError if there is none of that name."""
    if variant and variant not in variants:
        raise UsageError(f"variants of {layout} are {', '.join(variants)}, not {variant!r}")
    return variant or variants[0]


def export(
    folder: Path,
    layout: str,
    out: Path,
    *,
    variant: str = "",
    requantize: bool = False,
    weights_only: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> Exported:
    """Write a folder in another layout, a linear at a time.

    Parameters
    ----------
    folder : Path
        A quantized folder, or, with `requantize`, a full-precision checkpoint.
    layout : str
        A key of :data:`EXPORTERS`.
    out : Path
        Must not exist.
    variant : str
        Of the layout; empty for its default.
    requantize : bool
        Round what the layout cannot hold to what it can, and say how much was lost.
    weights_only : bool
        Leave out the recipe's quantization of activations, attention and cache, of which these layouts know nothing.
    shard_bytes : int
        Most bytes of tensors in one safetensors file.

    Raises
    ------
    UsageError
        If layout or variant is unknown.
    InputError
        If the layout cannot hold the folder, naming what it cannot hold; or `folder` is damaged, or `out` exists.
    """
    exporter = find_exporter(layout)
    source, left_out = replace(read_source(folder), shard_bytes=shard_bytes), beyond_weights(folder)
    if left_out and not weights_only:
        found = ", ".join(left_out)
        raise InputError(f"{folder}: layout {layout} holds weights, and this folder also quantizes {found}; --weights-only drops that")
    with new_directory(out) as temporary:
        written = exporter(source, temporary, variant=variant, requantize=requantize)
    notes = (f"left out: quantization of {', '.join(left_out)}",) if left_out else ()
    return replace(written, notes=(*notes, *written.notes))


def read_source(folder: Path) -> ExportSource:
    """Check a folder, quantized or not, and have it ready to be read; errors as of :func:`refquant.apply.checkpoint.load`."""
    stored = open_checkpoint(folder)
    config = read_json(folder / "config.json")
    hidden: set[str]
    weights: Mapping[str, Quantized | Array]
    tables: Mapping[str, Quantized] = {}
    if is_quantized(folder):
        description = verify_folder(folder)
        if description.rewritten.online or description.rewritten.scores:
            raise InputError(f"{folder}: linears have transforms of their inputs at run time, which no layout of weights holds")
        no_linears = set(table_names(Config.from_dict(config, str(folder / "config.json")).architecture()))

        def read(name: str) -> Quantized:
            return read_weight(stored, name, description.weights[name], stored.directory / DESCRIPTION)

        weights = ReadAtUse([name for name in description.weights if name not in no_linears], read)
        tables = ReadAtUse([name for name in description.weights if name in no_linears], read)
        hidden = {f"{name}.{part}" for name in description.weights for part in PARTS}
        hidden |= {correction_name(index, part) for index in description.corrections for part in CORRECTION_PARTS}
    else:
        weights = ReadAtUse(tuple(model.load(folder, stream=True).linears), lambda name: stored.read(f"{name}.weight"))
        hidden = {f"{name}.weight" for name in weights}
    decoded = {f"{name}.weight": name for name in tables}

    def untouched(name: str) -> Array:
        return tables[decoded[name]].dequantize(np.dtype(np.float32)) if name in decoded else stored.read(name)

    return ExportSource(
        folder=folder,
        stored=stored,
        config=config,
        weights=weights,
        tables=tables,
        untouched=ReadAtUse(sorted({*decoded, *(name for name in stored.names if name not in hidden)}), untouched),
        files=tuple(folder / name for name in KEPT_FILES if name != "config.json" and (folder / name).is_file()),
    )


def beyond_weights(folder: Path) -> list[str]:
    """What the recipe of a quantized folder quantizes besides weights, or corrects."""
    if not is_quantized(folder):
        return []
    description = read_description(folder)
    recipe = Recipe.from_dict(description.recipe, f"{folder / DESCRIPTION}: recipe")
    found = {
        "activations": recipe.activations.method != "none",
        "queries and keys": recipe.queries_keys.method != "none",
        "values": recipe.values.method != "none",
        "attention probabilities": bool(recipe.probabilities.bits),
        "the attention output, which it corrects": bool(description.corrections),
    }
    return [name for name, there in found.items() if there]
