"""LLaDA2's sampler: block diffusion. Blocks are finished one after the other, each under a block-causal mask.

The rules are those of ``generate`` in ``modeling_llada2_moe.py`` as published with inclusionAI/LLaDA2.0-mini. Of equal confidences the
lowest position comes first. Blocks are counted from the start of the *prompt*, so the first one to be filled usually begins with tokens
of the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from model import border
from model.choosing import Choice
from model.commit import Uniforms, commit_schedule, most_confident
from model.sampling import Step
from model.transformer import Transformer
from model.visibility import block_causal
from refquant.errors import InputError, NumericalError, UsageError
from refquant.numerics import Arithmetic
from refquant.numerics.arrays import Array, read_only


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    mask_id: int
    eos_id: int | None
    start: int  # prompt tokens
    block_length: int
    schedule: Array  # [steps] tokens to commit at least, where that many are masked
    threshold: float
    eos_early_stop: bool
    choice: Choice


def generate_llada2(
    m: Transformer,
    prompt_ids: Any,
    *,
    gen_length: int = 128,
    block_length: int = 32,
    steps: int = 32,
    threshold: float = 0.95,
    temperature: float = 0.0,
    top_p: float | None = None,
    top_k: int | None = None,
    minimal_topk: int = 1,
    eos_early_stop: bool = False,
    eos_id: int | None = None,
    mask_id: int | None = None,
    rng: Uniforms | None = None,
    observer: Callable[[int, Array], None] | None = None,
) -> Array:
    """Continue one prompt.

    Parameters
    ----------
    m : Transformer
        Of a family that takes masks of pairs; see :mod:`model.visibility`.
    prompt_ids : array_like of integers [1, P]
    gen_length, block_length, steps : int
        Most tokens to make, tokens a block, and most steps a *block*; `steps` is capped at ``gen_length // minimal_topk``.
    threshold : float
        A step commits all tokens that are more probable than this, if those are as many as the block's schedule asks for; otherwise as
        many as the schedule asks for, the most probable first.
    temperature, top_p, top_k
        At temperature 0 the likeliest token is taken, and its probability is that among all tokens: the filters then play no part.
        Above, tokens are drawn with one float64 each, over the whole block.
    minimal_topk : int
        See `steps`.
    eos_early_stop : bool
        Stop in the middle of a block once an end of text is committed with no mask left before it.
    eos_id, mask_id : int, optional
        Default to the config's ``eos_token_id`` and ``mask_token_id``. Without an end of text nothing stops early.
    rng : object with ``random(size, dtype)``, optional
        Needed with a temperature.
    observer : callable(step_index, ids), optional
        Sees the window, from the start of the prompt to the end of the block, before every step, and after the last one.

    Returns
    -------
    ndarray of int64 [1, N]
        What follows the prompt, up to and including the first end of text; N is `gen_length` where there is none.

    Raises
    ------
    UsageError, InputError, NumericalError
        As :func:`model.generate`.

    Examples
    --------
    >>> import model
    >>> from model.names import tensor_shapes
    >>> keys = {"vocab_size": 8, "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1}
    >>> keys |= {"model_type": "llada2_moe", "intermediate_size": 4, "num_experts": None, "mask_token_id": 7, "use_bias": False}
    >>> config = model.Config.from_dict(keys)
    >>> rng = np.random.default_rng(0)
    >>> m = model.build(config, {name: rng.normal(size=shape).astype("float32") for name, shape in tensor_shapes(config).items()})
    >>> generate_llada2(m, [[1, 2, 3]], gen_length=5, block_length=4).shape
    (1, 5)
    """
    prompt, run, x = _prepare(
        m,
        prompt_ids,
        gen_length=gen_length,
        block_length=block_length,
        steps=steps,
        threshold=threshold,
        choice=Choice.checked(temperature, top_p, top_k, False, rng),
        minimal_topk=minimal_topk,
        eos_early_stop=eos_early_stop,
        eos_id=eos_id,
        mask_id=mask_id,
    )
    calls, window = 0, prompt
    for step in _steps(m, x, run):
        if observer is not None:
            observer(step.step, step.before)
        calls, window = step.step + 1, step.after
    if observer is not None:
        observer(calls, window)
    made = np.full((1, gen_length), run.mask_id)
    found = window[:, run.start : run.start + gen_length]
    made[:, : found.shape[1]] = found
    ends = np.flatnonzero(made[0] == run.eos_id) if run.eos_id is not None else np.zeros(0, dtype=np.int64)
    return made[:, : ends[0] + 1] if len(ends) else made


def denoise_llada2(m: Transformer, prompt_ids: Any, **settings: Any) -> Iterator[Step]:
    """Run the sampler one step at a time.

    Parameters
    ----------
    m, prompt_ids
        As in :func:`generate_llada2`.
    **settings
        Those of :func:`generate_llada2` but `observer`.

    Returns
    -------
    iterator of Step
        One a forward pass. Arrays cover the window, from the start of the prompt to the end of the block.

    Examples
    --------
    >>> import model
    >>> from model.names import tensor_shapes
    >>> keys = {"vocab_size": 8, "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1}
    >>> keys |= {"model_type": "llada2_moe", "intermediate_size": 4, "num_experts": None, "mask_token_id": 7, "use_bias": False}
    >>> config = model.Config.from_dict(keys)
    >>> rng = np.random.default_rng(0)
    >>> m = model.build(config, {name: rng.normal(size=shape).astype("float32") for name, shape in tensor_shapes(config).items()})
    >>> steps = denoise_llada2(m, [[1, 2, 3]], gen_length=5, block_length=4, steps=2, threshold=1)
    >>> [(step.block, step.after.shape[1], int(np.count_nonzero(step.committed))) for step in steps]
    [(0, 4, 1), (1, 8, 2), (1, 8, 2)]
    """
    defaults: dict[str, Any] = {"gen_length": 128, "block_length": 32, "steps": 32, "threshold": 0.95, "minimal_topk": 1}
    defaults |= {"eos_early_stop": False, "eos_id": None, "mask_id": None}
    drawing: dict[str, Any] = {"temperature": 0.0, "top_p": None, "top_k": None, "rng": None}
    for name in settings:
        if name not in defaults and name not in drawing:
            raise UsageError(f"there is no setting {name!r}; allowed: {', '.join([*defaults, *drawing])}")
    given = {**defaults, **drawing, **settings}
    choice = Choice.checked(given["temperature"], given["top_p"], given["top_k"], False, given["rng"])
    _, run, x = _prepare(m, prompt_ids, choice=choice, **{name: given[name] for name in defaults})
    return _steps(m, x, run)


def _prepare(
    m: Transformer,
    prompt_ids: Any,
    *,
    gen_length: int,
    block_length: int,
    steps: int,
    threshold: float,
    choice: Choice,
    minimal_topk: int,
    eos_early_stop: bool,
    eos_id: int | None,
    mask_id: int | None,
) -> tuple[Array, _Run, Array]:
    if m.architecture.masking != "allowed":
        raise UsageError(f"this is a {m.architecture.family} model; allowed: one that takes block-causal masks (LLaDA2)")
    rows = m.config.embedding_rows
    prompt = border.token_ids(prompt_ids, rows, "prompt_ids", may_be_empty=True)
    if len(prompt) != 1:
        raise InputError(f"prompt_ids has {len(prompt)} rows; allowed: 1, as prompts end in different blocks")
    block_length, gen_length = border.count(block_length, "block_length"), border.count(gen_length, "gen_length")
    capped = min(border.count(steps, "steps"), gen_length // border.count(minimal_topk, "minimal_topk"))
    if capped < 1:
        raise UsageError(f"minimal_topk is {minimal_topk}; allowed: at most gen_length {gen_length}")
    mask = m.config.mask_token_id if mask_id is None else mask_id
    eos = m.config.eos_token_id if eos_id is None else eos_id
    run = _Run(
        mask_id=border.token_id(mask, rows, "mask_id (or the config's mask_token_id)"),
        eos_id=None if eos is None else border.token_id(eos, rows, "eos_id (or the config's eos_token_id)"),
        start=prompt.shape[1],
        block_length=block_length,
        schedule=commit_schedule(np.array([block_length]), capped)[0],
        threshold=border.not_negative(threshold, "threshold"),
        eos_early_stop=bool(eos_early_stop),
        choice=choice,
    )
    whole = -(-(run.start + gen_length) // block_length) * block_length
    x = np.full((1, whole), run.mask_id)
    x[:, : run.start] = prompt
    return prompt, run, x


def _steps(m: Transformer, x: Array, run: _Run) -> Iterator[Step]:
    number = 0
    for block in range(run.start // run.block_length, x.shape[1] // run.block_length):
        end = (block + 1) * run.block_length
        window, allowed = x[:, :end], block_causal(end, run.block_length)
        for wanted in run.schedule:
            masked = window == run.mask_id
            masked[:, : end - run.block_length] = False
            if not masked.any():
                break
            logits = m.logits(window, allowed)  # [1, end, V]
            if not np.isfinite(logits).all():
                raise NumericalError(f"step {number}: the logits are not finite")
            predicted, confidence = _predict(m.arithmetic, logits, window, run)
            committed = _commit(confidence, masked, int(wanted), run.threshold)
            after = np.where(committed, predicted, window)
            yield Step(
                step=number,
                block=block,
                before=read_only(window),
                masked=read_only(masked),
                logits=read_only(logits),
                predicted=read_only(predicted),
                confidence=read_only(confidence),
                committed=read_only(committed),
                after=read_only(after),
            )
            number, window = number + 1, after
            if run.eos_early_stop and (predicted[committed] == run.eos_id).any() and _ended(window, run):
                return
        x[:, :end] = window
        if run.eos_id is not None and (x[0, run.start : end] == run.eos_id).any():
            return


def _predict(arithmetic: Arithmetic, logits: Array, window: Array, run: _Run) -> tuple[Array, Array]:
    """Tokens [1, T] and their probabilities in the block at the window's end; before it the window as it is, and -inf."""
    predicted, confidence = window.copy(), np.full(window.shape, -np.inf, dtype=logits.dtype)
    last = logits[0, -run.block_length :]  # [block, V]
    if run.choice.temperature > 0:
        last = run.choice.filtered(last, arithmetic)
    probabilities = arithmetic.softmax(last)
    tokens = run.choice.choose(probabilities) if run.choice.temperature > 0 else np.argmax(last, axis=-1)
    predicted[0, -run.block_length :] = tokens
    confidence[0, -run.block_length :] = np.take_along_axis(probabilities, tokens[:, None], axis=-1)[:, 0]
    return predicted, confidence


def _commit(confidence: Array, masked: Array, wanted: int, threshold: float) -> Array:
    sure = masked & (confidence > np.asarray(threshold, dtype=confidence.dtype))
    if np.count_nonzero(sure) >= wanted:
        return np.asarray(sure)
    counts = np.array([min(wanted, np.count_nonzero(masked))])
    return most_confident(np.where(masked, confidence, -np.inf), counts)


def _ended(window: Array, run: _Run) -> bool:
    made = window[0, run.start :]
    first = int(np.argmax(made == run.eos_id))
    return bool((made[:first] != run.mask_id).all())
