"""The NLL bound of every model on the same masked texts, and in the same passes how far its predictions are from the reference's.

For one masked copy with ``l`` masked positions every number is the mean over those positions; with masks drawn as in
:mod:`~refquant.apply.evaluation.masks`, the mean of ``-log p`` over copies estimates the bound of definition 2.1 per token (its weight
``L / l`` over `L` tokens is ``1 / l``). Copies average to a number a text, texts to the estimate: each text counts the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from refquant.apply.evaluation.batches import Models, Progress, alike, finite_logits, in_batches, mask_id, rows_at_once, run_all
from refquant.apply.evaluation.data import Text
from refquant.apply.evaluation.distances import Distributions, kl_divergence, ratio, row_means, total_variation
from refquant.apply.evaluation.intervals import Bootstrap, Estimate
from refquant.apply.evaluation.masks import text_masks
from refquant.numerics import Arithmetic
from refquant.numerics.arrays import Array, read_only

BINS = 4
"""Bins of the mask ratio ``l / L``: (0, 1/4], (1/4, 1/2], ..."""

_STATISTICS = ("nll", "kl", "reverse_kl", "total_variation", "flips")


@dataclass(frozen=True, slots=True, kw_only=True)
class Likelihood:
    """What one model scores on the masked texts. Differences are the model's minus the reference's, on the same masks."""

    nll: Estimate  # bound, nats a token
    difference: Estimate
    perplexity: float | None  # exp of the bound: a bound too; None where float64 cannot hold it
    nll_by_ratio: tuple[Estimate, ...]  # mean cross-entropy of masked tokens, by mask ratio
    difference_by_ratio: tuple[Estimate, ...]
    kl: Estimate  # KL(p_reference || p_model), nats, at masked positions
    reverse_kl: Estimate  # KL(p_model || p_reference)
    total_variation: Estimate
    flips: Estimate  # share of masked positions with another argmax
    nll_mask_error: float | None  # standard error of the bound from the draw of the masks alone, the texts taken as given
    difference_mask_error: float | None  # the same of the paired difference: common masks make it much smaller
    nll_per_text: Array  # float64 [texts]
    difference_per_text: Array  # float64 [texts]


def likelihoods(
    models: Models, texts: Sequence[Text], masks: int, seed: int, bootstrap: Bootstrap, workers: int = 1, progress: Progress | None = None
) -> list[Likelihood]:
    """Score every model.

    Parameters
    ----------
    models : mapping of str to Transformer
        The first is the reference.
    texts : sequence of Text
        Without mask tokens.
    masks : int
        Masked copies of each text.
    seed : int
    bootstrap : Bootstrap
    workers : int
        Threads; the result does not depend on their timing.
    progress : callable, optional

    Returns
    -------
    list of Likelihood
        One a model, in order.

    Raises
    ------
    NumericalError
        If a model's logits are not finite.
    """
    masked = [text_masks(seed, index, len(text.ids), masks) for index, text in enumerate(texts)]
    scores = score_texts(models, [np.asarray(text.ids) for text in texts], masked, workers, progress)
    counts = np.array([np.count_nonzero(m, axis=1) for m in masked]).reshape(scores.shape[2:])
    lengths = np.array([[len(text.ids)] for text in texts]).reshape(len(texts), 1)
    bins = (BINS * counts - 1) // np.maximum(lengths, 1)  # [texts, masks]
    return [_summary(scores[index], scores[0, 0], bins, bootstrap) for index in range(len(models))]


def score_texts(
    models: Models, texts: Sequence[Array], masked: Sequence[Array], workers: int = 1, progress: Progress | None = None
) -> Array:
    """Mean of each statistic over the masked positions of each copy.

    Parameters
    ----------
    models : mapping of str to Transformer
    texts : sequence of ndarray of int [L]
        Lengths may differ.
    masked : sequence of ndarray of bool [K, L]

    Returns
    -------
    ndarray of float64 [models, 5, texts, K]
        Negative log-likelihood, KL to the model, KL from it, total variation, flips.
    """
    reference = next(iter(models.values()))
    masks = masked[0].shape[0] if masked else 0
    jobs: list[Array] = []
    for (length,), group in alike([(len(text),) for text in texts]).items():
        flat = [text * masks + copy for text in group for copy in range(masks)]
        jobs += in_batches(flat, rows_at_once(length, reference.config.embedding_rows))

    def score(copies: Array) -> Array:
        hidden = np.stack([masked[i // masks][i % masks] for i in copies.tolist()])
        return _score_batch(models, np.stack([texts[i // masks] for i in copies.tolist()]), hidden)

    scores = np.full((len(models), len(_STATISTICS), len(texts) * masks), np.nan)
    for copies, found in zip(jobs, run_all(score, jobs, workers, "likelihood", progress)):
        scores[:, :, copies] = found
    return scores.reshape(len(models), len(_STATISTICS), len(texts), masks)


def _score_batch(models: Models, tokens: Array, masked: Array) -> Array:
    """[models, 5, B] for tokens [B, L]; the reference's logits live no longer than this call."""
    (first, reference), *candidates = models.items()
    arithmetic = reference.arithmetic
    ids = np.where(masked, mask_id(reference), tokens)
    target = tokens[masked]
    true = Distributions.of(finite_logits(first, reference, ids)[masked], arithmetic)
    scores = np.zeros((len(models), len(_STATISTICS), len(tokens)))
    scores[0, 0] = row_means(_surprise(true, target), masked, arithmetic)
    for index, (name, model) in enumerate(candidates, start=1):
        found = Distributions.of(finite_logits(name, model, ids)[masked], arithmetic)
        scores[index] = [row_means(values, masked, arithmetic) for values in _statistics(true, found, target, arithmetic)]
    return scores


def _surprise(found: Distributions, target: Array) -> Array:
    return -np.take_along_axis(found.log_p, target[:, None], axis=-1)[:, 0]


def _statistics(true: Distributions, found: Distributions, target: Array, arithmetic: Arithmetic) -> list[Array]:
    """In the order of _STATISTICS, each [masked positions]."""
    return [
        _surprise(found, target),
        kl_divergence(true, found, arithmetic),
        kl_divergence(found, true, arithmetic),
        total_variation(true, found, arithmetic),
        found.top != true.top,
    ]


def _summary(scores: Array, reference_nll: Array, bins: Array, bootstrap: Bootstrap) -> Likelihood:
    arithmetic = bootstrap.arithmetic
    per_text = {name: _text_means(values, arithmetic) for name, values in zip(_STATISTICS, scores)}
    difference = scores[0] - reference_nll  # [texts, masks]
    difference_per_text = _text_means(difference, arithmetic)
    nll = bootstrap.mean(per_text["nll"])
    return Likelihood(
        nll=nll,
        difference=bootstrap.mean(difference_per_text),
        perplexity=_exp(nll.mean, arithmetic),
        nll_by_ratio=tuple(bootstrap.mean(_bin_means(scores[0], bins == b, arithmetic)) for b in range(BINS)),
        difference_by_ratio=tuple(bootstrap.mean(_bin_means(difference, bins == b, arithmetic)) for b in range(BINS)),
        kl=bootstrap.mean(per_text["kl"]),
        reverse_kl=bootstrap.mean(per_text["reverse_kl"]),
        total_variation=bootstrap.mean(per_text["total_variation"]),
        flips=bootstrap.mean(per_text["flips"]),
        nll_mask_error=mask_error(scores[0], arithmetic),
        difference_mask_error=mask_error(difference, arithmetic),
        nll_per_text=read_only(per_text["nll"]),
        difference_per_text=read_only(difference_per_text),
    )


def mask_error(values: Array, arithmetic: Arithmetic) -> float | None:
    """Standard error of the mean over texts that comes from the masks: the texts' variances over copies, as of independent copies.

    The copies of a text are spread evenly over the mask ratios, which makes the true error smaller than this. None for fewer than two
    copies a text, or no text.

    Parameters
    ----------
    values : float64 ndarray ``[texts, copies]``
    arithmetic : Arithmetic

    Examples
    --------
    >>> from refquant.numerics import FAST
    >>> mask_error(np.array([[1.0, 3.0], [2.0, 2.0]]), FAST)
    0.5
    """
    texts, copies = values.shape
    if not texts or copies < 2:
        return None
    deviation = values - arithmetic.mean(values, axis=1, keepdims=True)
    total = float(arithmetic.sum(deviation * deviation))
    return float(np.sqrt(total / ((copies - 1) * copies)) / texts)


def _text_means(values: Array, arithmetic: Arithmetic) -> Array:
    return arithmetic.mean(values, axis=1) if values.size else np.zeros(0)  # no texts, no means


def _exp(nll: float | None, arithmetic: Arithmetic) -> float | None:
    # Above, float64 ends; a model that bad has no perplexity worth a number.
    return None if nll is None or nll > 709 else float(arithmetic.exp(np.asarray(nll)))


def _bin_means(values: Array, inside: Array, arithmetic: Arithmetic) -> Array:
    """Mean over the copies of each text whose mask ratio is in the bin; NaN for a text without one."""
    total = arithmetic.sum(np.where(inside, values, 0.0), axis=1)
    return ratio(total, np.count_nonzero(inside, axis=1).astype(np.float64))
