"""Other people's quantized folders as our own: codes, scales and zero points as they are, nothing computed anew.

A layout is one line of :data:`IMPORTERS`: a function that reads a folder or file. What it was made of and with is not in such files, so the
recipe of the result says only what the weights look like.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from refquant.apply.checkpoint import KEPT_FILES, Provenance, save_quantized
from refquant.apply.linear_layout import LinearLayout, Settings
from refquant.apply.linear_layouts import LINEAR_LAYOUTS
from refquant.apply.quantized import QuantizedModel
from refquant.apply.recipe import Recipe
from refquant.core import QTensor, QuantSpec, Tiling
from refquant.core import spec as named_spec
from refquant.core.block_formats import BLOCK_FORMATS, block_name
from refquant.errors import InputError, UsageError
from refquant.formats import IntFormat
from refquant.numerics.arrays import Array
from refquant.storage import (
    Checkpoint,
    canonical_json,
    digest,
    new_directory,
    open_checkpoint,
    read_json,
    write_bytes,
    write_tensors,
    write_text,
)
from refquant.storage.border import quoted

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
    weights : mapping of QTensor
        By linear.
    untouched : mapping of ndarray
        Every other tensor, by full name.
    digest : str
        SHA-256 of what was read.
    files : mapping of bytes
        Tokenizer and the like.
    """

    layout: str
    variant: str
    config: Mapping[str, Any]
    weights: Mapping[str, QTensor]
    untouched: Mapping[str, Array]
    digest: str
    files: Mapping[str, bytes] = field(default_factory=dict)


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


def import_folder(path: Path, out: Path, *, layout: str = "", variant: str = "") -> Imported:
    """Read a folder or file of another layout and write it as a quantized folder, or as a plain one if nothing in it is quantized.

    Parameters
    ----------
    path : Path
    out : Path
        Must not exist.
    layout : str
        A key of :data:`IMPORTERS`; empty for what :func:`detect` says.
    variant : str
        Instead of what the file says of itself, where it is wrong.

    Raises
    ------
    UsageError
        If layout or variant is unknown.
    InputError
        If the file is damaged or holds what a quantized folder cannot, or `out` exists.
    """
    found = find_importer(layout or detect(path))(path, variant=variant)
    if not found.weights:
        with new_directory(out) as folder:
            _write_dense(found, folder)
        return found
    recipe = weight_recipe(found)
    quantized = QuantizedModel(recipe=recipe, weights=found.weights)
    run = digest(canonical_json([recipe.digest(), found.digest]))
    with tempfile.TemporaryDirectory() as temporary:
        # The folder that this would be without quantization: what a quantized folder is written from.
        _write_dense(found, Path(temporary))
        provenance = Provenance(input_digest=found.digest, calibration_digest="", seed=0, run_digest=run)
        save_quantized(out, Path(temporary), quantized, provenance)
    return found


def _write_dense(found: Imported, folder: Path) -> None:
    """The checkpoint with plain weights in the place of quantized ones."""
    write_text(folder / "config.json", json.dumps(found.config, indent=2, ensure_ascii=False) + "\n")
    for name, data in found.files.items():
        write_bytes(folder / name, data)
    dense = {f"{name}.weight": weight.dequantize() for name, weight in found.weights.items()}
    write_tensors(folder / "model.safetensors", dense | dict(found.untouched), {"format": "pt"})


def weight_recipe(found: Imported) -> Recipe:
    """The recipe that says what the weights look like.

    Raises
    ------
    InputError
        If they do not all look alike, or linears of one last name are quantized in one block and not in another: recipes skip by last name.
    """
    first = next(iter(found.weights))
    spec = found.weights[first].spec
    for name, weight in found.weights.items():
        if weight.spec != spec:
            raise InputError(f"{first} and {name} are quantized differently; a quantized folder has one recipe for all")
    quantized = {name.rpartition(".")[2] for name in found.weights}
    blocks = {name.rpartition(".")[0] for name in found.weights}
    plain = {
        name.removesuffix(".weight")
        for name, array in found.untouched.items()
        if name.endswith(".weight") and array.ndim == 2 and name.removesuffix(".weight").rpartition(".")[0] in blocks
    }
    both = sorted(name for name in plain if name.rpartition(".")[2] in quantized)
    if both:
        raise InputError(f"{both[0]} is not quantized although others of its kind are; a quantized folder skips kinds of linears")
    return Recipe(name=f"imported-{found.layout}").replace(
        description=f"Imported from the {found.layout} layout ({found.variant})",
        weights=_weight_fields(spec),
        calibration={"states": "none"},
        skip=tuple(sorted({name.rpartition(".")[2] for name in plain})),
    )


def _weight_fields(spec: QuantSpec) -> dict[str, Any]:
    if not isinstance(spec.format, IntFormat):
        named = _block_names(spec)
        if spec.scales is None and not named and spec.tiling == Tiling.channel():
            return {"method": "rtn", "format": spec.format.name, "group_size": -1, "scale_format": spec.scale_format or ""}
        if not named:
            raise InputError(f"{spec.format.name} in tiles {spec.tiling.extents}; recipes have no name for this block format")
        return {"method": "rtn", "format": named[0]}
    size = spec.tiling.extents[1]
    if spec.tiling.extents[0] is None:
        raise InputError("one scale a tensor; a quantized folder has at least one for each row")
    return {
        "method": "rtn",
        "bits": spec.format.bits,
        "scheme": spec.scheme.name,
        "group_size": -1 if size is None else size,
        "scale_format": spec.scale_format or "",
    }


def _block_names(spec: QuantSpec) -> list[str]:
    """Names of the block formats that a spec is, with the block it has."""
    size = spec.tiling.extents[-1]
    tried = [block_name(block, size) if block.any_block and size is not None else name for name, block in BLOCK_FORMATS.items()]
    return [name for name in tried if named_spec(name) == spec]


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
        weights={name: read_linear(layout, opened, name) for name in opened.linears},
        untouched={name: opened.stored.read(name) for name in opened.untouched},
        digest=digest(canonical_json([opened.stored.digest(), dict(opened.config)])),
        files=files,
    )
