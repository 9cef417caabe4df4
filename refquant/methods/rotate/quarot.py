"""QuaRot (arXiv 2404.00456): rotate the residual stream, the values, queries and keys, and the MLP's hidden features.

A rotation spreads an outlier over all features, and an RMS norm without a gain commutes with it. So everything is rotated once, offline,
and only where a nonlinearity stands in between a Hadamard transform is left for run time. Then RTN or GPTQ, on the rotated inputs.
Row vectors x; all H orthonormal.

[QUAROT-1]  norm gains into the weights that follow:  W <- W diag(gamma),  gamma <- 1  (attention, MLP and head norms).
[QUAROT-2]  R1, the stream, x <- x Q:  E <- E Q;  W <- W Q for all that read it, head and routers included;  W <- Q^T W, b <- b Q for all
            that write it.  Q = diag(eps) H_d^T with random signs eps, or any random orthogonal matrix.
[QUAROT-3]  R2 inside heads, fused:  V_h <- H_dh V_h (weight rows and bias of each key-value head),  W_o <- W_o (I (x) H_dh)^T.
[QUAROT-4]  R2 across heads, online:  z <- (H_nh (x) I) z before attn_out,  W_o <- W_o (H_nh (x) I)^T.
[QUAROT-5]  R4, online:  z <- H_ffn z before the MLP's last linear,  W <- W H_ffn^T.
[QUAROT-6]  R3, online:  q <- H_dh q,  k <- H_dh k  per head after rotary embedding; cancels in q . k.

Departures from the authors' code (spcl/QuaRot, fake_quant):

* It subtracts the mean of each embedding row, a leftover of models with LayerNorm. An RMS norm does not, so that changes the function; it
  is left out here, and a test shows by how much the logits change.
* It divides by the float32 root of the size. Here the root is of the working dtype (`normalization="float32"` of
  :func:`refquant.numerics.hadamard.hadamard` is theirs).
* It applies R3 only if keys are quantized; here R3 is one of `rotations`.
* Models with biases, fused projections, mixtures (the router reads the stream, too) and, in grouped-query attention, one value head that
  serves several query heads, are rotated by the same rules.
* Values that are clipped (``clip_qkv``) do not commute with R2, and norms that subtract a mean not with R1: refused.
* A size without a known Hadamard matrix is refused, or, with `odd_sizes="blocks"`, gets a block-diagonal one; `notes` says which and how.

SpinQuant's R2 (2405.16406) has no part across heads: `cross_heads=False`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from numpy.random import Generator

from refquant.core.rewrite import Fold, Joint, Rewrite, Step
from refquant.core.rotation import HadamardRotation, Part
from refquant.core.transform import BlockRotation, Transform
from refquant.errors import UsageError
from refquant.methods.card import Card, Equation
from refquant.methods.rotate.network import BlockSite, Network, require_rotatable_stream
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array
from refquant.numerics.hadamard import Hadamard, hadamard, has_hadamard, random_signs
from refquant.numerics.orthogonal import random_orthogonal

Rotation = Literal["R1", "R2", "R3", "R4"]
OddSizes = Literal["raise", "blocks"]
Matrix = Literal["hadamard", "orthogonal"]

CARD = Card(
    name="quarot",
    title="QuaRot: Hadamard rotations of the stream, values, queries, keys and hidden features",
    paper="arXiv 2404.00456",
    inputs=("the network's names and sizes", "a generator for R1's signs"),
    equations=(
        Equation("QUAROT-1", "W <- W diag(gamma), gamma <- 1 for every norm of the residual stream"),
        Equation("QUAROT-2", "R1: x <- x Q; E <- E Q, W <- W Q for readers, W <- Q^T W and b <- b Q for writers"),
        Equation("QUAROT-3", "R2 inside heads: V_h <- H V_h, W_o <- W_o (I (x) H)^T, fused"),
        Equation("QUAROT-4", "R2 across heads: z <- (H (x) I) z before attn_out online, W_o <- W_o (H (x) I)^T"),
        Equation("QUAROT-5", "R4: z <- H z before the MLP's last linear online, W <- W H^T"),
        Equation("QUAROT-6", "R3: q <- H q, k <- H k per head after rotary embedding, online"),
    ),
    departures=(
        "the mean of the embedding's rows is not subtracted: that is not function preserving under RMS norms",
        "the root of the size is not rounded to float32 (normalization of hadamard())",
        "R3 does not depend on whether keys are quantized (rotations)",
        "biases, fused projections, mixtures and grouped-query attention are rotated, too",
        "sizes without a Hadamard matrix are refused, or block diagonal if asked for (odd_sizes)",
        "where the authors' tables hold several bases, ours are the same matrices, by construction; any other can be given (bases)",
    ),
    guarantees=(
        "the function is preserved in real arithmetic; logits in float64 within 1e-10 of their largest",
        "signs come from raw words: the same on every machine",
    ),
    lane="ordered (powers of two: in FAST too)",
    cost="offline d log d a weight row; online n log n a token before attn_out and the MLP's last linear, and per head of q and k",
    oracle="spcl/QuaRot's recorded transforms, bases, random matrices and rotation invariance; function preservation on every family",
)


def quarot(
    network: Network,
    rng: Generator,
    *,
    rotations: tuple[Rotation, ...] = ("R1", "R2", "R3", "R4"),
    matrix: Matrix = "hadamard",
    cross_heads: bool = True,
    odd_sizes: OddSizes = "raise",
    bases: Mapping[int, Array] | None = None,
    arithmetic: Arithmetic = FAST,
) -> Rewrite:
    """Rotate a network.

    Parameters
    ----------
    network : Network
    rng : numpy.random.Generator
        For R1 alone.
    rotations : tuple of {"R1", "R2", "R3", "R4"}
        Any subset.
    matrix : {"hadamard", "orthogonal"}
        R1's matrix: a Hadamard matrix with random signs, or uniform over all orthogonal matrices (cubic cost).
    cross_heads : bool
        Whether R2 has its part across heads.
    odd_sizes : {"raise", "blocks"}
        What happens where no Hadamard matrix of a size is known: an error, or equal blocks of the largest power of two that divides it.
    bases : mapping of int to ndarray, optional
        Another base matrix for a size, instead of ours.
    arithmetic : Arithmetic
        Makes random orthogonal matrices.

    Returns
    -------
    Rewrite

    Raises
    ------
    UsageError
        If an option is unknown, the network cannot be rotated, or a size has no Hadamard matrix.

    Examples
    --------
    R1 folds all norms and rotates the stream inside the weights; R4 is applied at run time, once a block:

    >>> import model
    >>> import numpy as np
    >>> from refquant.apply.rotating import network_of
    >>> network = network_of(model.embedded().architecture)
    >>> stream = quarot(network, np.random.default_rng(0), rotations=("R1",))
    >>> len(stream.steps) == len(network.norms) + 1, len(stream.online)
    (True, 0)
    >>> len(quarot(network, np.random.default_rng(0), rotations=("R4",)).online) == len(network.blocks)
    True
    """
    unknown = [name for name in rotations if name not in get_args(Rotation)]
    if unknown or not rotations or len(set(rotations)) < len(rotations):
        raise UsageError(f"rotations are some of {', '.join(get_args(Rotation))}, each once; got {rotations}")
    for name, value, allowed in (("matrix", matrix, Matrix), ("odd_sizes", odd_sizes, OddSizes)):
        if value not in get_args(allowed):
            raise UsageError(f"{name} is one of {', '.join(map(repr, get_args(allowed)))}, not {value!r}")
    plans = _Plans(odd_sizes, bases or {})
    steps: list[Step] = []
    if "R1" in rotations:
        require_rotatable_stream(network, "quarot R1")
        steps += norm_folds(network)
        steps.append(_stream(network, _stream_rotation(network.width, matrix, plans, rng, arithmetic)))
    if "R2" in rotations:
        steps += [step for block in network.blocks for step in _values(network, block, cross_heads, plans)]
    if "R4" in rotations:
        writers = [writer for block in network.blocks for writer in block.ff_writers]
        steps += [Joint(transform=HadamardRotation(plan=plans.of(width)), consumers=(name,)) for name, width in writers]  # [QUAROT-5]
    scores: dict[int, Transform] = {}
    if "R3" in rotations:
        scores = dict.fromkeys(range(len(network.blocks)), HadamardRotation(plan=plans.of(network.head_dim)))  # [QUAROT-6]
    notes: dict[str, str | int | float] = {"rotations": " ".join(rotations), "matrix": matrix}
    notes.update({f"blocks of size {size}": blocks for size, blocks in plans.divided.items()})
    return Rewrite(method="quarot", steps=tuple(steps), scores=scores, notes=notes)


def norm_folds(network: Network) -> list[Step]:
    """Fold every gain of the stream's norms into what reads them."""
    readers: list[tuple[str, ...]] = [names for block in network.blocks for names in (block.qkv, block.ff_readers)]
    sites = zip(network.norms, [*readers, (network.head,)], strict=True)
    return [Fold(norm=norm.name, consumers=names) for norm, names in sites if norm.gain]  # [QUAROT-1]


class _Plans:
    """Hadamard transforms by size, and which of them had to be divided into blocks."""

    def __init__(self, odd_sizes: OddSizes, bases: Mapping[int, Array]) -> None:
        self.odd_sizes, self.bases = odd_sizes, bases
        self.divided: dict[int, int] = {}
        self._found: dict[int, Hadamard] = {}

    def of(self, size: int) -> Hadamard:
        if size not in self._found:
            if size in self.bases:
                plan = hadamard(size, base=self.bases[size])
            elif self.odd_sizes == "blocks" and not has_hadamard(size):
                plan = hadamard(size, blocks=None)
                self.divided[size] = plan.blocks
            else:
                plan = hadamard(size)
            self._found[size] = plan
        return self._found[size]

    def repeated(self, size: int, times: int) -> Hadamard:
        """The transform of a size, `times` beside each other."""
        one = self.of(size)
        return Hadamard(size * times, one.base, one.blocks * times)


def _stream_rotation(width: int, matrix: Matrix, plans: _Plans, rng: Generator, arithmetic: Arithmetic) -> Transform:
    if matrix == "orthogonal":
        return BlockRotation(blocks=random_orthogonal(rng, width, arithmetic)[None])
    return HadamardRotation(plan=plans.of(width), signs=random_signs(rng, width))


def _stream(network: Network, transform: Transform) -> Joint:
    blocks = network.blocks
    writers = (network.embedding, *(name for b in blocks for name in (b.attn_out, *(writer for writer, _ in b.ff_writers))))
    readers = (*(name for b in blocks for name in (*b.qkv, *b.ff_readers)), network.head)
    return Joint(transform=transform, producers=writers, consumers=readers)  # [QUAROT-2]


def _values(network: Network, block: BlockSite, cross_heads: bool, plans: _Plans) -> list[Step]:
    if network.clips_values:
        raise UsageError("quarot R2: values are clipped feature by feature (clip_qkv), which a rotation does not commute with")
    heads, kv_heads, width = network.heads, network.kv_heads, network.head_dim
    written: Transform = HadamardRotation(plan=plans.repeated(width, kv_heads))
    if len(block.qkv) == 1:
        written = Part(inner=written, start=(heads + kv_heads) * width, total=(heads + 2 * kv_heads) * width)
    read = HadamardRotation(plan=plans.repeated(width, heads))
    inside = Joint(transform=written, producers=(block.qkv[-1],), consumers=(block.attn_out,), consumed=read)  # [QUAROT-3]
    if not cross_heads:
        return [inside]
    across = HadamardRotation(plan=plans.of(heads), inner=width)
    return [inside, Joint(transform=across, consumers=(block.attn_out,))]  # [QUAROT-4]


__all__ = ["CARD", "Matrix", "OddSizes", "Rotation", "norm_folds", "quarot"]
