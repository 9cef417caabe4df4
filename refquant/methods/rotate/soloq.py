"""SoloQ's rotation: no data, block Hadamard inside blocks, a random rotation across them (arXiv 2610.07121, "K-RPBH").

A width ``n = m b`` that is no power of two has no fast Hadamard transform, and a dense random rotation costs n^2. A Kronecker product of a
small dense and a fast one costs ``n (m + log b)`` a token, and every feature of the result hears of every feature of the input.

[SOLOQ-1]  x <- x P,  P a random permutation of the features.
[SOLOQ-2]  in each of the m runs of b features:  x <- H_b (eps * x),  eps random signs, H_b orthonormal Hadamard.
[SOLOQ-3]  across the runs:  x <- x (Q_m (x) I_b),  Q_m uniform over all orthogonal matrices (Haar).

The other closed-form parts of SoloQ, codebooks and corrected scales, are :mod:`refquant.methods.codebook.lloyd_max`; its E8 code and the
quantization of keys and values at commit time are left out.

Readings: the paper's code is not known to us. Where the rotation stands is the recipe's affair (here: online before every group of linears
that share an input, and fused into their weights); [SOLOQ-3] leaves features ordered run by run within b, which no linear minds.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from refquant.core.rotation import HadamardRotation
from refquant.core.transform import BlockRotation, Permutation, Transform
from refquant.errors import UsageError
from refquant.methods.card import Card, Equation
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.draws import permutation
from refquant.numerics.hadamard import Hadamard, hadamard, random_signs
from refquant.numerics.orthogonal import random_orthogonal

CARD = Card(
    name="soloq",
    title="SoloQ: random permutation, block Hadamard transform, random rotation across blocks",
    paper="arXiv 2610.07121; no public code",
    inputs=("width", "a generator"),
    equations=(
        Equation("SOLOQ-1", "a random permutation of the features"),
        Equation("SOLOQ-2", "random signs and an orthonormal Hadamard matrix in each run of b features"),
        Equation("SOLOQ-3", "a Haar random rotation across the runs, the same for every place within them"),
    ),
    departures=(
        "online before every group of linears with a common input; the paper's places are not known to us in detail",
        "codebooks and scale correction are the method lloyd_max; E8 codes and key-value codes at commit time are left out",
    ),
    guarantees=("orthogonal: the function is preserved in real arithmetic", "draws come from raw words"),
    lane="ordered in ORDERED, bounded in FAST",
    cost="n (m + log b) a token and weight row, with n = m b; m^3 for the draw",
    oracle="the dense matrix P (Q (x) H), multiplied out",
    laws=tuple("finite function_preserved determinism inputs_untouched".split()),
)


def soloq(width: int, rng: Generator, *, block: int = 128, arithmetic: Arithmetic = FAST) -> tuple[Transform, ...]:
    """Draw a rotation of `width` features.

    Parameters
    ----------
    width : int
        A multiple of `block`.
    rng : numpy.random.Generator
        Draws the permutation, the signs, then the rotation across blocks.
    block : int
        Features a block: a size that a Hadamard matrix is known of.
    arithmetic : Arithmetic

    Returns
    -------
    tuple of Transform
        To be applied first to last; all orthogonal.

    Raises
    ------
    UsageError
        If `block` does not divide `width`, or no Hadamard matrix of that size is known.

    Examples
    --------
    >>> x = np.array([3.0, 0.0, 0.0, 0.0, 0.0, 4.0])
    >>> for transform in soloq(6, np.random.default_rng(5), block=2):
    ...     x = transform.apply(x)
    >>> round(float(np.sqrt((x * x).sum())), 12)
    5.0
    """
    if width < 1 or block < 1 or width % block:
        raise UsageError(f"a rotation of {width} features is not made of blocks of {block}; the block has to divide the width")
    runs = width // block
    one = hadamard(block)
    plan = Hadamard(width, one.base, one.blocks * runs)
    mixed = permutation(rng, width)
    inside = HadamardRotation(plan=plan, signs=random_signs(rng, width))
    across = BlockRotation(blocks=random_orthogonal(rng, runs, arithmetic)[None], repeats=block)
    by_place = np.arange(width).reshape(runs, block).T.ravel()  # the runs' first features, their second ones, ...
    return (
        Permutation(order=mixed),  # [SOLOQ-1]
        inside,  # [SOLOQ-2]
        Permutation(order=by_place),
        across,  # [SOLOQ-3]
    )
