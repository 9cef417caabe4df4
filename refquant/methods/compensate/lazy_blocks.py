"""The sweep as GPTQ's paper has it: errors are spread over the columns still to come, inside a block at once, behind it block by block."""

from __future__ import annotations

import numpy as np

from refquant.core.coding import real_codes
from refquant.core.spec import QuantSpec
from refquant.methods.compensate.column_grids import ColumnGrids
from refquant.numerics import Arithmetic
from refquant.numerics.arrays import Float64Array


def lazy_blocks(
    running: Float64Array, factor: Float64Array, spec: QuantSpec, grids: ColumnGrids, block_size: int, lazy: bool, arithmetic: Arithmetic
) -> Float64Array:
    """[GPTQ-6] and [GPTQ-7] over the transposed weight in quantization order.

    Parameters
    ----------
    running : float64 ndarray ``[n, out]``
        The weight. It is written to: what is left in it is what was decided on.
    factor : float64 ndarray ``[n, n]``
        U of [GPTQ-5].
    spec : QuantSpec
    grids : ColumnGrids
    block_size : int
        Columns a block; blocks end where a group ends too.
    lazy : bool
        Fit groups on what the block began with, and do not cut blocks where groups end, as the authors' code does.
    arithmetic : Arithmetic

    Returns
    -------
    float64 ndarray ``[n, out]``
        Codes (members, for formats other than integers).
    """
    codes = np.empty_like(running)
    columns = len(running)
    start = 0
    while start < columns:
        stop = min(start + block_size, columns)
        if not lazy:
            stop = min(stop, grids.next_group_start(start))
        block = running[start:stop].copy() if lazy else running[start:stop]
        errors = np.empty_like(block)
        for i in range(start, stop):
            if grids.begins_group(i):
                grids.fit(running[i : i + grids.columns_per_group])
            scale, zero = grids.of(i)
            row = block[i - start]
            codes[i] = real_codes(row, scale, zero, spec)
            errors[i - start] = (row - scale * (codes[i] if zero is None else codes[i] - zero)) / factor[i, i]
            block[i - start + 1 :] -= factor[i, i + 1 : stop, None] * errors[i - start]  # [GPTQ-6]
        running[start:stop] = block
        running[stop:] -= arithmetic.matmul(factor[start:stop, stop:].T, errors)  # [GPTQ-7]
        start = stop
    return codes
