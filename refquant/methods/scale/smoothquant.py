"""SmoothQuant: divide activation channels by a factor and multiply weight columns by it, so that both are equally hard to quantize.

Paper: Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models", arXiv 2211.10438. Code read:
mit-han-lab/smoothquant.

For linears that share an input, over calibration tokens ``t`` and output rows ``r``:

[SMOOTH-1]  a_j = max_t |X_tj|;   m_j = max over the linears and r of |W_rj|.
[SMOOTH-2]  s_j = a_j^alpha / m_j^(1 - alpha).
[SMOOTH-3]  X_j / s_j and W_j s_j replace X_j and W_j, so that X W^T stays what it is.

At alpha = 1/2 both maxima become sqrt(a_j m_j). alpha = 1 moves all difficulty into the weights; alpha = 0 evens out the weights and is
not the identity.

Departures from the authors' code
---------------------------------
* m_j and s_j are at least 1e-5, as in the code. a_j has no floor there; ``activation_floor=1e-5`` is what the DuQuant and QDLM codes add.
* ``counted`` names the linears of a set that m_j is taken over. Those two codes look at one alone: the query projection's, and the up
  projection's beside the gate. (``weight_maximum="first"`` of :func:`smoothing_factors` is the same for a list that begins with it.)
* The code smooths behind norms only. Other places (behind the value and up projections) are the QDLM study's, chosen by a recipe.
* Powers 0, 1/2 and 1 are taken exactly (1, the root, the number itself).
* A factor, or a rewritten gain, that overflows its dtype raises; in float16 the code stores infinities (a floor of 1e-5 under the
  fraction is enough for that).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from refquant.core.rewrite import Rewrite
from refquant.errors import InputError, NumericalError, UsageError
from refquant.methods.card import Card, Equation
from refquant.methods.scale.site import ScaleSite
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array
from refquant.numerics.casting import FLOAT_DTYPES

FLOOR = 1e-5

CARD = Card(
    name="smoothquant",
    title="SmoothQuant: a factor a channel, from activations into weights",
    paper="arXiv 2211.10438; code mit-han-lab/smoothquant",
    inputs=("largest magnitude of each input channel over calibration tokens", "weights [out, in] of the linears that share the input"),
    equations=(
        Equation("SMOOTH-1", "a_j = max_t |X_tj|; m_j = max |W_rj| over the linears and their rows"),
        Equation("SMOOTH-2", "s_j = a_j^alpha / m_j^(1 - alpha)"),
        Equation("SMOOTH-3", "X_j / s_j and W_j s_j replace X_j and W_j"),
    ),
    departures=(
        "m_j and s_j are at least 1e-5 (code); activation_floor=1e-5 holds a_j there, too (DuQuant's and QDLM's codes)",
        "counted names the linears that m_j is taken over: the query and the up projection alone in DuQuant's and QDLM's codes",
        "which places are smoothed is the caller's choice; the authors smooth behind norms only",
        "numbers that overflow raise; the authors' float16 code stores infinities",
    ),
    guarantees=(
        "the layer's function is preserved: a Rewrite of one joint",
        "alpha = 1/2 makes both maxima sqrt(a_j m_j), where no floor acts",
    ),
    lane="ordered in ORDERED, bounded in FAST",
    cost="one pass over calibration tokens, one over the weights",
    oracle="mit-han-lab/smoothquant at c61476d, float16, float32 and float64",
    laws=tuple("finite function_preserved determinism inputs_untouched layout_independence".split()),
)


def smoothing_factors(
    absmax: Array,
    weights: Sequence[Array],
    alpha: float = 0.5,
    *,
    weight_maximum: Literal["all", "first"] = "all",
    activation_floor: float = 0.0,
    arithmetic: Arithmetic = FAST,
) -> Array:
    """Factor of every channel.

    Parameters
    ----------
    absmax : ndarray ``[channels]``
        Largest magnitude of each input channel, not negative.
    weights : sequence of ndarray ``[out, channels]``
        All of one dtype: float16, float32 or float64. Every operation is rounded to it.
    alpha : float
        In [0, 1].
    weight_maximum : {"all", "first"}
        Over all weights, or the first alone.
    activation_floor : float
        Magnitudes of activations are at least this; 0 leaves them alone.
    arithmetic : Arithmetic

    Returns
    -------
    ndarray ``[channels]`` of the weights' dtype, positive and finite

    Raises
    ------
    InputError
        If shapes or dtypes do not agree, or something is not finite.
    UsageError
        If an option is out of range.
    NumericalError
        If a factor overflows the dtype.

    Examples
    --------
    >>> smoothing_factors(np.array([8.0, 2.0]), [np.array([[2.0, -0.5], [1.0, 0.25]])])
    array([2., 2.])
    """
    _check_options(alpha, weight_maximum, activation_floor)
    a, dtype = _checked(absmax, weights)
    if activation_floor:
        a = np.maximum(a, dtype.type(activation_floor))
    counted = weights if weight_maximum == "all" else weights[:1]
    m = np.max([np.abs(w).max(axis=0) for w in counted], axis=0)  # [SMOOTH-1]
    m = np.maximum(m, dtype.type(FLOOR))
    with np.errstate(over="ignore", under="ignore"):
        top, bottom = _power(a, alpha, arithmetic), _power(m, 1 - alpha, arithmetic)
        s = np.maximum((top / bottom).astype(dtype), dtype.type(FLOOR))  # [SMOOTH-2]
    if not np.isfinite(s).all():
        channel = int(np.argmax(~np.isfinite(s)))
        raise NumericalError(f"the factor of channel {channel}, {a[channel]:g}^{alpha:g} / {m[channel]:g}^{1 - alpha:g}, overflows {dtype}")
    return np.asarray(s)


def smoothquant(
    site: ScaleSite,
    absmax: Array,
    weights: Mapping[str, Array],
    alpha: float = 0.5,
    *,
    counted: Sequence[str] = (),
    activation_floor: float = 0.0,
    arithmetic: Arithmetic = FAST,
) -> Rewrite:
    """The rewrite that smooths one place.

    Parameters
    ----------
    site : ScaleSite
    absmax : ndarray ``[channels]``
    weights : mapping of str to ndarray ``[out, channels]``
        Of the site's searched linears.
    counted : sequence of str
        Of them, those whose weights m_j is taken over; empty for all.
    alpha, activation_floor, arithmetic
        As in :func:`smoothing_factors`, and so are the errors.

    Raises
    ------
    UsageError
        If `counted` names a linear that the site has not.
    InputError
        If no factors can be moved at this place, or as :func:`smoothing_factors`.

    Examples
    --------
    >>> site = ScaleSite(place="attn_in", searched=("q",), consumers=("q",), producer="norm")
    >>> smoothquant(site, np.array([8.0, 2.0]), {"q": np.array([[2.0, -0.5]])}).steps[0].transform.factors
    array([2., 2.])
    """
    unknown = [name for name in counted if name not in site.searched]
    if unknown:
        raise UsageError(f"{unknown[0]!r} is no linear of {site.place}; counted are some of {', '.join(site.searched)}")
    factors = smoothing_factors(
        absmax,
        [weights[name] for name in counted or site.searched],
        alpha,
        activation_floor=activation_floor,
        arithmetic=arithmetic,
    )
    return Rewrite(method="smoothquant", steps=(site.joint(factors),), notes={site.searched[0]: alpha})  # [SMOOTH-3]


def _check_options(alpha: float, weight_maximum: str, activation_floor: float) -> None:
    if not 0 <= alpha <= 1:
        raise UsageError(f"alpha lies in [0, 1], not {alpha!r}")
    if weight_maximum not in ("all", "first"):
        raise UsageError(f"weight_maximum is 'all' or 'first', not {weight_maximum!r}")
    if not (np.isfinite(activation_floor) and activation_floor >= 0):
        raise UsageError(f"activation_floor is a finite number of at least 0, not {activation_floor!r}")


def _checked(absmax: Array, weights: Sequence[Array]) -> tuple[Array, np.dtype[np.floating]]:
    """The magnitudes in the weights' dtype, and that dtype."""
    dtypes = {w.dtype for w in weights}
    if len(dtypes) != 1 or not dtypes <= {FLOAT_DTYPES[name] for name in ("float16", "float32", "float64")}:
        raise InputError(f"weights share one dtype of float16, float32 and float64; found {sorted(map(str, dtypes)) or 'no weight'}")
    a = np.asarray(absmax)
    for w in weights:
        if w.ndim != 2 or not len(w) or w.shape[1:] != a.shape:
            raise InputError(f"weights have shape [out, channels] with channels as the magnitudes {a.shape}; found {w.shape}")
        if not np.isfinite(w).all():
            raise InputError("a weight holds a number that is not finite")
    if not (np.isfinite(a) & (a >= 0)).all():
        raise InputError(f"magnitudes of channels are finite and not negative; found {a[~(np.isfinite(a) & (a >= 0))][0]}")
    dtype = dtypes.pop()
    return a.astype(dtype), dtype


def _power(x: Array, exponent: float, arithmetic: Arithmetic) -> Array:
    """``x ** exponent`` rounded to the dtype of `x`; float16 goes through float32. The powers that IEEE 754 has are exact."""
    if exponent == 0:
        return np.ones_like(x)
    if exponent == 1:
        return x
    if exponent == 0.5:
        return np.sqrt(x)
    wide = x.astype(np.float32) if x.dtype == np.float16 else x
    return arithmetic.power(wide, exponent).astype(x.dtype, copy=False)
