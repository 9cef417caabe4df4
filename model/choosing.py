"""Choose one token at each of several positions: temperature, top-p, top-k, and a draw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model import border
from model.commit import Uniforms
from refquant.errors import UsageError
from refquant.numerics import Arithmetic
from refquant.numerics.arrays import Array
from refquant.numerics.ordering import argsort_descending


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The checked settings of one run."""

    temperature: float
    top_p: float | None
    top_k: int | None
    top_p_first: bool
    rng: Uniforms | None

    @classmethod
    def checked(cls, temperature: float, top_p: float | None, top_k: int | None, top_p_first: bool, rng: Uniforms | None) -> Choice:
        """Check what a caller hands in; ``UsageError``."""
        temperature = border.not_negative(temperature, "temperature")
        if temperature > 0:
            border.generator(rng, f"temperature {temperature}")
        return cls(
            temperature=temperature,
            top_p=None if top_p is None else border.fraction(top_p, "top_p"),
            top_k=None if top_k is None else border.count(top_k, "top_k"),
            top_p_first=top_p_first,
            rng=rng,
        )

    def filtered(self, logits: Array, arithmetic: Arithmetic) -> Array:
        """Logits [N, V] over the temperature, with what top-p and top-k exclude at the lowest finite number."""
        if self.temperature > 0:
            logits = np.asarray(logits / np.asarray(self.temperature, dtype=logits.dtype))
        if self.top_p_first:
            return keep_top_k(keep_top_p(logits, self.top_p, arithmetic), self.top_k)
        return keep_top_p(keep_top_k(logits, self.top_k), self.top_p, arithmetic)

    def choose(self, probabilities: Array) -> Array:
        """Tokens [N]: the likeliest one at temperature 0, the first of equals; else drawn with one float64 each."""
        if self.temperature == 0 or not len(probabilities):
            return np.asarray(np.argmax(probabilities, axis=-1))
        if self.rng is None:
            raise UsageError("rng is None; allowed here: a numpy.random.Generator, as this run draws numbers")
        return inverse_cdf(probabilities, np.asarray(self.rng.random((len(probabilities),), np.float64)))


def keep_top_p(logits: Array, top_p: float | None, arithmetic: Arithmetic) -> Array:
    """Exclude tokens once the probability of the strictly likelier ones exceeds `top_p`; the likeliest always stays.

    Examples
    --------
    >>> from refquant.numerics import FAST
    >>> keep_top_p(np.log(np.array([[0.5, 0.1, 0.4]])), 0.6, FAST).argmin(), keep_top_p(np.zeros((1, 2)), None, FAST).tolist()
    (np.int64(1), [[0.0, 0.0]])
    """
    if top_p is None or top_p >= 1:
        return logits
    order = argsort_descending(logits)  # [N, V]
    probabilities = arithmetic.softmax(np.take_along_axis(logits, order, axis=-1))
    excluded = np.zeros(logits.shape, dtype=bool)
    excluded[..., 1:] = np.cumsum(probabilities, axis=-1)[..., :-1] > np.asarray(top_p, dtype=logits.dtype)
    back = np.empty_like(excluded)
    np.put_along_axis(back, order, excluded, axis=-1)
    return np.where(back, np.finfo(logits.dtype).min, logits)


def keep_top_k(logits: Array, top_k: int | None) -> Array:
    """Exclude tokens below the `top_k`-th largest logit; what equals it stays."""
    if top_k is None or top_k >= logits.shape[-1]:
        return logits
    least = np.sort(logits, axis=-1)[..., -top_k, None]
    return np.where(logits < least, np.finfo(logits.dtype).min, logits)


def inverse_cdf(probabilities: Array, uniform: Array) -> Array:
    """Draw from each row of `probabilities` [N, V], which need not add up to one, by one number in [0, 1) each.

    Examples
    --------
    >>> inverse_cdf(np.array([[0.0, 0.5, 0.0, 0.5]] * 3), np.array([0.0, 0.49, 0.5])).tolist()
    [1, 1, 3]
    """
    cumulative = np.cumsum(probabilities, axis=-1, dtype=np.float64)
    passed = np.count_nonzero(cumulative <= uniform[:, None] * cumulative[:, -1:], axis=-1)
    return np.asarray(np.minimum(passed, probabilities.shape[-1] - 1))
