"""IQ4_NL: 32 codes of 4 bits that stand for the members of a table, on a float16 scale, 18 bytes.

    bytes 0-1   d, float16
    bytes 2-17  low half of byte j: element j; high half: element j + 16          x = d * TABLE[nibble]

Codes here are the table's members. Quantizing: the scale is fitted (:mod:`~refquant.layout.gguf.table_fits`), the weights being
``x^2``, or with an importance those of the block; codes are the members nearest to ``x * (1/scale)``, before the scale is rounded.
"""

from __future__ import annotations

import numpy as np

from refquant.layout.gguf.fields import BlockType, Fields, scaled_values, stored_half
from refquant.layout.gguf.group_fits import in_groups, in_rows
from refquant.layout.gguf.importance import Importance, block_weights, checked_weights
from refquant.layout.gguf.planes import put_half, put_planes, side_by_side, take_half, take_planes
from refquant.layout.gguf.table_fits import fit_to_table, nearest_members
from refquant.numerics.arrays import Array

TABLE = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)
"""In rising order, as the nibbles are."""
MEMBERS = TABLE.astype(np.float32)


def unpack(blocks: Array) -> Fields:
    """Read blocks ``[n, 18]``."""
    return Fields(codes=np.take(TABLE, take_planes(blocks[:, 2:], 4, 16)), d=take_half(blocks, 0))


def pack(fields: Fields) -> Array:
    """Write blocks ``[n, 18]``."""
    return side_by_side(put_half(np.asarray(fields.d)), put_planes(np.searchsorted(TABLE, fields.codes), 4, 16))


def quantize(x: Array) -> Fields:
    """Quantize ``[n, 32]``; NumericalError if a scale overflows float16."""
    with np.errstate(over="ignore", under="ignore"):
        w = checked_weights(x, x * x)
    return _quantized(x, w)


def weigh_iq4_nl(x: Array, importance: Importance) -> Fields:
    """Quantize ``[n, 32]`` with an importance; NumericalError if a scale overflows float16."""
    return _quantized(x, block_weights(x, importance, 16))


def _quantized(x: Array, w: Array) -> Fields:
    groups = in_groups(x, 32)
    scale = fit_to_table(groups, in_groups(w, 32), MEMBERS)
    return Fields(codes=in_rows(members_on(groups, scale), 32), d=stored_half(scale, "scale"))


def members_on(x: Array, scale: Array) -> Array:
    """The table's members nearest to ``x * (1/scale)``, int8; those nearest to 0 where the scale is 0."""
    with np.errstate(all="ignore"):
        inverse = np.where(scale != 0, np.float32(1) / scale, np.float32(0))
        return nearest_members(inverse * x, MEMBERS).astype(np.int8)


IQ4_NL = BlockType(name="IQ4_NL", number=20, size=32, nbytes=18, unpack=unpack, pack=pack, values=scaled_values, quantize=quantize)
