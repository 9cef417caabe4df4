"""Dream's sampler: no blocks; every step commits some of all masks that are left, by chance or by confidence.

The rules are those of ``generation_utils.py`` as published with Dream-org/Dream-v0-Base-7B. What it leaves to PyTorch is fixed here: of
equal confidences the lowest position comes first, and draws other than those of ``origin`` are made as :mod:`model.choosing` and
:func:`without_replacement` say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from model import border
from model.choosing import Choice
from model.commit import Uniforms, aligned, most_confident
from model.sampling import Step
from model.transformer import Transformer
from refquant.errors import NumericalError, UsageError
from refquant.numerics import Arithmetic
from refquant.numerics.arrays import Array, read_only

ALGORITHMS = ("origin", "entropy", "maskgit_plus", "topk_margin")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    mask_id: int
    steps: int
    times: Array  # float32 [steps + 1]
    alg: str
    alg_temp: float
    choice: Choice
    rng: Uniforms | None

    def share(self, step: int) -> np.float32:
        """Share of the masks left that this step commits, in float32; all of them in the last one."""
        return np.float32(1) if step == self.steps - 1 else np.float32(1) - self.times[step + 1] / self.times[step]


def generate_dream(
    m: Transformer,
    prompt_ids: Any,
    *,
    max_new_tokens: int = 128,
    steps: int = 512,
    eps: float = 1e-3,
    alg: str = "origin",
    alg_temp: float | None = None,
    temperature: float = 0.0,
    top_p: float | None = None,
    top_k: int | None = None,
    attention_mask: Any = None,
    rng: Uniforms | None = None,
    observer: Callable[[int, Array], None] | None = None,
) -> Array:
    """Continue prompts as Dream's ``diffusion_generate`` does.

    Parameters
    ----------
    m : Transformer
        Logits are moved by the model's own shift, which only Dream has.
    prompt_ids : array_like of integers [B, P]
        Padded on the left where lengths differ. Masks inside are filled too.
    max_new_tokens, steps : int
        Tokens to make, and steps to make them in; with few masks left a step may commit none.
    eps : float
        Where the line of times from 1 ends; step i commits a share ``1 - t[i+1] / t[i]``.
    alg : {"origin", "entropy", "maskgit_plus", "topk_margin"}
        ``origin`` commits each mask by chance (one float32 draw for each that is left, row by row). The others commit the surest, by the
        negative entropy, the probability of the token, or its lead over the second. Their count is shared by all rows: in a row with
        fewer masks than that, other positions are overwritten by the mask, as in the public code.
    alg_temp : float, optional
        Above 0: positions are drawn by ``softmax(confidence / alg_temp)`` instead (one float64 draw [B, T]).
    temperature, top_p, top_k
        Of the token at each position; a temperature costs one float64 draw for each token chosen.
    attention_mask : array_like of 0 and 1 [B, P], optional
        0 for padding.
    rng : object with ``random(size, dtype)``, optional
        Needed by ``origin``, `alg_temp` and `temperature`.
    observer : callable(step_index, ids), optional
        Sees the sequence before the first step (index 0) and after every step.

    Returns
    -------
    ndarray of int64 [B, P + max_new_tokens]

    Raises
    ------
    UsageError, InputError, NumericalError
        As :func:`model.generate`.

    Examples
    --------
    The embedded model is a LLaDA, whose logits need no shift; this sampler runs it all the same.

    >>> import model
    >>> m, tokenizer = model.embedded(), model.Tokenizer.from_directory(model.embedded_directory())
    >>> prompt = [0, *tokenizer.encode("Q: 58+93=?\\nA:")]
    >>> found = generate_dream(m, [prompt], max_new_tokens=12, steps=12, alg="maskgit_plus")
    >>> found.shape == (1, len(prompt) + 12)
    True
    """
    x = np.zeros(0)
    for step in denoise_dream(
        m,
        prompt_ids,
        max_new_tokens=max_new_tokens,
        steps=steps,
        eps=eps,
        alg=alg,
        alg_temp=alg_temp,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        attention_mask=attention_mask,
        rng=rng,
    ):
        if observer is not None and step.step == 0:
            observer(0, step.before)
        if observer is not None:
            observer(step.step + 1, step.after)
        x = step.after
    return x.copy()


def denoise_dream(
    m: Transformer,
    prompt_ids: Any,
    *,
    max_new_tokens: int = 128,
    steps: int = 512,
    eps: float = 1e-3,
    alg: str = "origin",
    alg_temp: float | None = None,
    temperature: float = 0.0,
    top_p: float | None = None,
    top_k: int | None = None,
    attention_mask: Any = None,
    rng: Uniforms | None = None,
) -> Iterator[Step]:
    """Run the sampler one step at a time; parameters as in :func:`generate_dream`, checked at the call.

    Returns
    -------
    iterator of Step
        `logits` are moved to the positions they are of. `predicted` is the mask, and `confidence` -inf, where nothing was chosen: at
        positions that hold a token, and with ``origin`` at those that chance left out. All is one block.

    Examples
    --------
    >>> import model
    >>> steps = denoise_dream(model.embedded(), [[0, 1]], max_new_tokens=4, steps=2, alg="entropy")
    >>> [int(np.count_nonzero(step.committed)) for step in steps]
    [1, 3]
    """
    if alg not in ALGORITHMS:
        raise UsageError(f"alg is {alg!r}; allowed: {', '.join(ALGORITHMS)}")
    rows, steps = m.config.embedding_rows, border.count(steps, "steps")
    run = _Run(
        mask_id=border.token_id(m.config.mask_token_id, rows, "the config's mask_token_id"),
        steps=steps,
        times=times(steps, border.fraction(eps, "eps")),
        alg=alg,
        alg_temp=0.0 if alg_temp is None else border.not_negative(alg_temp, "alg_temp"),
        choice=Choice.checked(temperature, top_p, top_k, True, rng),
        rng=rng,
    )
    if alg == "origin" or run.alg_temp > 0:
        border.generator(rng, f"alg {alg!r}" if alg == "origin" else f"alg_temp {run.alg_temp}")
    prompt = border.token_ids(prompt_ids, rows, "prompt_ids", may_be_empty=True)
    fresh = (len(prompt), border.count(max_new_tokens, "max_new_tokens"))
    visible = None
    if attention_mask is not None:
        given = border.mask_of_ones(attention_mask, (prompt.shape[0], prompt.shape[1]))
        visible = np.concatenate([given, np.ones(fresh, dtype=bool)], axis=1)
    return _steps(m, np.concatenate([prompt, np.full(fresh, run.mask_id)], axis=1), visible, run)


def times(steps: int, eps: float) -> Array:
    """``steps + 1`` float32 numbers from 1 down to `eps`, counted from the nearer end, as ``torch.linspace`` does.

    Examples
    --------
    >>> times(2, 0.5).tolist()
    [1.0, 0.75, 0.5]
    """
    index = np.arange(steps + 1, dtype=np.float32)
    stride = (np.float32(eps) - np.float32(1)) / np.float32(steps)
    return np.where(index < (steps + 1) // 2, np.float32(1) + stride * index, np.float32(eps) - stride * (steps - index)).astype(np.float32)


def _steps(m: Transformer, x: Array, visible: Array | None, run: _Run) -> Iterator[Step]:
    for step in range(run.steps):
        masked = x == run.mask_id
        logits = aligned(m, m.logits(x, visible))
        if not np.isfinite(logits).all():
            raise NumericalError(f"step {step}: the logits are not finite")
        decide = _by_chance if run.alg == "origin" else _by_confidence
        predicted, confidence, committed = decide(m.arithmetic, logits, masked, step, run)
        after = np.where(committed, predicted, x)
        yield Step(
            step=step,
            block=0,
            before=read_only(x),
            masked=read_only(masked),
            logits=read_only(logits),
            predicted=read_only(predicted),
            confidence=read_only(confidence),
            committed=read_only(committed),
            after=read_only(after),
        )
        x = after


def _by_chance(arithmetic: Arithmetic, logits: Array, masked: Array, step: int, run: _Run) -> tuple[Array, Array, Array]:
    """Commit each masked position with the probability of the step; tokens are chosen only there."""
    committed = np.zeros(masked.shape, dtype=bool)
    committed[masked] = _draw(run, (int(np.count_nonzero(masked)),), np.float32) < run.share(step)
    predicted, confidence = _chosen(arithmetic, logits, committed, run)
    return predicted, confidence, committed


def _by_confidence(arithmetic: Arithmetic, logits: Array, masked: Array, step: int, run: _Run) -> tuple[Array, Array, Array]:
    """Commit the surest positions, or positions drawn by how sure they are; as many in every row."""
    predicted, confidence = _chosen(arithmetic, logits, masked, run)
    count = int(np.float32(np.count_nonzero(masked) / len(masked)) * run.share(step))
    counts = np.full(len(masked), min(count, masked.shape[1]))
    if count and run.alg_temp > 0:
        confidence = arithmetic.softmax(confidence / np.asarray(run.alg_temp, dtype=confidence.dtype))
        committed = without_replacement(confidence, counts, _draw(run, masked.shape, np.float64), arithmetic)
    else:
        committed = most_confident(confidence, counts)
    return predicted, confidence, committed


def _chosen(arithmetic: Arithmetic, logits: Array, where: Array, run: _Run) -> tuple[Array, Array]:
    """Tokens [B, T] at the positions `where`, the mask elsewhere; and how sure they are, -inf elsewhere."""
    predicted = np.full(where.shape, run.mask_id)
    confidence = np.full(where.shape, -np.inf, dtype=logits.dtype)
    probabilities = arithmetic.softmax(run.choice.filtered(logits[where], arithmetic))  # [N, V]
    tokens = run.choice.choose(probabilities)
    predicted[where] = tokens
    if run.alg == "entropy":
        logs = arithmetic.log(probabilities + np.asarray(1e-10, dtype=logits.dtype))
        confidence[where] = arithmetic.sum(probabilities * logs, axis=-1)
    elif run.alg == "topk_margin":
        best = np.sort(probabilities, axis=-1)[:, -2:]
        confidence[where] = best[:, 1] - best[:, 0]
    else:
        confidence[where] = np.take_along_axis(probabilities, tokens[:, None], axis=-1)[:, 0]
    return predicted, confidence


def without_replacement(weights: Array, counts: Array, uniform: Array, arithmetic: Arithmetic) -> Array:
    """Mark ``counts[b]`` positions of each row, drawn one after the other in proportion to `weights` [B, T].

    An exponential race: position j arrives at ``-ln(1 - u) / weight``, and the first ones win. Weights of 0 come last.

    Examples
    --------
    >>> from refquant.numerics import FAST
    >>> without_replacement(np.array([[0.0, 1.0, 9.0]]), np.array([2]), np.full((1, 3), 0.5), FAST)
    array([[False,  True,  True]])
    """
    waiting = -arithmetic.log(1 - uniform)
    with np.errstate(divide="ignore", invalid="ignore"):
        speed = np.where(weights > 0, weights.astype(np.float64) / waiting, -1.0)
    return most_confident(speed, counts)


def _draw(run: _Run, shape: tuple[int, ...], dtype: Any) -> Array:
    if run.rng is None:
        raise UsageError("rng is None; allowed here: a numpy.random.Generator, as this run draws numbers")
    return np.asarray(run.rng.random(shape, dtype))
