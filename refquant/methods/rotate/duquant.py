"""DuQuant (arXiv 2406.01721): rotate the features of each linear's input in blocks, deal them out anew, rotate again.

Rotations are found greedily on calibration inputs: each step turns the block that holds the largest entry so that the entry is spread
evenly, and the best prefix of all steps is kept. The permutation evens out what the blocks hold. They stay online; weights take them in.
Row vectors x of n features, blocks of B of them.

[DUQUANT-1]  R~, size B: the product of Givens rotations of coordinates (i, i+1), i = 0 .. B-2, with cosine 1/sqrt(i+2), each from the left;
             then indices 0 and B-1 change places in rows and columns. Its first row is uniform: x_0 is spread evenly by x R~.
[DUQUANT-2]  greedy step:  R_k = E_d R~ diag(1, O) E_d,  Z <- Z R_k,  where E_d exchanges coordinate 0 and the one, d, of Z's largest entry,
             and O is a random orthogonal matrix, drawn once per search.
[DUQUANT-3]  R = R_0 R_1 ... R_(m-1), with the m of all prefixes (0 among them) that has the least max(Z) - min(Z); ties: the shortest.
[DUQUANT-4]  P: features in descending order of their largest magnitude are dealt to the n/B blocks in a snake (0, 1, ..., 1, 0, 0, 1, ...).
[DUQUANT-5]  G = R1 P R2 (more pairs with `permutations` above 1):  x <- x G,  W <- W G.

Queries and keys go through a Hadamard transform per head, as QuaRot's R3. Smoothing, before all this, is SmoothQuant's.

Departures from the authors' code (Hsu1023/DuQuant):

* The coordinate d is the *channel* of the largest entry within its block, as in the paper. The code takes the *row* of the entry modulo
  B, some coordinate: `target="row"`.
* One rotation for all blocks is the code's; `shared=False` searches one for every block, as the paper allows.
* O comes from raw words through our own uniform orthogonal matrix, not from torch's generator: it can be given (`mixers`).
* The product of rotations is kept in float64, the search runs in the dtype of the inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.random import Generator

from refquant.core.rewrite import Joint
from refquant.core.transform import BlockRotation, Permutation, Transform
from refquant.errors import InputError, UsageError
from refquant.methods.card import Card, Equation
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array, Float64Array, IntArray
from refquant.numerics.casting import as_working
from refquant.numerics.orthogonal import random_orthogonal

Target = Literal["channel", "row"]

CARD = Card(
    name="duquant",
    title="DuQuant: greedy block rotations around a zigzag permutation",
    paper="arXiv 2406.01721",
    inputs=("inputs of a linear [tokens, n]", "a generator for the mixing matrices"),
    equations=(
        Equation("DUQUANT-1", "R~ = product of Givens rotations with a uniform first row"),
        Equation("DUQUANT-2", "R_k = E_d R~ diag(1, O) E_d, Z <- Z R_k, d the coordinate of the largest entry"),
        Equation("DUQUANT-3", "R = the prefix of R_0 R_1 ... with the least max(Z) - min(Z)"),
        Equation("DUQUANT-4", "P deals features to blocks in a snake, in descending order of their largest magnitude"),
        Equation("DUQUANT-5", "G = R1 P R2; x <- x G online, W <- W G"),
    ),
    departures=(
        "d is the channel, as in the paper; the code's row modulo the block is target='row'",
        "one rotation for all blocks, as in the code; shared=False searches one a block, as the paper allows",
        "O is drawn from raw words, once a search; mixers gives it",
        "rotations are multiplied in float64",
    ),
    guarantees=(
        "G is orthogonal: the function is preserved in real arithmetic",
        "max - min of the calibration inputs is never larger after a rotation than before it",
    ),
    lane="ordered in ORDERED, bounded in FAST",
    cost="a search: steps x tokens x n x B multiplications; online n (2 B) a token",
    oracle="Hsu1023/DuQuant's recorded base rotations, permutations, and inputs after recorded rotations",
    laws=tuple("finite function_preserved determinism inputs_untouched".split()),
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GreedyRotation:
    """What a greedy search found.

    Parameters
    ----------
    matrix : float64 ndarray ``[B, B]``
    targets : tuple of int
        The coordinates of all steps that were tried; the first `kept` make the matrix.
    kept : int
    peaks : tuple of float
        ``max - min`` before each step and after the last.
    """

    matrix: Float64Array
    targets: tuple[int, ...]
    kept: int
    peaks: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DuQuant:
    """The transforms of one linear's input, first to last, and their searches.

    Parameters
    ----------
    transforms : tuple of Transform
        Rotation, permutation, rotation, ...
    searches : tuple of GreedyRotation
        In the same order; without `shared` one a block.
    """

    transforms: tuple[Transform, ...]
    searches: tuple[GreedyRotation, ...]

    def joints(self, consumers: tuple[str, ...]) -> tuple[Joint, ...]:
        """Steps of a rewrite: the transforms online before these linears."""
        return tuple(Joint(transform=transform, consumers=consumers) for transform in self.transforms)  # [DUQUANT-5]


def duquant(
    x: Array,
    rng: Generator,
    *,
    block: int = 128,
    steps: int = 256,
    permutations: int = 1,
    target: Target = "channel",
    shared: bool = True,
    mixers: tuple[Float64Array, ...] | None = None,
    arithmetic: Arithmetic = FAST,
) -> DuQuant:
    """Find the transforms of one linear's input.

    Parameters
    ----------
    x : float ndarray ``[tokens, n]``
        Calibration inputs, smoothed if they are to be.
    rng : numpy.random.Generator
    block : int
        Features that are rotated together; divides n.
    steps : int
        Greedy steps of each search.
    permutations : int
        Number of permutations, each between two rotations; 0 leaves one rotation.
    target : {"channel", "row"}
    shared : bool
        One rotation for all blocks, or one a block.
    mixers : tuple of ndarray ``[block - 1, block - 1]``, optional
        The matrices O of the searches, one after the other, instead of random ones.
    arithmetic : Arithmetic

    Returns
    -------
    DuQuant

    Raises
    ------
    UsageError
        If an option is out of range or `block` does not divide the number of features.
    InputError
        If `x` is no matrix, holds no token, NaN or an infinity.

    Examples
    --------
    >>> from refquant.core.transform import through
    >>> x = np.outer([1.0, -1.0, 2.0], [100.0, 1.0, 1.0, 1.0])
    >>> found = duquant(x, np.random.default_rng(0), block=2, steps=4)
    >>> bool(np.ptp(through(found.transforms, x)) < np.ptp(x))
    True
    """
    work = as_working(x, "the inputs")
    _check(work, block, steps, permutations, target)
    rotate = base_rotation(block)
    given = None if mixers is None else iter(mixers)
    transforms: list[Transform] = []
    searches: list[GreedyRotation] = []
    for number in range(permutations + 1):
        runs = [work.reshape(-1, block)] if shared else [work[:, i : i + block] for i in range(0, work.shape[1], block)]
        found = []
        for run in runs:
            mixer = next(given, None) if given is not None else random_orthogonal(rng, block - 1, arithmetic) if block > 1 else None
            found.append(greedy_rotation(run, _mixed(rotate, mixer, arithmetic), steps, target, arithmetic))
        searches += found
        repeats = work.shape[1] // block // len(found)
        transforms.append(BlockRotation(blocks=np.stack([search.matrix for search in found]), repeats=repeats))
        work = transforms[-1].apply(work, arithmetic)
        if number < permutations:
            transforms.append(Permutation(order=zigzag_order(np.abs(work).max(axis=0), block)))
            work = transforms[-1].apply(work, arithmetic)
    return DuQuant(transforms=tuple(transforms), searches=tuple(searches))


def base_rotation(block: int) -> Float64Array:
    """The rotation whose first row is uniform, float64 ``[block, block]``.

    Examples
    --------
    >>> base_rotation(4)[0].round(6).tolist()
    [0.5, 0.5, 0.5, 0.5]
    """
    matrix = np.eye(block)
    for i in range(block - 1):
        cosine, sine = 1 / np.sqrt(i + 2), np.sqrt((i + 1) / (i + 2))
        upper, lower = matrix[i].copy(), matrix[i + 1].copy()
        matrix[i], matrix[i + 1] = cosine * upper - sine * lower, sine * upper + cosine * lower  # [DUQUANT-1]
    return _exchanged(matrix, block - 1)


def greedy_rotation(x: Array, base: Float64Array, steps: int, target: Target = "channel", arithmetic: Arithmetic = FAST) -> GreedyRotation:
    """Search a rotation that evens out the largest entries.

    Parameters
    ----------
    x : float ndarray ``[runs, B]``
        Not written to.
    base : float64 ndarray ``[B, B]``
        Carries coordinate 0 to an even spread.
    steps : int
    target : {"channel", "row"}
    arithmetic : Arithmetic

    Returns
    -------
    GreedyRotation
    """
    block = x.shape[1]
    peaks, targets = [], []
    for _ in range(steps):
        high, low = int(np.argmax(x)), int(np.argmin(x))  # flat; the first of equals
        flat = x.reshape(-1)
        peaks.append(float(flat[high] - flat[low]))
        place = high if abs(flat[high]) > abs(flat[low]) else low
        targets.append(place % block if target == "channel" else place // block % block)
        x = arithmetic.matmul(x, _exchanged(base, targets[-1]).astype(x.dtype, copy=False))  # [DUQUANT-2]
    peaks.append(float(np.max(x) - np.min(x)))
    kept = int(np.argmin(peaks))  # [DUQUANT-3]
    matrix = np.eye(block)
    for coordinate in targets[:kept]:
        matrix = arithmetic.matmul(matrix, _exchanged(base, coordinate))
    return GreedyRotation(matrix=matrix, targets=tuple(targets), kept=kept, peaks=tuple(peaks))


def zigzag_order(magnitudes: Array, block: int) -> IntArray:
    """Deal features to blocks in a snake, the largest first.

    Parameters
    ----------
    magnitudes : ndarray ``[n]``
    block : int
        Divides n.

    Returns
    -------
    int64 ndarray ``[n]``
        What feature stands where: the first block's features in descending order, then the second's.

    Examples
    --------
    >>> zigzag_order(np.array([1.0, 8.0, 3.0, 6.0, 5.0, 4.0, 7.0, 2.0]), 2).tolist()
    [1, 0, 6, 7, 3, 2, 4, 5]
    """
    order = np.argsort(-magnitudes, kind="stable")
    dealt = order.reshape(block, -1)  # a row is dealt to all blocks, every other one from behind
    dealt[1::2] = dealt[1::2, ::-1].copy()
    return np.asarray(dealt.T.reshape(-1))  # [DUQUANT-4]


def _exchanged(matrix: Float64Array, index: int) -> Float64Array:
    """``E M E`` with E the exchange of coordinates 0 and `index`."""
    order = np.arange(len(matrix))
    order[[0, index]] = index, 0
    return np.ascontiguousarray(matrix[np.ix_(order, order)])


def _mixed(base: Float64Array, mixer: Float64Array | None, arithmetic: Arithmetic) -> Float64Array:
    """``R~ diag(1, O)``: the first column of the base stays."""
    block = len(base)
    if block == 1:
        return base
    if mixer is None or np.shape(mixer) != (block - 1, block - 1):
        found = "no matrix is left" if mixer is None else f"one has shape {np.shape(mixer)}"
        raise UsageError(f"mixers are one matrix of shape {(block - 1, block - 1)} for every search; {found}")
    return np.hstack([base[:, :1], arithmetic.matmul(np.ascontiguousarray(base[:, 1:]), np.asarray(mixer, dtype=np.float64))])


def _check(x: Array, block: int, steps: int, permutations: int, target: str) -> None:
    for name, value, least in (("block", block, 1), ("steps", steps, 0), ("permutations", permutations, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UsageError(f"{name} is an integer of at least {least}, not {value!r}")
    if target not in get_args(Target):
        raise UsageError(f"target is 'channel' or 'row', not {target!r}")
    if x.ndim != 2 or not x.size:
        raise InputError(f"inputs are a matrix [tokens, features] with at least one token; found shape {x.shape}")
    if not np.isfinite(x).all():
        raise InputError("inputs hold NaN or an infinity")
    if x.shape[1] % block:
        raise UsageError(f"blocks of {block} do not divide {x.shape[1]} features; use a block size that does")


__all__ = ["CARD", "DuQuant", "GreedyRotation", "Target", "base_rotation", "duquant", "greedy_rotation", "zigzag_order"]
