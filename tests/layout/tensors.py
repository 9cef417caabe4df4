"""Tensors of every scheme, shape and grouping, made part by part so that codes and zero points take every value."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from safetensors.numpy import load_file

from refquant.core import QTensor, spec

DATA = Path(__file__).parents[1] / "data" / "layout"


def peer(name):
    return load_file(DATA / f"{name}.safetensors")


def random_tensor(shape, bits=4, group=None, scheme="asym_incl0", scale_format="float16", order=False, seed=0, zeros=None):
    rng = np.random.default_rng(seed)
    s = spec(f"int{bits}", group_size=group, scheme=scheme, scale_format=scale_format)
    grid = s.tiling.grid_shape(shape)
    codes = rng.integers(s.format.lo, s.format.hi + 1, shape).astype(s.format.dtype)
    scale = rng.uniform(0.01, 2, grid).astype(np.dtype(scale_format) if scale_format != "bfloat16" else "bfloat16")
    zero = None
    if s.scheme.zero == "midpoint":
        zero = np.full(grid, 1 << (bits - 1), s.format.dtype)
    elif s.scheme.zero != "none":
        low, high = zeros or (s.format.lo, s.format.hi)
        zero = rng.integers(low, high + 1, grid).astype(np.int16 if s.scheme.zero == "integer_wide" else s.format.dtype)
    return QTensor(codes=codes, scale=scale, zero=zero, spec=s, permutation=rng.permutation(shape[1]) if order else None)


def schemes():
    return st.sampled_from(["asym_incl0", "asym_minmax", "sym_gptq", "sym_full", "sym_narrow"])


def same(a, b):
    """Whether two tensors are the same in every part, dtype and the spec."""
    return a.spec == b.spec and a.digest() == b.digest()


def equal(found, expected):
    """Whether arrays agree in dtype, shape and bytes."""
    return found.dtype == expected.dtype and found.shape == expected.shape and found.tobytes() == expected.tobytes()
