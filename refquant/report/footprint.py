"""True bits per weight: every code, scale, zero point and kept tensor counted, nothing rounded."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from refquant.apply.checkpoint import PARTS, run_time_arrays
from refquant.apply.quantized import QuantizedModel
from refquant.core import Grid, QuantSpec
from refquant.numerics.arrays import Array
from refquant.numerics.casting import float_dtype
from refquant.storage import Checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """How many bits a model takes.

    Parameters
    ----------
    weights : int
        Weights in the linears counted: the quantized ones, or all linears of a model in which none is.
    weight_bits : int
        Of those: codes, scales, zero points and permutations, before any padding of a byte layout.
    parameters : int
        All of the model's, embedding and head among them.
    model_bits : int
        Of all: the quantized as above, rewritten ones in the dtype that they are kept in, the others as stored, and what is needed at run
        time besides: static scales of activations and V, arrays of online transforms and of corrections.
    """

    weights: int
    weight_bits: int
    parameters: int
    model_bits: int

    @property
    def bits_per_weight(self) -> Fraction:
        """Over the linears counted."""
        return Fraction(self.weight_bits, self.weights) if self.weights else Fraction(0)

    @property
    def bits_per_parameter(self) -> Fraction:
        """Over the whole model."""
        return Fraction(self.model_bits, self.parameters) if self.parameters else Fraction(0)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole model if it were packed without padding."""
        return -(-self.model_bits // 8)


def full_footprint(stored: Checkpoint, linears: Iterable[str]) -> Footprint:
    """Bits of a checkpoint as it is stored.

    Parameters
    ----------
    stored : Checkpoint
    linears : iterable of str
        Names without ``.weight``.
    """
    sizes = _stored(stored, stored.names)
    counted = _stored(stored, [f"{name}.weight" for name in linears])
    return Footprint(weights=counted[0], weight_bits=counted[1], parameters=sizes[0], model_bits=sizes[1])


def quantized_footprint(stored: Checkpoint, quantized: QuantizedModel, linears: Iterable[str]) -> Footprint:
    """Bits of a quantized model.

    Parameters
    ----------
    stored : Checkpoint
        What it was made of, or the folder it was saved to.
    quantized : QuantizedModel
    linears : iterable of str
        All linears of the model; counted as stored if none of them is quantized.
    """
    replaced = {f"{name}.{part}" for name in quantized.weights for part in ("weight", *PARTS)}
    beside, changed = run_time_arrays(quantized), quantized.rewritten.tensors
    kept = _stored(stored, [name for name in stored.names if name not in replaced | set(beside) | set(changed)])
    weights = sum(math.prod(weight.shape) for weight in quantized.weights.values())
    weight_bits = sum(weight.total_bits for weight in quantized.weights.values())
    counted = (weights, weight_bits) if weights else _stored(stored, [f"{name}.weight" for name in linears])
    return Footprint(
        weights=counted[0],
        weight_bits=counted[1],
        parameters=weights + kept[0] + sum(array.size for array in changed.values()),
        model_bits=weight_bits + kept[1] + _array_bits([*changed.values(), *beside.values()]) + _static_bits(quantized),
    )


def planned_bits(spec: QuantSpec, shape: tuple[int, int], permuted: bool = False) -> int:
    """Bits that a weight will take, known from its spec alone; equal to :attr:`refquant.QTensor.total_bits` of the result.

    Parameters
    ----------
    spec : QuantSpec
    shape : tuple of int
        ``[out, in]``.
    permuted : bool
        A permutation of the columns is stored.

    Examples
    --------
    >>> from refquant.core import spec
    >>> planned_bits(spec("int4", group_size=128, scale_format="float16"), (1, 256))
    1064
    """
    tiles = math.prod(spec.tiling.grid_shape(shape))
    if spec.scales is not None:
        outer = 0 if spec.scales.outer is None else math.prod(spec.scales.outer_shape(spec.tiling.grid_shape(shape)))
        offset = 32 if spec.scales.center == "mean" else 0
        nested = tiles * spec.scales.format.bits + outer * float_dtype(spec.scales.outer or "float32").itemsize * 8 + offset
        return math.prod(shape) * spec.format.bits + nested + (shape[1] * max(0, shape[1] - 1).bit_length() if permuted else 0)
    scale_bits = float_dtype(spec.scale_format).itemsize * 8 if spec.scale_format else 64  # weights are quantized in float64
    kinds = {
        "none": 0,
        "midpoint": 0,
        "midpoint_low": 0,
        "integer": spec.format.bits,
        "integer_first": spec.format.bits,
        "real": scale_bits,
    }
    zero_bits = kinds.get(spec.scheme.zero, 16)
    order = shape[1] * max(0, shape[1] - 1).bit_length() if permuted else 0
    return math.prod(shape) * spec.format.bits + tiles * (scale_bits + zero_bits) + order


def planned_binary_bits(shape: tuple[int, int], orders: int, block: int, scale_format: str) -> int:
    """Bits that a sum of scaled signs will take; equal to the result's if its blocks are equally wide or all have as many signs.

    Parameters
    ----------
    shape : tuple of int
        ``[out, in]``.
    orders : int
        Signs a weight on average.
    block : int
        Columns a block.
    scale_format : str

    Examples
    --------
    >>> planned_binary_bits((16, 256), 2, 128, "float16")
    17412
    """
    rows, columns = shape
    blocks = -(-columns // block)
    scales = orders * (blocks * rows + columns)
    return orders * rows * columns + scales * float_dtype(scale_format).itemsize * 8 + 2 * blocks


def _stored(stored: Checkpoint, names: Iterable[str]) -> tuple[int, int]:
    """Elements and bits of tensors as stored."""
    elements = bits = 0
    for name in names:
        count = math.prod(stored.shape(name))
        elements += count
        bits += count * stored.dtype(name).itemsize * 8
    return elements, bits


def _static_bits(quantized: QuantizedModel) -> int:
    grids: list[Grid] = [*quantized.input_grids.values(), *quantized.value_grids.values()]
    return _array_bits([array for grid in grids for array in (grid.scale, grid.zero) if array is not None])


def _array_bits(arrays: Iterable[Array]) -> int:
    return sum(array.size * array.dtype.itemsize * 8 for array in arrays)
