"""From a checkpoint folder to a :class:`~model.transformer.Transformer`: every name, shape, dtype and value is checked on the way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from model.architecture import Architecture, ModelConfig
from model.config import Config
from model.layers import DenseLinear, Linear
from model.names import INERT_SUFFIXES
from model.streaming import RowSource, Source, StreamedHead, StreamedLinear, StreamedTensors, converted
from model.transformer import Transformer
from refquant.errors import InputError, UsageError
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array
from refquant.storage import open_checkpoint, read_json

# Stored dtypes that every value of survives in the dtype asked for.
_EXACT = {"float32": ("float32", "float16", "bfloat16"), "float64": ("float64", "float32", "float16", "bfloat16")}


@dataclass(frozen=True, slots=True)
class _InMemory:
    tensors: Mapping[str, Array]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return np.shape(self.tensors[name])

    def dtype(self, name: str) -> np.dtype[Any]:
        return np.asarray(self.tensors[name]).dtype

    def read(self, name: str) -> Array:
        return np.asarray(self.tensors[name])


def load(directory: str | PathLike[str], dtype: str = "float32", arithmetic: Arithmetic = FAST, stream: bool = False) -> Transformer:
    """Load a checkpoint of any family: LLaDA, Dream, LLaDA-MoE or LLaDA2, as its config says.

    Parameters
    ----------
    directory : path
        Holds ``config.json`` and ``model.safetensors``, or shards and their index. Tensors are float32, float16, bfloat16, or
        float64 where `dtype` is float64: whatever is stored is carried over exactly.
    dtype : {"float32", "float64"}
        Dtype of the parameters and of all arithmetic.
    arithmetic : Arithmetic
        Who computes products, sums and elementary functions.
    stream : bool
        Read tensors when they are needed and drop them after, instead of holding them: memory stays near one linear's weight plus
        activations, however many blocks there are. Numbers are checked when they are read.

    Returns
    -------
    Transformer

    Raises
    ------
    InputError
        If a file is missing or damaged, the config asks for what is not implemented, or a tensor is missing, unexpected, misshapen, of
        a dtype that would lose bits, or not finite.
    UsageError
        If `dtype` is neither of the two.

    Examples
    --------
    >>> from model import embedded_directory
    >>> load(embedded_directory())
    Transformer(4 blocks, width 256, 3,934,464 parameters, float32)
    >>> load(embedded_directory(), stream=True)
    Transformer(4 blocks, width 256, 3,934,464 parameters, streamed, float32)
    """
    folder = Path(directory)
    config = Config.from_dict(read_json(folder / "config.json"), where=str(folder / "config.json"))
    if stream:
        return stream_from(config, open_checkpoint(folder), str(folder), dtype, arithmetic)
    return _assemble(config, open_checkpoint(folder), str(folder), dtype, arithmetic, {})


def build(
    config: ModelConfig,
    tensors: Mapping[str, Array],
    dtype: str = "float32",
    arithmetic: Arithmetic = FAST,
    linears: Mapping[str, Linear] | None = None,
) -> Transformer:
    """Make a model of arrays in memory.

    Parameters
    ----------
    config : Config
    tensors : mapping of str to ndarray
        By checkpoint name; copied unless they have `dtype` already.
    dtype, arithmetic
        As in :func:`load`.
    linears : mapping of str to Linear, optional
        Linears to use instead of dense ones; their tensors need not be among `tensors`.

    Raises
    ------
    InputError, UsageError
        As in :func:`load`.

    Examples
    --------
    >>> m = embedded()
    >>> build(m.config, m.parameters)
    Transformer(4 blocks, width 256, 3,934,464 parameters, float32)
    """
    return _assemble(config, _InMemory(tensors), "tensors", dtype, arithmetic, dict(linears or {}))


def embedded(dtype: str = "float32", arithmetic: Arithmetic = FAST) -> Transformer:
    """Load the small trained model that comes with this package; see ``README.md`` in :func:`embedded_directory`.

    Examples
    --------
    >>> embedded("float64").config.n_layers
    4
    """
    return load(embedded_directory(), dtype, arithmetic)


def embedded_directory() -> Path:
    """Folder of the embedded model: weights, config, tokenizer, calibration and evaluation texts.

    Raises
    ------
    InputError
        If the package was installed in a way that left no folder on disk (a zip file).

    Examples
    --------
    >>> (embedded_directory() / "config.json").is_file()
    True
    """
    folder = files("model") / "tiny"
    if not isinstance(folder, Path):
        raise InputError(f"the embedded model is not a folder on disk ({folder}); unpack the installed package")
    return folder


def _assemble(
    config: ModelConfig, source: Source, where: str, dtype: str, arithmetic: Arithmetic, given: Mapping[str, Linear]
) -> Transformer:
    shape = config.architecture()
    linear_names = [linear.name for block in shape.blocks for linear in block.linears]
    for name in given:
        if name not in linear_names:
            raise UsageError(f"there is no linear {name!r} in this model; allowed: {', '.join(linear_names[:7])}, ...")
    optional = {name + end for name in given for end in (".weight", ".bias")}
    names = _checked_names(shape, optional, source, where, dtype)
    parameters = {name: converted(source.read(name), np.dtype(dtype), f"{where}: {name}") for name in names}

    def dense(name: str) -> Linear:
        return DenseLinear(parameters[name + ".weight"], parameters.get(name + ".bias"), arithmetic)

    linears = {name: given[name] if name in given else dense(name) for name in linear_names}
    untied = shape.head
    head = DenseLinear(parameters[shape.embedding + ".weight"], None, arithmetic) if untied is None else dense(untied.name)
    for name, linear in [*linears.items(), *([] if untied is None else [(untied.name, head)])]:
        if isinstance(linear, DenseLinear) and name not in given:
            parameters[name + ".weight"] = linear.weight  # the same numbers in the layer's own memory, so that they are held once
    _settle_allocator()
    return Transformer(config, parameters, linears, head, np.dtype(dtype), arithmetic)


def stream_from(config: ModelConfig, source: RowSource, where: str, dtype: str, arithmetic: Arithmetic) -> Transformer:
    """Make a model of tensors that are read from a source when they are needed; parameters and errors as in :func:`load`.

    Parameters
    ----------
    config : Config
    source : RowSource
        A :class:`~refquant.storage.Checkpoint`, or whatever else has tensors by name.
    where : str
        What messages call the source.
    dtype : {"float32", "float64"}
    arithmetic : Arithmetic
    """
    shape = config.architecture()
    names = _checked_names(shape, set(), source, where, dtype)
    tensors = StreamedTensors(source, names, np.dtype(dtype), where)
    linears = {linear.name: StreamedLinear(tensors, linear.name, arithmetic) for block in shape.blocks for linear in block.linears}
    head = StreamedHead(tensors, shape.embedding if shape.head is None else shape.head.name, arithmetic)
    return Transformer(config, tensors, linears, head, np.dtype(dtype), arithmetic)


def _checked_names(shape: Architecture, optional: set[str], source: Source, where: str, dtype: str) -> tuple[str, ...]:
    """Names of the tensors to read, every name, shape and dtype of the source checked."""
    if str(dtype) not in _EXACT:
        raise UsageError(f"dtype is {dtype!r}; allowed: float32, float64")
    expected, found = shape.tensor_shapes(), set(source.names)
    _check_names(expected, optional, source.names, where, shape)
    names = tuple(name for name in expected if name in found)
    for name in names:
        _check_header(name, source, expected[name], where, dtype)
    return names


def _settle_allocator() -> None:
    """Free one untouched block of almost 32 MiB.

    glibc then keeps freed memory up to that size instead of handing it back to the system each time (``mallopt(3)``: the thresholds
    adapt to the largest block freed). A forward pass frees and asks again for a few MiB all the time; without this a quarter of its time
    went into page faults. Elsewhere it does nothing.
    """
    np.empty((1 << 25) - (1 << 16), dtype=np.uint8)


def _check_names(expected: Iterable[str], optional: set[str], found: tuple[str, ...], where: str, shape: Architecture) -> None:
    present, wanted = set(found), set(expected)
    missing = [name for name in expected if name not in present and name not in optional]
    if missing:
        raise InputError(f"{where}: {len(missing)} of the {len(wanted)} tensors that the config asks for are missing: {_some(missing)}")
    extra = [name for name in found if name not in wanted and not name.endswith(INERT_SUFFIXES)]
    if extra:
        key = "weight_tying" if shape.family == "llada" else "tie_word_embeddings"
        heads = {"model.transformer.ff_out.weight", "lm_head.weight"}
        tied = f"; {key} is true, so the head is the embedding" if shape.head is None and heads & set(extra) else ""
        raise InputError(f"{where}: {len(extra)} unexpected in a model of this config: {_some(extra)}{tied}")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _check_header(name: str, source: Source, shape: tuple[int, ...], where: str, dtype: str) -> None:
    if source.shape(name) != shape:
        raise InputError(f"{where}: {name} has shape {source.shape(name)}; the config asks for {shape}")
    if source.dtype(name).name not in _EXACT[dtype]:
        raise InputError(f"{where}: {name} is stored as {source.dtype(name).name}; allowed for {dtype}: {', '.join(_EXACT[dtype])}")
