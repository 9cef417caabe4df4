"""TAC: put the attention output's mean and covariance back where quantization moved them (STaR-Quant, arXiv 2606.04945).

Before the attention's output projection, in blocks of g channels, from what the float model has there (mu, C) and what arrives (mu', C'):

[TAC-1]  moments of every block:  mu = mean(z),  C = mean(z z^T) - mu mu^T,  damped:  C + damping mean(diag C) I, and C' by the same number.
[TAC-2]  M = C'^(-1/2) (C'^(1/2) C C'^(1/2))^(1/2) C'^(-1/2), the symmetric positive definite map with  M C' M = C.
[TAC-3]  shrinkage:  M <- (1 - rho) M + rho I.
[TAC-4]  z <- M (z - mu') + mu, that is  d = mu - M mu'.

Readings: the paper matches mean and covariance by a square root that it does not name; [TAC-2] is the optimal transport map between the two
Gaussians, the symmetric one, and moves z least. Its smoothing of singular values is left out. The paper tried g = 4 to 64 and kept 16.

Roots are made of products alone (:mod:`refquant.numerics.matrix_root`); M C' M differs from C by about the machine's epsilon times
the product of the condition numbers, which the damping bounds by ``(g / damping)^2``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from refquant.errors import InputError, UsageError
from refquant.methods.card import Card, Equation
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array, Float64Array, read_only
from refquant.numerics.casting import as_float64
from refquant.numerics.frozen import by_constructor
from refquant.numerics.matrix_root import root_and_inverse_root

CARD = Card(
    name="tac",
    title="TAC: affine compensation of the attention output, in closed form",
    paper="STaR-Quant, arXiv 2606.04945; no public code",
    inputs=("moments of the float model's activations", "moments of the activations that arrive"),
    equations=(
        Equation("TAC-1", "mean and damped covariance of each block of channels"),
        Equation("TAC-2", "M = C'^(-1/2) (C'^(1/2) C C'^(1/2))^(1/2) C'^(-1/2)"),
        Equation("TAC-3", "M <- (1 - rho) M + rho I"),
        Equation("TAC-4", "z <- M (z - mu') + mu"),
    ),
    departures=("the square root is unnamed: the symmetric optimal transport map", "the smoothing of singular values is left out"),
    guarantees=(
        "equal moments give the identity, up to rounding",
        "rho = 0: the corrected activations have the float model's mean and, damping apart, its covariance",
    ),
    lane="ordered in ORDERED, bounded in FAST",
    cost="one product a block while calibrating; n g multiplications a token",
    oracle="scipy.linalg.sqrtm; closed forms of diagonal covariances",
    laws=tuple("merge_associativity merge_commutativity chunk_independence token_permutation determinism inputs_untouched".split()),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Sums that means and covariances of blocks of channels are made of; they can be merged.

    Parameters
    ----------
    tokens : int
    total : float64 ndarray ``[blocks, g]``
        Sum of z.
    products : float64 ndarray ``[blocks, g, g]``
        Sum of ``z z^T``.
    """

    tokens: int
    total: Float64Array
    products: Float64Array

    __reduce__ = by_constructor

    def __post_init__(self) -> None:
        object.__setattr__(self, "total", read_only(self.total))
        object.__setattr__(self, "products", read_only(self.products))

    @classmethod
    def of(cls, z: Array, block: int = 16, arithmetic: Arithmetic = FAST) -> Moments:
        """Collect from activations ``[..., channels]``.

        Raises
        ------
        UsageError
            If the block does not divide the channels.
        InputError
            If there is no token, or a number is not finite.
        """
        width = z.shape[-1]
        if block < 1 or width % block:
            raise UsageError(f"blocks of {block} do not divide {width} channels")
        rows = as_float64(z).reshape(-1, width // block, block)
        if not len(rows) or not np.isfinite(rows).all():
            raise InputError(f"moments need at least one token and finite numbers; found an array of shape {z.shape}")
        cut = np.ascontiguousarray(rows.swapaxes(0, 1))
        products = np.stack([arithmetic.gram(one) for one in cut])
        return cls(tokens=len(rows), total=arithmetic.sum(cut, axis=1), products=products)

    def merge(self, other: Moments) -> Moments:
        """Moments of both sets of tokens; InputError if their blocks differ."""
        if self.products.shape != other.products.shape:
            raise InputError(f"cannot merge moments of shapes {self.products.shape} and {other.products.shape}")
        return Moments(tokens=self.tokens + other.tokens, total=self.total + other.total, products=self.products + other.products)

    @property
    def mean(self) -> Float64Array:
        """``[blocks, g]``."""
        return np.asarray(self.total / self.tokens)

    @property
    def covariance(self) -> Float64Array:
        """``[blocks, g, g]``, of the tokens themselves (divided by their number)."""
        mean = self.mean
        return np.asarray(self.products / self.tokens - mean[:, :, None] * mean[:, None, :])  # [TAC-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class AffineCorrection:
    """``z <- M z + d`` in blocks of channels.

    Parameters
    ----------
    matrices : float ndarray ``[blocks, g, g]``
        Symmetric.
    offset : float ndarray ``[blocks, g]``
    """

    matrices: Array
    offset: Array

    __reduce__ = by_constructor

    def __post_init__(self) -> None:
        for name in ("matrices", "offset"):
            object.__setattr__(self, name, read_only(np.asarray(getattr(self, name))))
        if self.matrices.ndim != 3 or self.matrices.shape != (*self.offset.shape, self.offset.shape[-1]):
            raise InputError(f"a correction is [blocks, g, g] and [blocks, g]; found {self.matrices.shape} and {self.offset.shape}")

    @property
    def width(self) -> int:
        """Number of channels."""
        return int(self.offset.size)

    def apply(self, z: Array, arithmetic: Arithmetic = FAST) -> Array:
        """Correct activations ``[..., channels]``, in their dtype; InputError if the channels are not as many."""
        if z.ndim == 0 or z.shape[-1] != self.width:
            raise InputError(f"a correction of {self.width} channels does not fit an array of shape {z.shape}")
        count, block = self.offset.shape
        rows = np.ascontiguousarray(z.reshape(-1, count, block).swapaxes(0, 1))
        moved = arithmetic.matmul(rows, self.matrices.astype(z.dtype, copy=False)) + self.offset.astype(z.dtype, copy=False)[:, None, :]
        return np.ascontiguousarray(moved.swapaxes(0, 1)).reshape(z.shape)  # [TAC-4]


def tac(
    reference: Moments, arriving: Moments, *, damping: float = 0.01, shrinkage: float = 0.0, arithmetic: Arithmetic = FAST
) -> AffineCorrection:
    """Find the correction that gives what arrives the moments of the reference.

    Parameters
    ----------
    reference, arriving : Moments
        Of the same tokens, in the float model and in the quantized one.
    damping : float
        Multiple of the mean diagonal of the reference's covariance, added to both.
    shrinkage : float
        rho, 0 to 1; 1 corrects the mean alone.
    arithmetic : Arithmetic

    Raises
    ------
    InputError
        If the moments are of different blocks.
    UsageError
        If an option is out of range.
    NumericalError
        If a damped covariance is singular.

    Examples
    --------
    >>> z = np.array([[1.0], [-1.0], [3.0], [-3.0]])
    >>> found = tac(Moments.of(2 * z + 5, 1), Moments.of(z, 1), damping=0)
    >>> found.apply(z).round(12).ravel().tolist()
    [7.0, 3.0, 11.0, -1.0]
    """
    if not (np.isfinite(damping) and damping >= 0 and 0 <= shrinkage <= 1):
        raise UsageError(f"damping is at least 0 and shrinkage 0 to 1; got {damping!r} and {shrinkage!r}")
    if reference.products.shape != arriving.products.shape:
        raise InputError(f"moments of shapes {reference.products.shape} and {arriving.products.shape} are not of the same blocks")
    identity = np.eye(reference.products.shape[-1])
    wanted, found = reference.covariance, arriving.covariance
    diagonal = np.diagonal(wanted, axis1=-2, axis2=-1)
    added = damping * arithmetic.mean(diagonal, axis=-1, keepdims=True)[..., None] * identity
    still = (added == 0).all(axis=(-2, -1), keepdims=True) & (damping > 0)  # channels that never move: mean alone
    wanted, found = (np.where(still, identity, covariance + added) for covariance in (wanted, found))
    root, inverse = root_and_inverse_root(found, arithmetic)
    middle = arithmetic.matmul(arithmetic.matmul(root, wanted), root)
    between = root_and_inverse_root((middle + middle.swapaxes(-1, -2)) / 2, arithmetic)[0]
    matrices = arithmetic.matmul(arithmetic.matmul(inverse, between), inverse)  # [TAC-2]
    matrices = (1 - shrinkage) * ((matrices + matrices.swapaxes(-1, -2)) / 2) + shrinkage * identity  # [TAC-3]
    moved = arithmetic.matmul(matrices, arriving.mean[:, :, None])[:, :, 0]
    return AffineCorrection(matrices=matrices, offset=reference.mean - moved)
