"""The Monte-Carlo bound on the likelihood of an answer, as ``get_log_likelihood.py`` of github.com/ML-GSAI/LLaDA computes it.

Mask ``l`` of the answer's ``L`` tokens, ``l`` uniform; sum the cross-entropies of the masked tokens; multiply by ``L / l``. The
expectation is an upper bound on ``-log p(answer | prompt)``: it is exact for a model that generates in random order.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from model import border
from model.commit import guided_logits
from model.sampling import generate
from model.transformer import Transformer
from refquant.errors import UsageError
from refquant.numerics.arrays import Array
from refquant.numerics.draws import integers_below, sample_without_replacement


def nll_bound(
    m: Transformer,
    prompt: Any,
    answer: Any,
    *,
    mc_num: int = 128,
    batch_size: int = 16,
    cfg_scale: float = 0.0,
    rng: np.random.Generator,
) -> float:
    """Estimate the bound on the negative log-likelihood of `answer` after `prompt`.

    Parameters
    ----------
    m : Transformer
    prompt, answer : array_like of integers [P], [L]
        The prompt is always visible and may be empty.
    mc_num : int
        Masked copies to average over, a multiple of `batch_size`. 1 is exact where the answer has one token.
    batch_size : int
        Copies that share one draw of the mask count, spread evenly over 1..L from there, and one forward pass.
    cfg_scale : float
        Classifier-free guidance; 0 is off.
    rng : numpy.random.Generator
        Two models given generators of the same state see the same masks.

    Returns
    -------
    float
        Nats for the whole answer, not per token; the lower the likelier.

    Raises
    ------
    UsageError, InputError
        If a setting is not allowed, the answer is empty, or ids are out of range.

    Examples
    --------
    >>> import model
    >>> m = model.embedded()
    >>> round(nll_bound(m, [0, 52, 29], [224, 24], mc_num=8, batch_size=4, rng=np.random.default_rng(0)))
    7
    """
    cfg_scale = border.not_negative(cfg_scale, "cfg_scale")
    perturbed, p_mask = masked_copies(m, prompt, answer, mc_num=mc_num, batch_size=batch_size, rng=rng)
    tokens = np.concatenate([np.asarray(prompt, dtype=np.int64), np.asarray(answer, dtype=np.int64)])
    batches = zip(perturbed, p_mask)
    losses = [masked_losses(m, x, p, tokens, np.size(prompt), cfg_scale=cfg_scale) for x, p in batches]
    return float(m.arithmetic.mean(np.concatenate(losses)))


def is_greedy(m: Transformer, prompt: Any, answer: Any, *, cfg_scale: float = 0.0) -> bool:
    """Whether the model, left to itself, would give exactly this answer.

    The answer's length is all it is told: one token a step, the surest one first, no noise (``suffix_greedy_prediction`` of the public
    evaluation). The public code does the softmax that ranks positions in float32; this does it in the model's dtype.

    Parameters
    ----------
    m : Transformer
    prompt, answer : array_like of integers [P], [L]
    cfg_scale : float
        Classifier-free guidance; 0 is off.

    Raises
    ------
    UsageError, InputError
        As :func:`nll_bound`.

    Examples
    --------
    >>> import model
    >>> m, tokenizer = model.embedded(), model.Tokenizer.from_directory(model.embedded_directory())
    >>> prompt, answer = [0, *tokenizer.encode("Q: 58+93=?\\nA:")], tokenizer.encode(" 58+93=151<|endoftext|><|endoftext|>")
    >>> is_greedy(m, prompt, answer), is_greedy(m, prompt, answer[::-1])
    (True, False)
    """
    rows = m.config.embedding_rows
    before = border.token_ids(prompt, rows, "prompt", rank=1, may_be_empty=True)
    after = border.token_ids(answer, rows, "answer", rank=1)
    length = len(after)
    made = generate(m, before[None], gen_length=length, block_length=length, steps=length, cfg_scale=cfg_scale)
    return bool((made[0, len(before) :] == after).all())


def masked_copies(
    m: Transformer, prompt: Any, answer: Any, *, mc_num: int, batch_size: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Draw the masked copies that :func:`nll_bound` averages over.

    Returns
    -------
    perturbed : ndarray of int64 [mc_num / batch_size, batch_size, P + L]
        Row by row, an exact number of answer positions, uniformly chosen, replaced by the mask.
    p_mask : ndarray of float64, same shape
        The row's masked share of the answer, at every position.
    """
    mc_num, batch_size = border.count(mc_num, "mc_num"), border.count(batch_size, "batch_size")
    if mc_num % batch_size:
        raise UsageError(f"mc_num is {mc_num}; allowed: a multiple of batch_size {batch_size}")
    rows = m.config.embedding_rows
    mask_id = border.token_id(m.config.mask_token_id, rows, "the config's mask_token_id")
    before = border.token_ids(prompt, rows, "prompt", rank=1, may_be_empty=True)
    after = border.token_ids(answer, rows, "answer", rank=1)
    batches, length = mc_num // batch_size, len(after)
    copies = np.tile(np.concatenate([before, after]), (batches, batch_size, 1))
    counts = np.empty((batches, batch_size), dtype=np.int64)
    for batch in range(batches):
        first = 1 + int(integers_below(rng, length, 1)[0])
        counts[batch] = stratified_counts(first, length, batch_size)
        for row in range(batch_size):
            hidden = sample_without_replacement(rng, length, int(counts[batch, row]))
            copies[batch, row, len(before) + hidden] = mask_id
    return copies, np.broadcast_to((counts / length)[..., None], copies.shape)


def stratified_counts(first: int, length: int, batch: int) -> Array:
    """Mask counts in 1..length, evenly spread from `first` on and wrapped around; halves round to even.

    Examples
    --------
    >>> stratified_counts(3, 8, 4)
    array([3, 5, 7, 1])
    """
    spread = np.rint(np.linspace(first, first + (batch - 1) * (length / batch), batch)).astype(np.int64)
    return np.asarray((spread - 1) % length + 1)


def masked_losses(m: Transformer, perturbed: Any, p_mask: Array, tokens: Any, prompt_length: int, *, cfg_scale: float = 0.0) -> Array:
    """Cross-entropy of the masked tokens of each row, each divided by its `p_mask`.

    Parameters
    ----------
    m : Transformer
    perturbed : array_like of integers [B, T]
        Every position that holds the mask counts, one in the prompt too.
    p_mask : ndarray [B, T]
    tokens : array_like of integers [T]
        What the masks hide.
    prompt_length : int
        Positions below it are masked in the unconditional pass of guidance.
    cfg_scale : float

    Returns
    -------
    ndarray of float64 [B]
        Nats. Softmax and sum are done in float64 whatever the dtype of the model.
    """
    rows = m.config.embedding_rows
    mask_id = border.token_id(m.config.mask_token_id, rows, "the config's mask_token_id")
    perturbed = border.token_ids(perturbed, rows, "perturbed")
    target = np.broadcast_to(border.token_ids(tokens, rows, "tokens", rank=1), perturbed.shape)
    prompt_index = np.broadcast_to(np.arange(perturbed.shape[1]) < prompt_length, perturbed.shape)
    logits = guided_logits(m, perturbed, prompt_index, mask_id, cfg_scale)
    masked = perturbed == mask_id
    wanted = logits[masked].astype(np.float64)  # [masks, rows]
    hit = np.take_along_axis(wanted, target[masked][:, None], axis=-1)[:, 0]
    losses = np.zeros(perturbed.shape, dtype=np.float64)
    losses[masked] = (m.arithmetic.logsumexp(wanted) - hit) / p_mask[masked]
    return m.arithmetic.sum(losses, axis=1)
