"""The parts of one denoising step: how many tokens to commit, which logits, which tokens, which positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from model.transformer import Transformer
from refquant.errors import UsageError
from refquant.numerics.arrays import Array
from refquant.numerics.ordering import argsort_descending

REMASKING = ("low_confidence", "random")


class Uniforms(Protocol):
    """A source of uniform numbers in [0, 1): a ``numpy.random.Generator``, or a replay of recorded draws."""

    def random(self, size: Any, dtype: Any, /) -> Any:
        """Draw an array of shape `size` and dtype `dtype`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The checked settings of one run."""

    mask_id: int
    gen_length: int
    block_length: int
    steps: int
    temperature: float
    cfg_scale: float
    remasking: str
    no_eos: int | None  # never predicted (logits_eos_inf)
    doubtful: tuple[int, int] | None  # (eos, eot): predicted, but with no confidence (confidence_eos_eot_inf)
    rng: Uniforms | None

    def draw(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Draw uniform numbers; ``UsageError`` without a generator."""
        if self.rng is None:
            raise UsageError("rng is None; allowed here: a numpy.random.Generator, as this run draws numbers")
        return np.asarray(self.rng.random(shape, dtype))


def commit_schedule(masks: Array, steps: int) -> Array:
    """How many tokens each step commits: as equal as can be, the larger shares first.

    Parameters
    ----------
    masks : ndarray of int [B]
        Masks in the block when it begins.
    steps : int
        Steps that the block gets. With more steps than masks the last ones commit nothing.

    Returns
    -------
    ndarray of int [B, steps]

    Examples
    --------
    >>> commit_schedule(np.array([8, 2]), 3)
    array([[3, 3, 2],
           [1, 1, 0]])
    """
    share, rest = np.divmod(masks[:, None], steps)
    return np.asarray(share + (np.arange(steps) < rest))


def aligned(m: Transformer, logits: Array) -> Array:
    """Move logits to the positions of the tokens that they are of.

    LLaDA's are there already. Dream's at position j are of the token at j + 1; position 0 keeps its own, as in the public code.

    Parameters
    ----------
    m : Transformer
    logits : ndarray [B, T, rows]
        As :meth:`~model.Transformer.logits` returns them.

    Returns
    -------
    ndarray [B, T, rows]
        The argument itself where there is nothing to move.

    Examples
    --------
    >>> import model
    >>> m = model.embedded()
    >>> logits = m.logits([[0, 1]])
    >>> aligned(m, logits) is logits
    True
    """
    shift = m.architecture.shift if isinstance(m, Transformer) else 0  # anything else with logits is taken at its word
    return logits if shift == 0 else np.concatenate([logits[:, :shift], logits[:, :-shift]], axis=1)


def guided_logits(
    m: Transformer, x: Array, prompt_index: Array, mask_id: int, cfg_scale: float, attention_mask: Array | None = None
) -> Array:
    """Logits with classifier-free guidance: ``u + (cfg_scale + 1) (c - u)``, where `u` is made with the prompt masked out; aligned.

    Parameters
    ----------
    m : Transformer
    x : ndarray of int [B, T]
    prompt_index : ndarray of bool [B, T]
        What to mask for `u`.
    mask_id : int
    cfg_scale : float
        With 0, only `c` is computed.
    attention_mask : ndarray of bool [B, T], optional

    Returns
    -------
    ndarray [B, T, rows]
    """
    if cfg_scale == 0:
        return aligned(m, m.logits(x, attention_mask))
    both = np.concatenate([x, np.where(prompt_index, mask_id, x)])
    conditional, unconditional = np.split(
        aligned(m, m.logits(both, None if attention_mask is None else np.tile(attention_mask, (2, 1)))), 2
    )
    return np.asarray(unconditional + (cfg_scale + 1) * (conditional - unconditional))


def predict(m: Transformer, logits: Array, rules: Rules) -> tuple[Array, Array]:
    """Choose a token at every position, and say how sure that is: ids [B, T], confidence [B, T]."""
    if rules.no_eos is not None or rules.doubtful is not None:
        logits = logits.copy()
    if rules.no_eos is not None:
        logits[..., rules.no_eos] = -np.inf
    if rules.temperature == 0:
        predicted = np.argmax(logits, axis=-1)
    else:
        predicted = np.argmax(_gumbel(m, logits, rules), axis=-1)
    if rules.doubtful is not None:
        eos, eot = rules.doubtful
        logits[..., eot] = -np.inf
        if rules.temperature == 0:  # the script's noisy logits are then the logits themselves, so both ids are struck
            logits[..., eos] = -np.inf
    if rules.remasking == "random":
        return predicted, rules.draw(predicted.shape, np.float32)
    shifted = m.arithmetic.exp(logits - np.max(logits, axis=-1, keepdims=True))  # softmax, in the logits' own dtype
    chosen = np.take_along_axis(shifted, predicted[..., None], axis=-1)[..., 0]
    return predicted, np.asarray(chosen / m.arithmetic.sum(shifted, axis=-1))


def _gumbel(m: Transformer, logits: Array, rules: Rules) -> Array:
    """``exp(logits) / (-ln U)^temperature`` in float64; its argmax is that of ``logits - temperature ln(-ln U)``."""
    uniform = rules.draw(logits.shape, np.float64)
    # U = 0 gives an infinite divisor, hence 0: never chosen. Logits above 709 overflow to infinity, as they do in the script.
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        noise = m.arithmetic.power(-m.arithmetic.log(uniform), rules.temperature)
        return np.asarray(m.arithmetic.exp(logits.astype(np.float64)) / noise)


def most_confident(confidence: Array, counts: Array) -> Array:
    """Mark the ``counts[b]`` highest of each row of `confidence` [B, T]; ties go to the lowest index."""
    order = argsort_descending(confidence)
    marked = np.zeros(confidence.shape, dtype=bool)
    np.put_along_axis(marked, order, np.arange(confidence.shape[1]) < counts[:, None], axis=1)
    return marked
