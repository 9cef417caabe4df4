"""A quantized folder as a model that does not fit into memory: codes are read and decoded when a linear is used, and dropped after.

Every digest of the folder is checked once, a tensor at a time, when it is opened; a linear's is checked again at every use, as the file may
have changed since. The numbers are those of the same folder in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from model import Config, Linear, Transformer
from model.checkpoint import stream_from
from refquant.apply.description import DESCRIPTION, Description, WeightEntry
from refquant.apply.quantized import input_quantizer
from refquant.apply.rewritten import RewrittenModel
from refquant.apply.saving import CORRECTION_PARTS, correction_name
from refquant.apply.stored_parts import PARTS, described_model, read_corrections, read_weight
from refquant.apply.verifying import verify_folder
from refquant.errors import UsageError
from refquant.numerics import Arithmetic
from refquant.numerics.arrays import Array
from refquant.storage import Checkpoint, open_checkpoint, read_json


class DecodedTensors:
    """The tensors of a full-precision model out of a quantized folder: kept ones as stored, weights of linears as their codes say.

    Parameters
    ----------
    stored : Checkpoint
        Of the quantized folder.
    weights : mapping of str to WeightEntry
        What the description says of each quantized linear.
    hidden : set of str
        Tensors that are no parameters of the model.
    dtype : dtype
        float32 or float64, that codes are decoded to.
    """

    def __init__(self, stored: Checkpoint, weights: Mapping[str, WeightEntry], hidden: set[str], dtype: np.dtype[Any]) -> None:
        self._stored, self._dtype = stored, dtype
        self._weights = {f"{name}.weight": (name, entry) for name, entry in weights.items()}
        parts = {f"{name}.{part}" for name in weights for part in PARTS}
        self.names = tuple(sorted({*self._weights, *(set(stored.names) - parts - hidden)}))

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor; nothing but headers is looked at."""
        if name not in self._weights:
            return self._stored.shape(name)
        return self._stored.shape(f"{self._weights[name][0]}.codes")[-2:]  # codes of sums of signs have an axis of terms before

    def dtype(self, name: str) -> np.dtype[Any]:
        """Dtype of what :meth:`read` returns."""
        return self._dtype if name in self._weights else self._stored.dtype(name)

    def read(self, name: str) -> Array:
        """Read one tensor, or decode it; InputError if it is damaged."""
        if name not in self._weights:
            return self._stored.read(name)
        linear, entry = self._weights[name]
        return read_weight(self._stored, linear, entry, self._stored.directory / DESCRIPTION).dequantize(self._dtype)

    def read_rows(self, name: str, rows: Any) -> Array:
        """Some rows of a tensor; only kept ones are read row by row."""
        return self.read(name)[np.asarray(rows)] if name in self._weights else self._stored.read_rows(name, rows)


class QuantizedInput:
    """A linear behind an activation quantizer; the linear reads its own weight."""

    __slots__ = ("linear", "quantize")

    def __init__(self, linear: Linear, quantize: Callable[[Array], Array]) -> None:
        self.linear, self.quantize = linear, quantize

    def __call__(self, x: Array) -> Array:
        """Apply the layer to ``[..., in]``."""
        return self.linear(self.quantize(x))


def load_streamed(path: Path, dtype: np.dtype[Any], arithmetic: Arithmetic) -> Transformer:
    """Open a quantized folder.

    Parameters
    ----------
    path : Path
        As ``refquant quantize`` wrote it.
    dtype : dtype
        float32 or float64.
    arithmetic : Arithmetic

    Raises
    ------
    InputError
        If anything in the folder is missing, damaged, not recorded, or not what its digest says.
    UsageError
        If the folder is of a rewritten model: what rewrites changed is put into parameters, which a streamed model has not.
    """
    description = verify_folder(path)
    _refuse_rewritten(path, description)
    stored, where = open_checkpoint(path), path / DESCRIPTION
    apart = {correction_name(index, part) for index in description.corrections for part in CORRECTION_PARTS}
    arrays = {name: stored.read(name) for name in sorted(apart & set(stored.names))}
    corrections, _ = read_corrections(description.corrections, arrays, where)
    quantized = described_model(description, where, {}, RewrittenModel(), corrections)
    config = Config.from_dict(read_json(path / "config.json"), str(path / "config.json"))
    m = stream_from(config, DecodedTensors(stored, description.weights, apart, dtype), str(path), dtype.name, arithmetic)
    quantized.check_fit(m, set(description.weights))
    quantizers = {name: input_quantizer(quantized.recipe, name, quantized.input_grids, arithmetic) for name in m.linears}
    linears = {name: QuantizedInput(m.linears[name], one) for name, one in quantizers.items() if one is not None}
    return quantized.with_products(m, linears)


def _refuse_rewritten(path: Path, description: Description) -> None:
    entry = description.rewritten
    if entry.tensors or entry.online or entry.scores or entry.untied:
        methods = ", ".join(sorted({str(note["method"]) for note in entry.notes})) or "rewrites"
        raise UsageError(f"{path} is of a rewritten model ({methods}); a streamed model cannot be, load it into memory")
