"""Outliers: what the inputs of linears look like, as curves over thresholds, and how to put some in without changing the function.

For an input ``X`` of `T` tokens and `n` channels, with ``u`` the median of ``|X|``:

* channel ``j`` is a *normal outlier* at threshold ``k`` if the median over tokens of ``|X[:, j]|`` is more than ``k`` times the median of
  these medians: it is large for most tokens;
* entry ``(t, j)`` is *massive* at threshold ``k`` if ``|X[t, j]| > k u``: large for few tokens. Counted are entries, and the tokens and
  channels that hold one.

"Quantization Meets dLLMs" draws pictures and gives no threshold, so counts are curves. The usual further condition, magnitudes above 100,
means nothing for a small model and is left out. Free of thresholds are the largest magnitude over median and over root mean square, and
the kurtosis of a token's entries (3 for a bell curve).

A small model may have no outliers of the kind that large ones have. :func:`inject` makes a model with the same function that has them: some
channels behind every norm, the same in all blocks, are multiplied by a factor that the next linears' columns are divided by (large for all
tokens), and so are some features of every gated MLP between its up projection and its last linear (large for few tokens: those are taken
whose kurtosis over tokens is largest). With powers of two nothing is rounded. SmoothQuant can undo the first exactly, and the second where
it smooths behind the up projection; a report has to say what was put in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model import Transformer, denoise
from model.architecture import BlockPlan, MlpPlan
from refquant.apply.rewriting import rewrite_model
from refquant.core.rewrite import Joint, Rewrite
from refquant.core.transform import Scale
from refquant.errors import InputError, UsageError
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array
from refquant.numerics.draws import sample_without_replacement

CHANNEL_THRESHOLDS = (2.0, 3.0, 4.0, 6.0, 10.0, 20.0, 50.0)
ENTRY_THRESHOLDS = (10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlierCount:
    """What the input of one linear (and of those that share it) holds.

    Parameters
    ----------
    linear : str
        The first of those that share the input.
    tokens, channels : int
    max_over_median, max_over_rms, kurtosis : float
        Kurtosis is the mean over tokens.
    normal_channels : tuple of int
        Normal outlier channels, one count for each of `CHANNEL_THRESHOLDS`.
    massive_entries, massive_tokens, massive_channels : tuple of int
        One count for each of `ENTRY_THRESHOLDS`.
    """

    linear: str
    tokens: int
    channels: int
    max_over_median: float
    max_over_rms: float
    kurtosis: float
    normal_channels: tuple[int, ...]
    massive_entries: tuple[int, ...]
    massive_tokens: tuple[int, ...]
    massive_channels: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Injection:
    """Which outliers are put in.

    Parameters
    ----------
    channels : int
        Channels behind every norm; 0 for none.
    features : int
        Hidden features of every MLP; 0 for none.
    channel_scale, feature_scale : float
        What they are multiplied by; powers of two change no bit of the logits.
    seed : int
        Draws the channels.

    Raises
    ------
    UsageError
        If a count is negative or a scale not positive.
    """

    channels: int = 4
    features: int = 2
    channel_scale: float = 64.0
    feature_scale: float = 64.0
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.channels, self.features, self.seed) < 0:
            raise UsageError(f"channels, features and seed are not negative; got {self.channels}, {self.features}, {self.seed}")
        if not all(np.isfinite(s) and s > 0 for s in (self.channel_scale, self.feature_scale)):
            raise UsageError(f"scales are positive and finite; got {self.channel_scale}, {self.feature_scale}")


def middle(values: Array, axis: int | None = None) -> Array:
    """Median along an axis, or of all: the mean of the two middle values where their number is even.

    Examples
    --------
    >>> float(middle(np.array([3.0, 1.0, 2.0]))), float(middle(np.array([4.0, 1.0, 2.0, 8.0])))
    (2.0, 3.0)
    """
    along = 0 if axis is None else axis
    ranked = np.sort(values.ravel() if axis is None else values, axis=along, kind="stable")
    n = ranked.shape[along]
    return np.asarray((np.take(ranked, (n - 1) // 2, axis=along) + np.take(ranked, n // 2, axis=along)) / 2)


def count_outliers(linear: str, x: Array, arithmetic: Arithmetic = FAST) -> OutlierCount:
    """Count the outliers of one input.

    Parameters
    ----------
    linear : str
        Whose input it is.
    x : ndarray ``[tokens, channels]``
    arithmetic : Arithmetic

    Raises
    ------
    InputError
        If it is empty, or more than half of it is 0: nothing is large beside a median of 0.

    Examples
    --------
    >>> x = np.ones((4, 3))
    >>> x[:, 1] = 5.0
    >>> count_outliers("example", x).normal_channels
    (1, 1, 1, 0, 0, 0, 0)
    """
    if x.ndim != 2 or not x.size:
        raise InputError(f"input of {linear}: shape is {x.shape}; allowed: [tokens, channels], not empty")
    wide = x.astype(np.float64)
    magnitude = np.abs(wide)
    median, of_channels = float(middle(magnitude)), middle(magnitude, axis=0)
    usual = float(middle(of_channels))
    if median == 0 or usual == 0:
        raise InputError(f"input of {linear}: the median magnitude is 0; outliers are counted relative to it")
    largest = float(magnitude.max())
    massive = [magnitude > threshold * median for threshold in ENTRY_THRESHOLDS]
    return OutlierCount(
        linear=linear,
        tokens=x.shape[0],
        channels=x.shape[1],
        max_over_median=largest / median,
        max_over_rms=largest / float(np.sqrt(arithmetic.mean(wide * wide))),
        kurtosis=float(arithmetic.mean(kurtosis(wide, arithmetic))),
        normal_channels=tuple(int(np.count_nonzero(of_channels > threshold * usual)) for threshold in CHANNEL_THRESHOLDS),
        massive_entries=tuple(int(np.count_nonzero(where)) for where in massive),
        massive_tokens=tuple(int(np.count_nonzero(where.any(axis=1))) for where in massive),
        massive_channels=tuple(int(np.count_nonzero(where.any(axis=0))) for where in massive),
    )


def kurtosis(rows: Array, arithmetic: Arithmetic = FAST) -> Array:
    """Fourth central moment of each row over its variance squared; 0 for a constant row.

    Examples
    --------
    >>> kurtosis(np.array([[1.0, -1.0, 1.0, -1.0], [2.0, 2.0, 2.0, 2.0]]))
    array([1., 0.])
    """
    deviation = rows - arithmetic.mean(rows, axis=1, keepdims=True)
    square = deviation * deviation
    variance = arithmetic.mean(square, axis=1)
    fourth = arithmetic.mean(square * square, axis=1)
    return np.asarray(np.divide(fourth, variance * variance, out=np.zeros_like(fourth), where=variance > 0))


def linear_inputs(m: Transformer, ids: Array) -> dict[str, Array]:
    """Inputs ``[tokens, channels]`` of the linears, by the first that takes each.

    Parameters
    ----------
    m : Transformer
    ids : ndarray of int ``[B, T]``
    """
    wanted = {f"{group[0]}.input": group[0] for index in range(m.config.n_layers) for group in m.linear_groups(index)}
    found: dict[str, Array] = {}

    def keep(name: str, array: Array) -> None:
        if name in wanted:
            found[wanted[name]] = array.reshape(-1, array.shape[-1])

    m.logits(ids, observer=keep)
    return found


def outlier_counts(m: Transformer, ids: Array) -> tuple[OutlierCount, ...]:
    """Count the outliers at the inputs of all linears, in causal order.

    Parameters
    ----------
    m : Transformer
    ids : ndarray of int ``[B, T]``
        Mask tokens included.
    """
    return tuple(count_outliers(name, x, m.arithmetic) for name, x in linear_inputs(m, ids).items())


def trajectory_states(m: Transformer, prompts: Array, gen_length: int, stages: int = 4) -> list[Array]:
    """What a model sees along its own greedy denoising: sequences ``[B, T]`` at the beginning of each of `stages` equal parts.

    Parameters
    ----------
    m : Transformer
    prompts : ndarray of int ``[B, P]``
    gen_length : int
        Steps are as many.
    stages : int
        Divides `gen_length`.
    """
    if stages < 1 or gen_length % stages:
        raise UsageError(f"stages is {stages}; allowed: a divisor of gen_length {gen_length}")
    steps = denoise(m, prompts, gen_length=gen_length, block_length=gen_length, steps=gen_length)
    return [step.before.copy() for number, step in enumerate(steps) if number % (gen_length // stages) == 0]


def inject(m: Transformer, injection: Injection, probe: Array) -> tuple[Transformer, dict[str, list[int]]]:
    """Return a model with the same function and outliers, and which channels and features they are, by module.

    Parameters
    ----------
    m : Transformer
        In full precision, its MLPs gated, its norms with gains.
    injection : Injection
    probe : ndarray of int ``[B, T]``
        What features are chosen on.

    Raises
    ------
    InputError
        If a block has no gated MLP of its own (a mixture, say), or a norm no gain.
    UsageError
        If there are fewer channels or features than are asked for.
    """
    width = m.architecture.width
    if injection.channels > width:
        raise UsageError(f"channels is {injection.channels}; allowed: at most {width}")
    rng = np.random.Generator(np.random.PCG64(injection.seed))
    loud = sorted(int(i) for i in sample_without_replacement(rng, width, injection.channels))
    inputs = linear_inputs(m, probe) if injection.features else {}
    steps, chosen = [], {}
    for block in m.architecture.blocks:
        mlp = _gated(block)
        if loud:
            factors = _factors(width, loud, injection.channel_scale)
            for norm, users in ((block.attn_norm, block.qkv), (block.ff_norm, mlp.gate_up)):
                steps.append(Joint(transform=factors, producers=(norm.name,), consumers=tuple(user.name for user in users)))
                chosen[norm.name] = loud
        if injection.features:
            features = _spiky(inputs[mlp.down.name], injection.features, m.arithmetic)
            up = mlp.gate_up[1]
            steps.append(
                Joint(transform=_factors(up.out, features, injection.feature_scale), producers=(up.name,), consumers=(mlp.down.name,))
            )
            chosen[up.name] = features
    return (rewrite_model(m, Rewrite(method="injection", steps=tuple(steps))) if steps else m), chosen


def _gated(block: BlockPlan) -> MlpPlan:
    if not isinstance(block.mlp, MlpPlan) or len(block.mlp.gate_up) != 2:
        raise InputError(
            f"{block.ff_norm.name}: outliers are put into gated MLPs, with a gate and an up projection; this block has another"
        )
    return block.mlp


def _factors(width: int, loud: Sequence[int], scale: float) -> Scale:
    """A scale divides activations by its factors, so outliers have small ones."""
    factors = np.ones(width)
    factors[list(loud)] = 1 / scale
    return Scale(factors=factors)


def _spiky(x: Array, count: int, arithmetic: Arithmetic) -> list[int]:
    """The features that are large for the fewest tokens, most so first in rank, returned in order."""
    if count > x.shape[1]:
        raise UsageError(f"features is {count}; allowed: at most {x.shape[1]}")
    ranked = np.argsort(-kurtosis(x.T.astype(np.float64), arithmetic), kind="stable")
    return sorted(int(i) for i in ranked[:count])
