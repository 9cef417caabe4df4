"""A transformer in a few lines of NumPy, each part with one fault to choose."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from refquant.conformance.mutants.mutant import Mutant
from refquant.conformance.operation import Arrays, Parameters
from refquant.numerics import FAST
from refquant.numerics.arrays import Array

FAULTS: dict[str, dict[str, tuple[str, str]]] = {
    "rms_norm": {
        "eps_outside": ("eps", "eps is added to the root, not under it"),
        "no_eps": ("eps", "eps is left out, and a token of zeros becomes NaN"),
        "mean_subtracted": ("mean", "the mean is subtracted first: LayerNorm"),
        "sum": ("ordinary", "squares are summed up, not averaged"),
        "half_squares": ("overflow", "squares are computed in float16"),
        "gain_from_one": ("ordinary", "the gain is one plus the weight, as in Gemma"),
    },
    "rope": {
        "interleaved": ("position", "feature 2j turns with 2j + 1 instead of j with j + h / 2"),
        "from_one": ("zero-position", "positions count from 1"),
        "row_number": ("position", "the row's number is taken for the position"),
        "other_sense": ("position", "rotated the other way"),
        "exponent_halved": ("ordinary", "the exponents are j / h instead of 2j / h"),
    },
    "softmax": {
        "no_shift": ("overflow", "the maximum is not subtracted before exp"),
        "masked_after": ("padding", "hidden scores count as 0 in the sum and are struck afterwards"),
        "columns": ("ordinary", "normalized along columns"),
        "one_more": ("constant", "1 is added to the sum, so that a row of very low scores has none"),
    },
    "attention": {
        "causal": ("bidirectional", "later positions are hidden"),
        "tiled": ("grouped-heads", "key heads are repeated in turn: query head i looks at head i modulo K"),
        "scale_h": ("ordinary", "scores are divided by h instead of its square root"),
        "unscaled": ("ordinary", "scores are not divided"),
        "bias_left_out": ("key-bias", "the bias of keys is left out"),
        "bias_scaled": ("key-bias", "the bias is added before scores are divided"),
        "padding_seen": ("padding", "hidden keys get a score of 0"),
        "over_queries": ("ordinary", "the softmax runs over queries"),
    },
    "swiglu": {
        "swapped": ("ordinary", "gate and up are exchanged"),
        "gelu": ("ordinary", "the gate goes through GELU"),
        "sigmoid": ("ordinary", "the gate goes through the sigmoid alone"),
        "two_exponentials": ("overflow", "sigmoid as exp(z) / (1 + exp(z)), which is NaN far on the right"),
    },
    "forward": {
        "causal": ("bidirectional", "later positions are hidden"),
        "parallel": ("residual", "the MLP stands beside attention instead of behind it"),
        "no_residual": ("residual", "attention's input is not added to its output"),
        "shifted": ("ordinary", "logits are those of the next position, as Dream's"),
        "no_last_norm": ("ordinary", "the last norm is left out"),
        "tiled": ("grouped-heads", "key heads are repeated in turn"),
        "bias_after_rotation": ("position", "the bias of queries is added after they are rotated"),
        "tied_head": ("ordinary", "the embedding is taken for the head"),
    },
}
"""``name: (flag that must catch it, what is wrong)`` by operation."""


def rms_norm(inputs: Arrays, parameters: Parameters, *, fault: str = "") -> Mapping[str, Array]:
    """The norm."""
    x, gain = np.asarray(inputs["x"]), np.asarray(inputs["gain"])
    eps = x.dtype.type(parameters["eps"])
    if fault == "mean_subtracted":
        x = x - FAST.mean(x, -1, keepdims=True)
    with np.errstate(all="ignore"):
        squares = np.square(x.astype(np.float16)).astype(x.dtype) if fault == "half_squares" else x * x
        mean = FAST.sum(squares, -1, keepdims=True) if fault == "sum" else FAST.mean(squares, -1, keepdims=True)
        root = np.sqrt(mean) + eps if fault == "eps_outside" else np.sqrt(mean if fault == "no_eps" else mean + eps)
        return {"y": np.asarray(x / root * (1 + gain if fault == "gain_from_one" else gain))}


def rope(inputs: Arrays, parameters: Parameters, *, fault: str = "") -> Mapping[str, Array]:
    """The rotation of pairs, whichever they are."""
    x = np.asarray(inputs["x"])
    half = x.shape[-1] // 2
    positions = np.arange(len(x)) if fault == "row_number" else np.asarray(inputs["positions"]) + (fault == "from_one")
    exponents = np.arange(half) * (1 if fault == "exponent_halved" else 2) / x.shape[-1]
    angles = positions[:, None, None] * FAST.power(np.full(half, float(parameters["theta"])), -exponents)
    cos, sin = FAST.cos(angles), FAST.sin(-angles if fault == "other_sense" else angles)
    a, b = (x[..., 0::2], x[..., 1::2]) if fault == "interleaved" else (x[..., :half], x[..., half:])
    turned = [a * cos - b * sin, b * cos + a * sin]
    y = np.stack(turned, axis=-1).reshape(x.shape) if fault == "interleaved" else np.concatenate(turned, axis=-1)
    return {"y": y.astype(x.dtype)}


def softmax(inputs: Arrays, parameters: Parameters, *, fault: str = "") -> Mapping[str, Array]:
    """Softmax along rows."""
    x = np.asarray(inputs["x"])
    hidden = np.isneginf(x)
    if fault == "masked_after":
        x = np.where(hidden, x.dtype.type(0), x)
    axis = 0 if fault == "columns" else -1
    with np.errstate(all="ignore"):
        weights = FAST.exp(x if fault == "no_shift" else x - x.max(axis, keepdims=True))
        found = weights / (FAST.sum(weights, axis, keepdims=True) + x.dtype.type(fault == "one_more"))
    return {"y": np.where(hidden, x.dtype.type(0), found)}


def attention(inputs: Arrays, parameters: Parameters, *, fault: str = "") -> Mapping[str, Array]:
    """Attention with key heads repeated."""
    q, k, v, bias = (np.asarray(inputs[name]) for name in ("q", "k", "v", "key_bias"))
    each, width, dtype = q.shape[1] // k.shape[1], q.shape[-1], q.dtype
    if fault == "tiled":
        k, v = (np.tile(array, (1, each, 1, 1)) for array in (k, v))
    else:
        k, v = (np.repeat(array, each, axis=1) for array in (k, v))
    bias = bias[:, None, None, :]
    if fault == "padding_seen":
        bias = np.where(np.isneginf(bias), dtype.type(0), bias)
    if fault == "bias_left_out":
        bias = np.where(np.isneginf(bias), bias, dtype.type(0))
    divisor = dtype.type({"scale_h": width, "unscaled": 1}.get(fault, math.sqrt(width)))
    scores = FAST.matmul(q, k.swapaxes(-1, -2))
    scores = (scores + bias) / divisor if fault == "bias_scaled" else scores / divisor + bias
    if fault == "causal":
        scores = np.where(np.tril(np.ones(scores.shape[-2:], bool)), scores, dtype.type(-np.inf))
    axis = -2 if fault == "over_queries" else -1
    with np.errstate(invalid="ignore"):
        weights = FAST.exp(scores - scores.max(axis, keepdims=True))
        probabilities = weights / FAST.sum(weights, axis, keepdims=True)
    return {"probabilities": probabilities.astype(dtype), "mixed": FAST.matmul(probabilities, v).astype(dtype)}


def swiglu(inputs: Arrays, parameters: Parameters, *, fault: str = "") -> Mapping[str, Array]:
    """The gated unit."""
    gate, up = np.asarray(inputs["gate"]), np.asarray(inputs["up"])
    if fault == "swapped":
        gate, up = up, gate
    with np.errstate(all="ignore"):
        if fault == "gelu":
            return {"y": gate * (FAST.erf(gate / np.sqrt(2)) + 1) / 2 * up}
        if fault == "two_exponentials":
            return {"y": gate * (FAST.exp(gate) / (1 + FAST.exp(gate))) * up}
        bottom = 1 + FAST.exp(-gate)
        return {"y": np.asarray((1 / bottom if fault == "sigmoid" else gate / bottom) * up)}


def forward(inputs: Arrays, parameters: Parameters, *, fault: str = "") -> Mapping[str, Array]:
    """The whole pass, made of the parts above."""
    w = {name: np.asarray(array) for name, array in inputs.items()}
    x = w["embedding"][w["ids"]]
    states = []
    for index in range(len(w["q"])):
        states.append(x)
        own = {name: w[name][index] for name in w if name not in ("ids", "embedding", "last_norm", "head")}
        mixed = _attend(_norm(x, own["attn_norm"], parameters), own, parameters, fault)
        middle = mixed if fault == "no_residual" else x + mixed
        inner = _norm(x if fault == "parallel" else middle, own["ff_norm"], parameters)
        hidden = swiglu({"gate": _linear(inner, own["gate"]), "up": _linear(inner, own["up"])}, {})["y"]
        x = middle + _linear(hidden, own["down"])
    last = x if fault == "no_last_norm" else _norm(x, w["last_norm"], parameters)
    logits = _linear(last, w["embedding"] if fault == "tied_head" else w["head"])
    if fault == "shifted":
        logits = np.concatenate([logits[:, :1], logits[:, :-1]], axis=1)
    return {"states": np.stack([*states, last]), "logits": logits}


def _norm(x: Array, gain: Array, parameters: Parameters) -> Array:
    return rms_norm({"x": x, "gain": gain}, parameters)["y"]


def _linear(x: Array, weight: Array) -> Array:
    return FAST.matmul(x, weight.T)


def _attend(a: Array, own: Mapping[str, Array], parameters: Parameters, fault: str) -> Array:
    batch, length, width = a.shape
    head = width // parameters["heads"]
    late = fault == "bias_after_rotation"
    made = {}
    for name, turns in (("q", True), ("k", True), ("v", False)):
        rows = _linear(a, own[name]) + (0 if late and name == "q" else own[name + "_bias"])
        heads = rows.reshape(batch, length, -1, head)
        if turns:
            heads = np.stack([rope({"x": one, "positions": np.arange(length)}, parameters)["y"] for one in heads])
        if late and name == "q":
            heads = heads + own["q_bias"].reshape(-1, head)
        made[name] = heads.transpose(0, 2, 1, 3)
    chosen = fault if fault in ("causal", "tiled") else ""
    mixed = attention(made | {"key_bias": np.zeros((batch, length), a.dtype)}, {}, fault=chosen)["mixed"]
    return np.asarray(_linear(mixed.transpose(0, 2, 1, 3).reshape(batch, length, width), own["attn_out"]))


PROGRAMS: dict[str, Callable[..., Mapping[str, Array]]] = {
    "rms_norm": rms_norm,
    "rope": rope,
    "softmax": softmax,
    "attention": attention,
    "swiglu": swiglu,
    "forward": forward,
}
MUTANTS = tuple(
    Mutant(name=f"{name}-{fault}", operation=f"transformer.{name}", flag=flag, what=what, run=partial(PROGRAMS[name], fault=fault))
    for name, faults in FAULTS.items()
    for fault, (flag, what) in faults.items()
)
RIGHT = {f"transformer.{name}": run for name, run in PROGRAMS.items()}
