"""Other people's quantized folders as our own: codes, scales and zero points as they are, nothing computed anew.

A layout is one line of :data:`IMPORTERS`: a function that reads a folder or file. What it was made of and with is not in such files, so the
recipe of the result says only what the weights look like.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from refquant.apply.imported_recipe import folder_recipe, weight_recipe
from refquant.apply.lazy_tensors import ReadAtUse, Spool, stored_tensors, write_shards
from refquant.apply.linear_layout import LinearLayout, Settings
from refquant.apply.linear_layouts import LINEAR_LAYOUTS
from refquant.apply.quantized import QuantizedModel
from refquant.apply.saving import KEPT_FILES, Provenance, WeightOnDisk, fill_folder, weight_entry
from refquant.core import QTensor
from refquant.core.qtensor import Described, Quantized
from refquant.errors import InputError, UsageError
from refquant.numerics.arrays import Array
from refquant.storage import (
    Checkpoint,
    TensorSource,
    canonical_json,
    digest,
    new_directory,
    open_checkpoint,
    read_json,
    write_bytes,
    write_text,
)
from refquant.storage.border import quoted
from refquant.storage.streaming import SHARD_BYTES

IMPORTERS: dict[str, str] = {
    "gptq": "refquant.apply.importing:read_gptq",
    "awq": "refquant.apply.importing:read_awq",
    "compressed-tensors": "refquant.apply.importing:read_compressed_tensors",
    "bitsandbytes": "refquant.apply.importing:read_bitsandbytes",
    "mx": "refquant.apply.importing:read_mx",
    "gguf": "refquant.apply.gguf_import:read_gguf_model",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What a folder or file of another layout holds.

    Parameters
    ----------
    layout, variant : str
    config : dict
        ``config.json`` without the quantization block.
    weights : mapping of Quantized
        By linear; perhaps embedding and head as well.
    untouched : mapping of ndarray
        Every other tensor, by full name.
    digest : str
        SHA-256 of what was read.
    files : mapping of bytes
        Tokenizer and the like.
    sources : mapping of TensorSource
        The untouched tensors again, where they can be read piece by piece.
    linears : tuple of str
        Of the whole model, quantized or not, where the layout says of each by itself what it is; empty where all have to be alike.
    elements, total_bits : int
        Of all weights together; 0 until they were gone through.
    """

    layout: str
    variant: str
    config: Mapping[str, Any]
    weights: Mapping[str, Quantized]
    untouched: Mapping[str, Array]
    digest: str
    files: Mapping[str, bytes] = field(default_factory=dict)
    sources: Mapping[str, TensorSource] = field(default_factory=dict)
    linears: tuple[str, ...] = ()
    elements: int = 0
    total_bits: int = 0

    @property
    def tables(self) -> tuple[str, ...]:
        """Those of the weights that are no linears: embedding and head."""
        return tuple(name for name in self.weights if self.linears and name not in self.linears)

    def kept(self) -> dict[str, TensorSource]:
        """The untouched tensors, to be written."""
        return dict(self.sources) or {name: TensorSource.of(array) for name, array in self.untouched.items()}


class Importer(Protocol):
    """Reads a folder or file; an empty `variant` is what it says of itself. Raises InputError for what cannot be read."""

    def __call__(self, path: Path, *, variant: str) -> Imported:
        """See :class:`Importer`."""


def find_importer(layout: str) -> Importer:
    """Look a layout up; UsageError naming those there are."""
    if layout not in IMPORTERS:
        raise UsageError(f"there is no layout {layout!r} to import from; there are {', '.join(IMPORTERS)}")
    module, _, name = IMPORTERS[layout].partition(":")
    return cast(Importer, getattr(import_module(module), name))


def detect(path: Path) -> str:
    """The layout that a folder's ``config.json`` names; InputError if it names none that is known.

    A file that ends in ``.gguf`` is GGUF, and so is a folder that holds ``model.gguf``.
    """
    if path.suffix == ".gguf" or (path / "model.gguf").is_file():
        return "gguf"
    block = quantization_block(path, read_json(path / "config.json")) if path.is_dir() else None
    if block is None:
        raise InputError(f"{path}: no quantization_config in its config.json says how it is quantized; say it with --from")
    method = block.get("quant_method")
    for layout in LINEAR_LAYOUTS.values():
        if layout.method == method:
            return layout.name
    raise InputError(f"{path}: quant_method is {quoted(method)}; known are {', '.join(x.method for x in LINEAR_LAYOUTS.values())}")


def quantization_block(path: Path, config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What a folder says of its quantization: in ``config.json``, or, as AutoGPTQ did, in ``quantize_config.json``; None if nothing."""
    block = config.get("quantization_config")
    if isinstance(block, dict):
        return block
    older = path / "quantize_config.json"
    return {"quant_method": "gptq", **read_json(older)} if older.is_file() else None


def import_folder(path: Path, out: Path, *, layout: str = "", variant: str = "", shard_bytes: int = SHARD_BYTES) -> Imported:
    """Read a folder or file of another layout and write it as a quantized folder, or as a plain one if nothing in it is quantized.

    Linears are read, checked and put aside one at a time.

    Parameters
    ----------
    path : Path
    out : Path
        Must not exist.
    layout : str
        A key of :data:`IMPORTERS`; empty for what :func:`detect` says.
    variant : str
        Instead of what the file says of itself, where it is wrong.
    shard_bytes : int
        Most bytes of tensors in one file.

    Raises
    ------
    UsageError
        If layout or variant is unknown.
    InputError
        If the file is damaged or holds what a quantized folder cannot, or `out` exists.
    """
    found = find_importer(layout or detect(path))(path, variant=variant)
    with new_directory(out) as folder, tempfile.TemporaryDirectory(dir=folder) as waiting:
        plain = Path(waiting) / "plain"  # the files of the folder that this would be without quantization
        plain.mkdir()
        write_text(plain / "config.json", json.dumps(found.config, indent=2, ensure_ascii=False) + "\n")
        for name, data in found.files.items():
            write_bytes(plain / name, data)
        kept: dict[str, Mapping[str, TensorSource]] = {name: {name: one} for name, one in found.kept().items()}
        if not found.weights:
            for file in plain.iterdir():
                file.rename(folder / file.name)
            write_shards(folder, kept, shard_bytes)
            return found
        return _write_quantized(found, folder, plain, kept, shard_bytes)


def _write_quantized(
    found: Imported, folder: Path, plain: Path, kept: Mapping[str, Mapping[str, TensorSource]], shard_bytes: int
) -> Imported:
    spool, specs, weights = Spool(plain), dict[str, Described](), dict[str, WeightOnDisk]()
    elements = total_bits = 0
    for name in found.weights:
        weight = found.weights[name]
        specs[name] = weight.spec
        weights[name] = WeightOnDisk(entry=weight_entry(weight), parts=spool.put(name, weight.parts()))
        elements, total_bits = elements + math.prod(weight.shape), total_bits + weight.total_bits
    both = sorted({part for one in weights.values() for part in one.parts} & set(kept))
    if both:
        raise InputError(f"the tensor {both[0]} has the name of a quantized weight's part")
    matrices = [name for name, one in found.kept().items() if len(one.shape) == 2]
    if found.linears:
        recipe = folder_recipe(found.layout, found.variant, specs, found.linears)
    else:
        recipe = weight_recipe(found.layout, found.variant, specs, matrices)
    run = digest(canonical_json([recipe.digest(), found.digest]))
    provenance = Provenance(input_digest=found.digest, calibration_digest="", seed=0, run_digest=run)
    groups = dict(sorted({**kept, **{f"{name}.weight": one.parts for name, one in weights.items()}}.items()))
    fill_folder(folder, plain, groups, weights, QuantizedModel(recipe=recipe, weights={}), provenance, shard_bytes=shard_bytes)
    return replace(found, elements=elements, total_bits=total_bits)


def read_gptq(path: Path, *, variant: str) -> Imported:
    """A folder in GPTQ's layout."""
    return _read(LINEAR_LAYOUTS["gptq"], path, variant)


def read_awq(path: Path, *, variant: str) -> Imported:
    """A folder in AWQ's layout."""
    return _read(LINEAR_LAYOUTS["awq"], path, variant)


def read_compressed_tensors(path: Path, *, variant: str) -> Imported:
    """A folder of compressed-tensors."""
    return _read(LINEAR_LAYOUTS["compressed-tensors"], path, variant)


def read_bitsandbytes(path: Path, *, variant: str) -> Imported:
    """A folder with 4-bit linears of bitsandbytes."""
    return _read(LINEAR_LAYOUTS["bitsandbytes"], path, variant)


def read_mx(path: Path, *, variant: str) -> Imported:
    """A folder with MX or NVFP4 linears as torchao and modelopt keep them."""
    return _read(LINEAR_LAYOUTS["mx"], path, variant)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedLinears:
    """A folder in a layout of linears, before its tensors are read.

    Parameters
    ----------
    stored : Checkpoint
    config : dict
        ``config.json``, with the quantization block wherever it stood.
    settings : Settings
    linears : tuple of str
    suffixes : tuple of str
        Names of a linear's parts, all that may be there.
    """

    stored: Checkpoint
    config: Mapping[str, Any]
    settings: Settings
    linears: tuple[str, ...]
    suffixes: tuple[str, ...]

    def parts_of(self, name: str) -> list[str]:
        """Full names of the parts of a linear that are there."""
        return [f"{name}.{part}" for part in self.suffixes if f"{name}.{part}" in self.stored.names]

    @property
    def untouched(self) -> list[str]:
        """Names of all other tensors."""
        used = {f"{name}.{part}" for name in self.linears for part in self.suffixes}
        return [name for name in self.stored.names if name not in used]


def open_linears(layout: LinearLayout, path: Path, variant: str) -> OpenedLinears:
    """Open a folder and read what its ``config.json`` says; InputError or UsageError as :func:`import_folder`."""
    stored = open_checkpoint(path)
    config = read_json(path / "config.json")
    block = quantization_block(path, config)
    if block is None:
        raise InputError(f"{path}: config.json has no quantization_config")
    try:
        settings = layout.settings(block)
    except InputError as error:
        raise InputError(f"{path / 'config.json'}: {error}") from error
    if variant and variant not in layout.variants:
        raise UsageError(f"variants of {layout.name} are {', '.join(layout.variants)}, not {variant!r}")
    settings = Settings(variant=variant or settings.variant, spec=settings.spec)
    suffixes = layout.parts(settings.variant)
    linears = tuple(name.removesuffix(f".{suffixes[0]}") for name in stored.names if name.endswith(f".{suffixes[0]}"))
    if not linears:
        raise InputError(f"{path}: no linear in it has the tensors of the {layout.name} layout, {', '.join(suffixes)}")
    return OpenedLinears(
        stored=stored, config=dict(config) | {"quantization_config": dict(block)}, settings=settings, linears=linears, suffixes=suffixes
    )


def read_linear(layout: LinearLayout, opened: OpenedLinears, name: str) -> QTensor:
    """One linear of an opened folder; InputError naming it if its parts do not fit."""
    parts = {full.removeprefix(f"{name}."): opened.stored.read(full) for full in opened.parts_of(name)}
    try:
        return layout.unpack(parts, opened.settings)
    except InputError as error:
        raise InputError(f"{opened.stored.directory}: {name}: {error}") from error


def _read(layout: LinearLayout, path: Path, variant: str) -> Imported:
    opened = open_linears(layout, path, variant)
    files = {name: (path / name).read_bytes() for name in KEPT_FILES if name != "config.json" and (path / name).is_file()}
    return Imported(
        layout=layout.name,
        variant=opened.settings.variant,
        config={key: value for key, value in opened.config.items() if key != "quantization_config"},
        weights=ReadAtUse(opened.linears, lambda name: read_linear(layout, opened, name)),
        untouched=stored_tensors(opened.stored, opened.untouched),
        sources={name: TensorSource.stored(opened.stored, name) for name in opened.untouched},
        digest=digest(canonical_json([opened.stored.digest(), dict(opened.config)])),
        files=files,
    )
