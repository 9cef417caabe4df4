"""Recorded outputs of other people's programs, loaded once."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

DATA = Path(__file__).parents[1] / "data" / "formats"


@cache
def peer(name: str) -> dict[str, np.ndarray]:
    """A file of the formats' folder, or, as ``layout/name``, of another."""
    folder, _, file = name.rpartition("/")
    return load_file(DATA.parent / (folder or "formats") / f"{file}.safetensors")


def nibbles(packed: np.ndarray, *, high_first: bool) -> np.ndarray:
    """Two codes a byte, along the last axis."""
    both = (packed >> 4, packed & 15) if high_first else (packed & 15, packed >> 4)
    return np.stack(both, axis=-1).reshape(*packed.shape[:-1], -1)
