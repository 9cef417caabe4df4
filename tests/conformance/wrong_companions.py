"""Statistics, packings and rewrites that are wrong on purpose, each in one way, beside right ones."""

from __future__ import annotations

import itertools

import numpy as np

from refquant.core.stats import Stats

CALLS = itertools.count(1)


def mean_alone(x):
    return np.mean(x.astype(np.float64), axis=0)


WRONG_STATISTICS = {
    "merge_associativity": (mean_alone, lambda a, b: (a + b) / 2),
    "merge_commutativity": (lambda x: x[0].astype(np.float64), lambda a, b: a),
    "chunk_independence": (lambda x: np.abs(x).max(axis=0), lambda a, b: a + b),
    "token_permutation": (lambda x: x[-1], None),
    "determinism": (lambda x: x.sum() + next(CALLS), None),
    "inputs_untouched": (lambda x: x.__imul__(2), None),
    "layout_independence": (lambda x: x.ravel(order="K")[1], None),
}
RIGHT_STATISTICS = (Stats.of, Stats.merge)


def pack_nibbles(codes):
    """Signed 4-bit codes, the first of two in the low nibble, an odd one padded."""
    flat = np.concatenate([codes.ravel(), np.zeros(codes.size % 2, codes.dtype)]).astype(np.uint8) & 15
    return flat[0::2] | (flat[1::2] << 4)


def unpack_nibbles(packed, shape):
    flat = np.stack([packed & 15, packed >> 4], axis=1).ravel()[: shape[0] * shape[1]].astype(np.int8)
    return np.where(flat > 7, flat - 16, flat).reshape(shape)


WRONG_PACKINGS = {
    "pack_identity": (pack_nibbles, lambda p, shape: unpack_nibbles(((p & 15) << 4) | (p >> 4), shape)),
    "pack_injectivity": (lambda codes: pack_nibbles(np.abs(codes)), unpack_nibbles),
    "pack_size": (lambda codes: pack_nibbles(codes)[: codes.size // 2], unpack_nibbles),
    "determinism": (lambda codes: np.append(pack_nibbles(codes), next(CALLS) % 2), unpack_nibbles),
    "inputs_untouched": (lambda codes: pack_nibbles(codes.__iand__(15)), unpack_nibbles),
    "layout_independence": (lambda codes: pack_nibbles(codes.ravel(order="K")), unpack_nibbles),
}


def smooth(w, x, strength=0.5):
    """SmoothQuant's factors, made here."""
    a, b = np.abs(x).max(axis=0), np.abs(w).max(axis=0)
    s = np.where((a > 0) & (b > 0), np.sqrt(np.where(a > 0, a, 1) / np.where(b > 0, b, 1)), 1.0)
    return w * s, x / s


def rotation(n):
    rng = np.random.default_rng(n)
    return np.linalg.qr(rng.normal(size=(n, n)))[0]


WRONG_REWRITES = {
    "finite": lambda w, x: (w * np.abs(x).max(axis=0), x / np.abs(x).max(axis=0)),
    "function_preserved": lambda w, x: (w @ rotation(len(w.T)).T, x @ rotation(len(w.T))),
    "determinism": lambda w, x: (w * next(CALLS), x),
    "inputs_untouched": lambda w, x: (w.__imul__(2), x / 2),
    "layout_independence": lambda w, x: (w, x) if w.flags.c_contiguous else (w * 2, x / 2),
}
