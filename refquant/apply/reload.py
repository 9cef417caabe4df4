"""The proof that a quantized folder holds the model that was measured: both give the same bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from model import Transformer
from refquant.apply.checkpoint import load
from refquant.apply.quantized import QuantizedModel
from refquant.errors import NumericalError
from refquant.numerics.arrays import Array

ROWS, LENGTH = 4, 48


def probe_ids(m: Transformer) -> Array:
    """Token ids ``[4, 48]`` that depend on the model's config alone; every third is a mask where there is one."""
    count = np.arange(ROWS * LENGTH, dtype=np.int64)
    ids = (count * 31 + 7) % m.config.embedding_rows
    mask = m.config.mask_token_id
    return (ids if mask is None else np.where(count % 3 == 0, mask, ids)).reshape(ROWS, LENGTH)


def check_reload(m: Transformer, quantized: QuantizedModel, folder: Path) -> str:
    """Load a quantized folder and compare its logits with those of the model in memory.

    Parameters
    ----------
    m : Transformer
        The full-precision model.
    quantized : QuantizedModel
        What was saved.
    folder : Path

    Returns
    -------
    str
        SHA-256 of the logits' bytes, as 64 hex digits.

    Raises
    ------
    InputError
        If the folder is damaged.
    NumericalError
        If a single bit differs.
    """
    ids = probe_ids(m)
    expected = quantized.attach(m).logits(ids)
    found = load(folder, m.dtype.name, m.arithmetic).logits(ids)
    if expected.tobytes() != found.tobytes():
        count = int(np.count_nonzero(expected != found))
        raise NumericalError(f"{folder}: reloaded, {count} of {expected.size} logits differ from those of the model in memory; none may")
    return hashlib.sha256(np.ascontiguousarray(found).tobytes()).hexdigest()
