"""What is in a file or folder: tensors, formats, ranges, bits, histograms and hashes, one tensor in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from typing import cast

import numpy as np

from refquant.apply.checkpoint import is_quantized, read_weight
from refquant.apply.description import DESCRIPTION, read_description, tensor_digest
from refquant.apply.importing import detect, open_linears, quantization_block, read_linear
from refquant.apply.linear_layouts import LINEAR_LAYOUTS
from refquant.apply.spec_texts import format_text
from refquant.core import QTensor
from refquant.core.affine_tensor import AffineTensor
from refquant.core.binary_tensor import BinaryTensor
from refquant.core.qtensor import Quantized
from refquant.errors import InputError
from refquant.formats import IntFormat
from refquant.numerics.arrays import Array
from refquant.numerics.casting import as_float64
from refquant.storage import open_checkpoint, read_header, read_json
from refquant.storage.border import quoted, regular_file, telling
from refquant.storage.tensors import read_entry

BINS = 16
PIECE = 1 << 17
INSPECTORS: dict[str, str] = {
    ".safetensors": "refquant.apply.inspecting:safetensors_file",
    ".gguf": "refquant.apply.gguf_import:gguf_file",
}
"""By the end of a file's name: a function from its path to rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Smallest and largest of some numbers, and how many of them are not finite; None where there is no finite one."""

    low: float | None
    high: float | None
    not_finite: int = 0

    @classmethod
    def of(cls, array: Array) -> Range:
        """Of an array of any real dtype."""
        low, high, not_finite = np.inf, -np.inf, 0
        for values in _pieces(array):
            good = np.isfinite(values)
            not_finite += values.size - int(np.count_nonzero(good))
            low = min(low, float(np.min(values, initial=np.inf, where=good)))
            high = max(high, float(np.max(values, initial=-np.inf, where=good)))
        return cls(low=None, high=None, not_finite=not_finite) if low > high else cls(low=low, high=high, not_finite=not_finite)


def _pieces(array: Array) -> Iterator[Array]:
    """An array's numbers in float64, a few at a time: the whole of an embedding would take eight bytes for each."""
    flat = array.reshape(-1)
    for start in range(0, flat.size, PIECE):
        yield as_float64(flat[start : start + PIECE])


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One tensor, or one quantized linear with all its parts.

    Parameters
    ----------
    name, format : str
    shape : tuple of int
        Logical.
    stored_bits : int
        Of all its parts as they lie in the file.
    values : Range
        Of the numbers that it stands for.
    scales, zeros : Range, optional
        Zero points, or minima.
    counts : tuple of int
        Histogram: of every code in order of code where there are at most 16, else of `BINS` equal parts of the range of codes, or of
        numbers where nothing is quantized.
    digest : str
        SHA-256 over dtype, shape and bytes, or of the quantized tensor.
    """

    name: str
    format: str
    shape: tuple[int, ...]
    stored_bits: int
    values: Range
    scales: Range | None = None
    zeros: Range | None = None
    counts: tuple[int, ...] = ()
    digest: str

    @property
    def elements(self) -> int:
        """Numbers that the tensor has."""
        return int(np.prod(self.shape, dtype=object))

    @property
    def bits_per_weight(self) -> Fraction:
        """Bits in the file for each number; 0 for an empty tensor."""
        return Fraction(self.stored_bits, self.elements) if self.elements else Fraction(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """All of a file or folder: what it is, and its tensors as they are read."""

    kind: str
    rows: Iterator[Row]


def inspect(path: Path) -> Inspection:
    """Look into a file or folder.

    Parameters
    ----------
    path : Path
        A safetensors file (one that lies beside the ``config.json`` of a quantized model is read as that model), a checkpoint folder, a
        quantized folder of ours or of another program, or a file of a kind in :data:`INSPECTORS`.

    Raises
    ------
    InputError
        If it is none of these or damaged; for tensors, when their row is asked for.
    """
    with telling(path, "read"):
        folder = path if path.is_dir() else None
    if folder is None and path.name == "model.safetensors" and ((path.parent / "config.json").is_file() or is_quantized(path.parent)):
        folder = path.parent
    if folder is not None:
        return _folder(folder)
    inspector = next((target for suffix, target in INSPECTORS.items() if path.name.endswith(suffix)), None)
    if inspector is None:
        with regular_file(path):  # a missing file is told as one
            raise InputError(f"{path}: nothing known about such files; folders and {', '.join(INSPECTORS)} are read")
    module, _, name = inspector.partition(":")
    return cast(Inspection, getattr(import_module(module), name)(path))


def safetensors_file(path: Path) -> Inspection:
    """One safetensors file by itself."""
    header = read_header(path)

    def rows() -> Iterator[Row]:
        for name, entry in header.tensors.items():
            with regular_file(path) as (file, _):
                yield plain_row(name, read_entry(file, name, entry, path))

    return Inspection(kind="safetensors file", rows=rows())


def _folder(path: Path) -> Inspection:
    if is_quantized(path):
        return Inspection(kind="quantized folder", rows=_own_rows(path))
    config = read_json(path / "config.json") if (path / "config.json").is_file() else {}
    if quantization_block(path, config) is not None:
        layout = LINEAR_LAYOUTS[detect(path)]
        opened = open_linears(layout, path, "")

        def rows() -> Iterator[Row]:
            for name in opened.linears:
                stored_bits = sum(opened.stored.read(part).nbytes * 8 for part in opened.parts_of(name))
                yield quantized_row(name, read_linear(layout, opened, name), stored_bits)
            yield from (plain_row(name, opened.stored.read(name)) for name in opened.untouched)

        return Inspection(kind=f"{layout.name} folder ({opened.settings.variant})", rows=rows())
    stored = open_checkpoint(path)
    return Inspection(kind="checkpoint folder", rows=(plain_row(name, stored.read(name)) for name in stored.names))


def _own_rows(path: Path) -> Iterator[Row]:
    stored, description = open_checkpoint(path), read_description(path)
    used: set[str] = set()
    for name, entry in description.weights.items():
        weight = read_weight(stored, name, entry, path / DESCRIPTION)
        parts = weight.parts()
        used |= {f"{name}.{part}" for part in parts}
        yield quantized_row(name, weight, sum(array.nbytes * 8 for array in parts.values()))
    yield from (plain_row(name, stored.read(name)) for name in stored.names if name not in used)


def plain_row(name: str, array: Array) -> Row:
    """The row of an array."""
    found = Range.of(array)
    return Row(
        name=name,
        format=array.dtype.name,
        shape=array.shape,
        stored_bits=array.nbytes * 8,
        values=found,
        counts=histogram(array, found),
        digest=tensor_digest(array),
    )


def quantized_row(name: str, weight: Quantized, stored_bits: int) -> Row:
    """The row of a quantized tensor that takes so many bits in its file."""
    scales, zeros = _scale_ranges(weight)
    return Row(
        name=name,
        format=format_text(weight.spec),
        shape=weight.shape,
        stored_bits=stored_bits,
        values=Range.of(weight.dequantize()),
        scales=scales,
        zeros=zeros,
        counts=_code_counts(weight),
        digest=weight.digest(),
    )


def _scale_ranges(weight: Quantized) -> tuple[Range | None, Range | None]:
    """Ranges of scales, and of zero points or minima."""
    if isinstance(weight, QTensor):
        return Range.of(weight.scale), None if weight.zero is None else Range.of(weight.zero)
    if isinstance(weight, AffineTensor):
        minima = weight.minima()
        return Range.of(weight.scales()), None if minima is None else Range.of(minima)
    if isinstance(weight, BinaryTensor):
        return Range.of(np.concatenate([weight.row_scales.ravel(), weight.column_scales])), None
    return None, None


def _code_counts(weight: Quantized) -> tuple[int, ...]:
    """How many codes there are of each, or of each of :data:`BINS` equal parts of their range."""
    if isinstance(weight, BinaryTensor):
        return tuple(int(n) for n in np.bincount(weight.codes.ravel(), minlength=2 ** int(weight.orders.max(initial=1))))
    if not isinstance(weight, QTensor | AffineTensor):
        return ()
    fmt = weight.spec.format
    return code_counts(weight.codes, fmt.lo if isinstance(fmt, IntFormat) else 0, 1 << fmt.bits)


def code_counts(codes: Array, low: int, levels: int) -> tuple[int, ...]:
    """How many codes there are of each of so many levels from `low` on, or of each of :data:`BINS` equal parts of them."""
    bins, flat = min(levels, BINS), codes.reshape(-1)
    found = np.zeros(bins, np.int64)
    for start in range(0, flat.size, PIECE):
        found += np.bincount((flat[start : start + PIECE].astype(np.int64) - low) * bins // levels, minlength=bins)
    return tuple(int(n) for n in found)


def histogram(array: Array, found: Range) -> tuple[int, ...]:
    """How many numbers lie in each of :data:`BINS` equal parts of their range."""
    if found.low is None or found.high is None:
        return ()
    # Halved, so that the width of the widest range is finite.
    low, width = found.low / 2, found.high / 2 - found.low / 2
    if width == 0:
        return (array.size - found.not_finite,)
    counts = np.zeros(BINS, np.int64)
    for values in _pieces(array):
        finite = values[np.isfinite(values)]
        places = np.minimum((finite / 2 - low) / width * BINS, BINS - 1).astype(np.int64)
        counts += np.bincount(places, minlength=BINS)
    return tuple(int(n) for n in counts)


def shown_name(name: str) -> str:
    """A tensor's name on one line, whatever the file calls it."""
    return name if name.isprintable() and len(name) <= 120 else quoted(name, 120)
