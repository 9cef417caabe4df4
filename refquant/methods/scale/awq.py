"""AWQ: activation-aware weight quantization, a factor a channel found by search, and a clipping limit a group found by search.

Paper: Lin et al., "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration", arXiv 2306.00978. Code read:
mit-han-lab/llm-awq at d6e797a, casper-hansen/AutoAWQ, and the copy in FelixMessi/QDLM.

Factors, for a set S of linears with a common input X inside a module f with input X_f:

[AWQ-1]  m_j = mean_t |X_tj|.
[AWQ-2]  s_j = max(m_j^alpha, 1e-4) / sqrt(max_k max(m_k^alpha, 1e-4) * min_k max(m_k^alpha, 1e-4)).
[AWQ-3]  alpha = argmin over 0, 1/20, ..., 19/20 of mean (f(X_f; W) - f(X_f; Q(W diag s) diag(s)^-1 for all W in S))^2; the first wins ties.

Limits, for each output row r and group G of columns of a linear, with a = max_G |W_rj|:

[AWQ-4]  c_i = a (1 - i/20), i = 0 .. 9.
[AWQ-5]  c = argmin mean_t (sum_G X_tj (Q(clip(W_rj, +-c_i)) - W_rj))^2; the first wins ties; groups do not see each other.

Limits are searched in :mod:`refquant.methods.scale.limits`, because they are no rewrite: clipping changes the function.

alpha = 0 is s = 1, plain rounding, so the search never does worse than that on its own loss; alpha = 1 is not tried.

Departures from the authors' code
---------------------------------
* The paper writes a weight term in places; the released code has none, and neither has ``scaling="activations"``. AutoAWQ's
  ``duo_scaling`` is ``scaling="duo"``: s = max(m^alpha / (u^(1-alpha) + 1e-4), 1e-4) before the normalization of [AWQ-2], with u_j the mean
  over rows of |W_rj| / (max of its group + 1e-6). There alpha = 0 is not the identity.
* [AWQ-5] is evaluated as ``d^T (X_G^T X_G) d`` with d the difference of weights: the same number in real arithmetic, without an array of
  [rows, tokens, groups]. Losses are summed in float64.
* Tokens for [AWQ-5] are every ``tokens // 512``-th, as in the code, and all where there are fewer (the code divides by zero there).
* Q is the spec that the weights are quantized with, the rounding of its scales included; the code searches with unrounded scales.
* A group clipped at both ends is symmetric, and its zero point (2^b - 1) / 2 an exact tie: the last bit of its weights decides between
  two grids that are a step apart and equally good. That is so in the code, too; it is why limits are compared and not codes behind them.
* Tokens may have weights (masked or certain ones counting more): means over tokens become weighted means. That is not AWQ's; it is the
  alternative reading of DLLMQuant on AWQ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from refquant.core import QuantSpec, fake_quantize, fit_grid
from refquant.core.rewrite import Rewrite
from refquant.errors import NumericalError, UsageError
from refquant.methods.card import Card, Equation
from refquant.methods.scale.limits import checked_inputs
from refquant.methods.scale.site import ScaleSite
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array, Float64Array, read_only

FLOOR = 1e-4
ALPHAS = 20
Scaling = Literal["activations", "duo"]
Outputs = Callable[[Sequence[Array]], Array]

CARD = Card(
    name="awq",
    title="AWQ: factors a channel and limits a group, both by search",
    paper="arXiv 2306.00978; code mit-han-lab/llm-awq, casper-hansen/AutoAWQ",
    inputs=("inputs [tokens, in] of linears that share them", "their weights [out, in]", "the spec they will be quantized with"),
    equations=(
        Equation("AWQ-1", "m_j = mean_t |X_tj|"),
        Equation("AWQ-2", "s_j = max(m_j^alpha, 1e-4) / sqrt(max * min of the same)"),
        Equation("AWQ-3", "alpha = argmin over 0, 1/20, ..., 19/20 of the mean squared change of the module's output"),
        Equation("AWQ-4", "limits c_i = (1 - i/20) max_G |W_rj|, i = 0 .. 9"),
        Equation("AWQ-5", "c = argmin mean_t (sum_G X_tj (Q(clip(W_rj, +-c_i)) - W_rj))^2"),
    ),
    departures=(
        "scaling='duo' adds AutoAWQ's weight term; llm-awq has none",
        "the limits' loss goes through X_G^T X_G; losses are float64 sums",
        "fewer than 512 tokens are all used; llm-awq divides by zero",
        "Q is the whole spec, the rounding of its scales included",
        "token_weights make weighted means of [AWQ-1], [AWQ-3] and [AWQ-5]: not AWQ's own",
    ),
    guarantees=(
        "the factors are a Rewrite: the layer's function is preserved",
        "the loss at the chosen alpha is at most that at alpha = 0, and that of the chosen limits at most that of no limits",
        "a limit is at least 0.55 of its group's maximum",
    ),
    lane="ordered in ORDERED, bounded in FAST",
    cost="20 forward passes of the module, two of its outputs for all tokens in memory; limits: 10 x out x in x group multiplications",
    oracle="mit-han-lab/llm-awq at d6e797a: losses of all candidates, factors, limits",
    laws=tuple("finite function_preserved determinism inputs_untouched".split()),
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FactorSearch:
    """What the search for factors found.

    Parameters
    ----------
    alpha : float
    factors : ndarray ``[channels]``
    losses : float64 ndarray ``[candidates]``
        Of every candidate, in order.
    magnitudes : ndarray ``[channels]``
        m of [AWQ-1].
    """

    alpha: float
    factors: Array
    losses: Float64Array
    magnitudes: Array

    def __post_init__(self) -> None:
        for name in ("factors", "losses", "magnitudes"):
            object.__setattr__(self, name, read_only(getattr(self, name)))


def search_factors(
    x: Array,
    weights: Sequence[Array],
    spec: QuantSpec,
    outputs: Outputs | None = None,
    *,
    candidates: int = ALPHAS,
    scaling: Scaling = "activations",
    token_weights: Array | None = None,
    arithmetic: Arithmetic = FAST,
) -> FactorSearch:
    """Search the exponent of [AWQ-2].

    Parameters
    ----------
    x : ndarray ``[tokens, channels]``
        The common input, float32 or float64 (narrower ones are widened); everything is computed in its dtype.
    weights : sequence of ndarray ``[out, channels]``
        Of the dtype of `x`.
    spec : QuantSpec
        How weights will be quantized.
    outputs : callable, optional
        Output ``[tokens, features]`` of the inspected module with these weights instead of its own; by default the linears' own outputs.
    candidates : int
        alpha is 0, 1/candidates, ...
    scaling : {"activations", "duo"}
    token_weights : ndarray ``[tokens]``, optional
        Not negative, not all 0.
    arithmetic : Arithmetic

    Returns
    -------
    FactorSearch

    Raises
    ------
    InputError
        If shapes or dtypes do not agree, there is no token, or something is not finite.
    UsageError
        If an option is out of range.
    NumericalError
        If factors of every candidate overflow, or a module's output is not finite.

    Examples
    --------
    >>> from refquant.core import spec
    >>> rng = np.random.default_rng(0)
    >>> x, weight = rng.normal(size=(64, 8)) * 8.0 ** -np.arange(8), rng.normal(size=(4, 8))
    >>> found = search_factors(x, [weight], spec("int3", scheme="asym_minmax"))
    >>> bool(found.losses.min() < found.losses[0])
    True
    """
    if candidates < 1:
        raise UsageError(f"candidates is at least 1, not {candidates!r}")
    x, token_weights = checked_inputs(x, weights, token_weights)
    of_module = outputs or (lambda changed: _linear_outputs(x, changed, arithmetic))
    magnitudes = _mean_magnitudes(x, token_weights, arithmetic)
    relative = _relative_weights(weights, spec, arithmetic) if scaling == "duo" else None
    wanted = _finite(of_module, weights)
    if wanted is None:
        raise NumericalError(f"the module's own output is not finite in {x.dtype}; rescale the inputs or use float64")
    best, losses = -1, np.full(candidates, np.inf)
    chosen = np.ones_like(magnitudes)
    for index in range(candidates):
        factors = channel_factors(magnitudes, index / candidates, relative, arithmetic)
        if factors is None:
            continue
        found = _finite(of_module, [_rounded_under(w, factors, spec, arithmetic) for w in weights])
        if found is None:
            continue
        losses[index] = _mean_square(wanted, found, token_weights, arithmetic)
        if np.isfinite(losses[index]) and (best < 0 or losses[index] < losses[best]):  # [AWQ-3]
            best, chosen = index, factors
    if best < 0:
        raise NumericalError(f"no candidate of {candidates} has finite factors and a finite loss; rescale the inputs or use float64")
    return FactorSearch(alpha=best / candidates, factors=chosen, losses=losses, magnitudes=magnitudes)


def channel_factors(magnitudes: Array, alpha: float, relative: Array | None = None, arithmetic: Arithmetic = FAST) -> Array | None:
    """Factors of one exponent; None if one is not positive and finite in this dtype.

    Parameters
    ----------
    magnitudes : ndarray ``[channels]``
        m of [AWQ-1].
    alpha : float
    relative : ndarray ``[channels]``, optional
        u of ``scaling="duo"``.
    arithmetic : Arithmetic

    Examples
    --------
    >>> channel_factors(np.array([1.0, 16.0]), 0.5)
    array([0.5, 2. ])
    """
    raised = np.ones_like(magnitudes) if alpha == 0 else arithmetic.power(magnitudes, alpha)
    with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
        if relative is not None:
            raised = raised / (arithmetic.power(relative, 1 - alpha) + relative.dtype.type(FLOOR))
        s = np.maximum(raised, magnitudes.dtype.type(FLOOR))
        s = s / np.sqrt(s.max() * s.min())  # [AWQ-2]
    return s if (np.isfinite(s) & (s > 0)).all() else None


def awq(
    site: ScaleSite,
    x: Array,
    weights: Mapping[str, Array],
    spec: QuantSpec,
    outputs: Outputs | None = None,
    *,
    candidates: int = ALPHAS,
    scaling: Scaling = "activations",
    token_weights: Array | None = None,
    arithmetic: Arithmetic = FAST,
) -> Rewrite:
    """The rewrite that scales one place by searched factors; ``notes`` hold the exponent.

    Parameters
    ----------
    site : ScaleSite
    x : ndarray ``[tokens, channels]``
    weights : mapping of str to ndarray ``[out, channels]``
        Of the site's searched linears.
    spec, outputs, candidates, scaling, token_weights, arithmetic
        As in :func:`search_factors`, and so are the errors; `outputs` gets weights in the order of ``site.searched``.

    Examples
    --------
    One channel of the inputs is large, so the search protects the weights that meet it:

    >>> import numpy as np
    >>> import refquant as rq
    >>> rng = np.random.default_rng(0)
    >>> x, weight = rng.standard_normal((64, 16)), rng.standard_normal((8, 16))
    >>> x[:, 3] *= 30
    >>> site = ScaleSite(place="attn_in", searched=("q",), consumers=("q",), producer="norm")
    >>> found = awq(site, x, {"q": weight}, rq.spec("int4", group_size=8, scheme="asym_minmax"))
    >>> factors = found.steps[0].transform.factors
    >>> int(np.argmax(factors)), 0 < found.notes["q"] <= 1
    (3, True)
    """
    found = search_factors(
        x,
        [weights[name] for name in site.searched],
        spec,
        outputs,
        candidates=candidates,
        scaling=scaling,
        token_weights=token_weights,
        arithmetic=arithmetic,
    )
    return Rewrite(method="awq", steps=(site.joint(found.factors),), notes={site.searched[0]: found.alpha})


def _finite(of_module: Outputs, weights: Sequence[Array]) -> Array | None:
    """The module's output with these weights; None if it is not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        found = of_module(weights)
    return found if np.isfinite(found).all() else None


def _linear_outputs(x: Array, weights: Sequence[Array], arithmetic: Arithmetic) -> Array:
    return np.concatenate([arithmetic.matmul(x, w.T) for w in weights], axis=1)


def _mean_magnitudes(x: Array, token_weights: Array | None, arithmetic: Arithmetic) -> Array:
    if token_weights is None:
        return arithmetic.mean(np.abs(x), axis=0)  # [AWQ-1]
    weighted = arithmetic.sum(np.abs(x) * token_weights[:, None], axis=0) / arithmetic.sum(token_weights)
    return np.asarray(weighted.astype(x.dtype))


def _relative_weights(weights: Sequence[Array], spec: QuantSpec, arithmetic: Arithmetic) -> Array:
    """Mean over all rows of magnitudes relative to their group's largest, ``[channels]``."""
    weight = np.concatenate(list(weights), axis=0)
    top = np.abs(spec.tiling.blocks(weight, 0.0)).max(axis=spec.tiling.inner_axes)
    return arithmetic.mean(np.abs(weight) / (spec.tiling.expand(top, weight.shape) + weight.dtype.type(1e-6)), axis=0)


def _rounded_under(weight: Array, factors: Array, spec: QuantSpec, arithmetic: Arithmetic) -> Array:
    """``Q(W diag s) diag(s)^-1``."""
    scaled = weight * factors
    return np.asarray(fake_quantize(scaled, fit_grid(scaled, spec, arithmetic), spec) / factors)


def _mean_square(wanted: Array, found: Array, token_weights: Array | None, arithmetic: Arithmetic) -> float:
    difference = np.subtract(wanted, found).astype(np.float64, copy=False)
    with np.errstate(over="ignore"):  # the candidate is then left out
        squares = np.multiply(difference, difference, out=difference)
    if token_weights is None:
        return float(arithmetic.mean(squares))
    by_token = arithmetic.mean(squares, axis=-1).reshape(-1)
    return float(arithmetic.sum(by_token * token_weights) / arithmetic.sum(token_weights))
