"""LLaDA's sampler: fill masks block by block, committing the most confident tokens and leaving the rest masked.

The rules are those of ``generate.py`` of github.com/ML-GSAI/LLaDA. Where that script leaves the outcome to PyTorch, this one says:
ties go to the lowest index, both in the argmax over tokens and among equally confident positions. With guidance and no attention
mask, where the script stops with an error, all positions count as visible.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from model import border
from model.commit import REMASKING, Rules, Uniforms, commit_schedule, guided_logits, most_confident, predict
from model.transformer import Transformer
from refquant.errors import NumericalError, UsageError
from refquant.numerics.arrays import Array, read_only


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One denoising step. Arrays are read-only; T is prompt plus response."""

    step: int  # from 0, over all blocks
    block: int  # from 0
    before: Array  # [B, T] ids that the model saw
    masked: Array  # [B, T] bool, before == mask id, in the whole sequence
    logits: Array  # [B, T, rows] after guidance, before the end-of-text switches
    predicted: Array  # [B, T] the chosen token at every position, masked or not
    confidence: Array  # [B, T] its softmax probability, or the uniform draw with random remasking
    committed: Array  # [B, T] bool: positions whose prediction was written
    after: Array  # [B, T] ids


def generate(
    m: Transformer,
    prompt_ids: Any,
    *,
    gen_length: int = 128,
    block_length: int = 128,
    steps: int = 128,
    temperature: float = 0.0,
    cfg_scale: float = 0.0,
    remasking: str = "low_confidence",
    attention_mask: Any = None,
    eos_id: int | None = None,
    eot_id: int | None = None,
    logits_eos_inf: bool = False,
    confidence_eos_eot_inf: bool = False,
    rng: Uniforms | None = None,
    observer: Callable[[int, Array], None] | None = None,
) -> Array:
    """Continue prompts.

    Parameters
    ----------
    m : Transformer
        ``m.config.mask_token_id`` is the mask.
    prompt_ids : array_like of integers [B, P]
        Padded on the left where lengths differ. Masks inside are filled too, and compete with block 0 for its slots.
    gen_length, block_length, steps : int
        Tokens to make, tokens a block, and steps for all blocks together. `block_length` must divide `gen_length`, the number of
        blocks must divide `steps`.
    temperature : float
        0 takes the likeliest token; above, Gumbel noise scaled by it is added to the logits, in float64.
    cfg_scale : float
        Classifier-free guidance; 0 is off.
    remasking : {"low_confidence", "random"}
        What ranks the positions to commit: the probability of the predicted token (clean logits, no temperature), or chance.
    attention_mask : array_like of 0 and 1 [B, P], optional
        0 for padding.
    eos_id, eot_id : int, optional
        End of text and end of turn, for the two switches below. `eos_id` defaults to the config's ``eos_token_id``.
    logits_eos_inf : bool
        Never predict `eos_id`.
    confidence_eos_eot_inf : bool
        As in the public script, and not quite what its name says: after the prediction, `eot_id` (and with temperature 0 `eos_id`)
        loses its logit, so a position that predicted it gets confidence 0 and all other probabilities grow.
    rng : object with ``random(size, dtype)``, optional
        Needed with a temperature (one float64 draw [B, T, rows] a step) and with random remasking (then one float32 draw [B, T]).
    observer : callable(step_index, ids), optional
        Sees the sequence before the first step (index 0) and after every step.

    Returns
    -------
    ndarray of int64 [B, P + gen_length]
        Prompt included. Nothing stops at an end of text. Masks can be left where the prompt held some or the model predicts the mask.

    Raises
    ------
    UsageError
        If a setting is not allowed.
    InputError
        If the prompt or the mask is.
    NumericalError
        If the logits are not finite.

    Examples
    --------
    >>> import model
    >>> m, tokenizer = model.embedded(), model.Tokenizer.from_directory(model.embedded_directory())
    >>> prompt = [0, *tokenizer.encode("Q: 58+93=?\\nA:")]
    >>> tokenizer.decode(generate(m, [prompt], gen_length=12, block_length=12, steps=12)[0, len(prompt):])
    ' 58+93=151<|endoftext|><|endoftext|>'
    """
    x = np.zeros(0)
    for step in denoise(
        m,
        prompt_ids,
        gen_length=gen_length,
        block_length=block_length,
        steps=steps,
        temperature=temperature,
        cfg_scale=cfg_scale,
        remasking=remasking,
        attention_mask=attention_mask,
        eos_id=eos_id,
        eot_id=eot_id,
        logits_eos_inf=logits_eos_inf,
        confidence_eos_eot_inf=confidence_eos_eot_inf,
        rng=rng,
    ):
        if observer is not None and step.step == 0:
            observer(0, step.before)
        if observer is not None:
            observer(step.step + 1, step.after)
        x = step.after
    return x.copy()


def denoise(
    m: Transformer,
    prompt_ids: Any,
    *,
    gen_length: int = 128,
    block_length: int = 128,
    steps: int = 128,
    temperature: float = 0.0,
    cfg_scale: float = 0.0,
    remasking: str = "low_confidence",
    attention_mask: Any = None,
    eos_id: int | None = None,
    eot_id: int | None = None,
    logits_eos_inf: bool = False,
    confidence_eos_eot_inf: bool = False,
    rng: Uniforms | None = None,
) -> Iterator[Step]:
    """Run the sampler one step at a time.

    Parameters are those of :func:`generate`, which is a loop over this. They are checked at the call, before the first step.

    Returns
    -------
    iterator of Step
        `steps` of them. One forward pass each, so what a caller wants to know about a step costs no second one.

    Examples
    --------
    >>> import model
    >>> steps = denoise(model.embedded(), [[0, 1]], gen_length=4, block_length=2, steps=4)
    >>> [(step.block, int(np.count_nonzero(step.committed))) for step in steps]
    [(0, 1), (0, 1), (1, 1), (1, 1)]
    """
    rows = m.config.embedding_rows
    rules = Rules(
        mask_id=border.token_id(m.config.mask_token_id, rows, "the config's mask_token_id"),
        gen_length=border.count(gen_length, "gen_length"),
        block_length=border.count(block_length, "block_length"),
        steps=border.count(steps, "steps"),
        temperature=border.not_negative(temperature, "temperature"),
        cfg_scale=border.not_negative(cfg_scale, "cfg_scale"),
        remasking=remasking,
        no_eos=_eos(m, eos_id) if logits_eos_inf else None,
        doubtful=(_eos(m, eos_id), border.token_id(eot_id, rows, "eot_id")) if confidence_eos_eot_inf else None,
        rng=rng,
    )
    _check_together(rules)
    prompt = border.token_ids(prompt_ids, rows, "prompt_ids", may_be_empty=True)
    visible = None
    if attention_mask is not None:
        given = border.mask_of_ones(attention_mask, (prompt.shape[0], prompt.shape[1]))
        visible = np.concatenate([given, np.ones((len(prompt), rules.gen_length), dtype=bool)], axis=1)
    x = np.concatenate([prompt, np.full((len(prompt), rules.gen_length), rules.mask_id)], axis=1)
    return _steps(m, x, prompt.shape[1], visible, rules)


def _steps(m: Transformer, x: Array, start: int, visible: Array | None, rules: Rules) -> Iterator[Step]:
    prompt_index = x != rules.mask_id  # fixed here: generated tokens stay visible to the unconditional pass
    blocks = rules.gen_length // rules.block_length
    for block in range(blocks):
        end = start + (block + 1) * rules.block_length
        # Only the block's own masks are counted, and only now, although masks further left may take its slots.
        masks = np.count_nonzero(x[:, end - rules.block_length : end] == rules.mask_id, axis=1)
        for index, counts in enumerate(commit_schedule(masks, rules.steps // blocks).T):
            masked = x == rules.mask_id
            logits = guided_logits(m, x, prompt_index, rules.mask_id, rules.cfg_scale, visible)
            number = block * (rules.steps // blocks) + index
            if not np.isfinite(logits).all():
                raise NumericalError(f"step {number}: the logits are not finite")
            predicted, confidence = predict(m, logits, rules)
            candidates = masked & (np.arange(x.shape[1]) < end)
            committed = most_confident(np.where(candidates, confidence, -np.inf), counts)
            after = np.where(committed, predicted, x)
            yield Step(
                step=number,
                block=block,
                before=read_only(x),
                masked=read_only(masked),
                logits=read_only(logits),
                predicted=read_only(predicted),
                confidence=read_only(confidence),
                committed=read_only(committed),
                after=read_only(after),
            )
            x = after


def _eos(m: Transformer, eos_id: int | None) -> int:
    if eos_id is None:
        return border.token_id(m.config.eos_token_id, m.config.embedding_rows, "the config's eos_token_id")
    return border.token_id(eos_id, m.config.embedding_rows, "eos_id")


def _check_together(rules: Rules) -> None:
    if rules.remasking not in REMASKING:
        raise UsageError(f"remasking is {rules.remasking!r}; allowed: {', '.join(REMASKING)}")
    if rules.gen_length % rules.block_length:
        raise UsageError(f"block_length is {rules.block_length}; allowed: a divisor of gen_length {rules.gen_length}")
    blocks = rules.gen_length // rules.block_length
    if rules.steps % blocks:
        raise UsageError(f"steps is {rules.steps}; allowed: a multiple of the {blocks} blocks")
    if rules.rng is None and (rules.temperature > 0 or rules.remasking == "random"):
        why = f"temperature {rules.temperature}" if rules.temperature > 0 else "remasking 'random'"
        raise UsageError(f"rng is None with {why}; allowed: a numpy.random.Generator, as this run draws numbers")
