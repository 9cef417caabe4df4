"""A GGUF file as a model that computes as llama.cpp does on a processor, or as its numbers say.

Two things stand between the numbers of a file and the logits of llama.cpp, beside the roundings of float32 sums:

* activations are rounded before they are multiplied (:mod:`refquant.layout.gguf.activations`): by float16 for F16 weights, to 8-bit codes
  for quantized ones. It moves logits by some 1e-3 of the largest.
* rotary angles are float32 and made one from the next, ``angle <- angle * theta^(-2/h)``, so that they carry errors that grow with the
  position: 1e-6 of the largest logit at 48 positions, 4e-6 at 256.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

import model
from model import Config, Linear, Observer, Transformer
from model.ops import rope_rows
from refquant.apply.gguf_export import FILE
from refquant.apply.gguf_llada import config_of, require_held, rotated_rows, tensor_names, with_rows
from refquant.errors import UsageError
from refquant.layout.gguf import GgufFile, GgufTensor, read_gguf
from refquant.layout.gguf.activations import Ties
from refquant.layout.gguf.products import GgmlLinear
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array

Way = Literal["ggml", "plain"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufModel:
    """A model out of a file.

    Parameters
    ----------
    transformer : Transformer
        Its linears, and its head, are :class:`~refquant.layout.gguf.products.GgmlLinear` where products are ggml's.
    angles : {"ggml", "plain"}
        Rotary angles as ggml makes them, or in the transformer's dtype.
    """

    transformer: Transformer
    angles: Way = "ggml"

    def logits(self, tokens: Any, observer: Observer | None = None) -> Array:
        """Scores ``[B, T, vocabulary]`` of tokens ``[B, T]``; observer and errors as of :meth:`model.Transformer.logits`."""
        made = self.transformer
        x = made.embed(tokens)
        context = made.context(x.shape[0], x.shape[1])
        if self.angles == "ggml":
            shape = made.architecture
            angles = ggml_angles(x.shape[1], shape.rotary_dim, shape.rope_theta, made.arithmetic).astype(made.dtype)
            cos, sin = rope_rows(made.arithmetic.cos(angles), made.arithmetic.sin(angles), shape.n_heads)
            context = dataclasses.replace(context, cos=cos, sin=sin)
        for index in range(made.config.n_layers):
            x = made.block(index, x, context, observer)
        return made.head(x, observer)

    def with_linears(self, linears: dict[str, Linear]) -> GgufModel:
        """The same model with other linears, by LLaDA's names, the head's among them."""
        head = head_name(self.transformer)
        # Whoever names the head's parameter may name the head among the linears.
        parameters = {f"{head}.weight": self.transformer.parameters[f"{head}.weight"]} if head in linears else {}
        return dataclasses.replace(self, transformer=self.transformer.replace(linears=linears, parameters=parameters))


def load_gguf(
    path: Path | str,
    dtype: str = "float64",
    arithmetic: Arithmetic = FAST,
    *,
    products: Way = "ggml",
    angles: Way = "ggml",
    ties: Ties = "even",
) -> GgufModel:
    """Load a GGUF file of llama.cpp's ``llada``, or a folder that holds ``model.gguf``.

    Parameters
    ----------
    path : path
    dtype : {"float64", "float32"}
        Of everything between the linears.
    arithmetic : Arithmetic
    products : {"ggml", "plain"}
        Whether linears and head round activations as ggml does, or take the numbers of weights and activations as they are.
    angles : {"ggml", "plain"}
        Rotary angles in float32, one from the next, or in `dtype`.
    ties : {"even", "away"}
        Of ggml's rounding: even on x86, away on Arm.

    Raises
    ------
    UsageError
        If `products`, `angles`, `ties` or `dtype` is another word.
    InputError
        If the file is damaged or not such a model.
    """
    for word, what in ((products, "products"), (angles, "angles")):
        if word not in get_args(Way):
            raise UsageError(f"{what} are {' or '.join(get_args(Way))}, not {word!r}")
    path = Path(path)
    file = read_gguf(path / FILE if path.is_dir() else path)
    config = require_held(Config.from_dict(config_of(file), str(file.path)), str(file.path))
    held = held_tensors(file, config)
    made = model.build(
        config, {f"{name}.weight": tensor.dequantize(np.dtype(np.float64)) for name, tensor in held.items()}, dtype, arithmetic
    )
    found = GgufModel(transformer=made, angles=angles)
    if products == "plain":
        return found
    return found.with_linears({name: GgmlLinear(held[name], ties, arithmetic) for name in (*made.linears, head_name(made))})


def held_tensors(file: GgufFile, config: Config) -> dict[str, GgufTensor]:
    """Every tensor of a file by LLaDA's name without ``.weight``, as the file holds it, with rows in LLaDA's order."""
    found = {}
    for theirs, ours in tensor_names(config).items():
        order = rotated_rows(theirs, config)
        found[ours] = with_rows(file.read(f"{theirs}.weight"), None if order is None else np.argsort(order, kind="stable"))
    return found


def head_name(made: Transformer) -> str:
    """The module that a model's logits come from: the embedding where they share their weight."""
    untied = made.architecture.head
    return made.architecture.embedding if untied is None else untied.name


def ggml_angles(length: int, rotary_dim: int, theta: float, arithmetic: Arithmetic = FAST) -> Array:
    """Rotary angles ``[length, rotary_dim / 2]`` as ggml has them: float32, each the one before it times ``theta^(-2 / rotary_dim)``.

    Examples
    --------
    >>> exact = 3.0 * 10000.0 ** (-np.arange(32) / 32)
    >>> off = np.abs(ggml_angles(4, 64, 10000.0)[3] / exact - 1)
    >>> bool(off[:2].max() < 1e-7 < off.max() < 32e-7)
    True
    """
    factor = arithmetic.power(np.array([np.float32(theta)], np.float64), float(np.float32(-2) / np.float32(rotary_dim))).astype(np.float32)
    angles = np.empty((length, rotary_dim // 2), np.float32)
    angle = np.arange(length, dtype=np.float32)
    for pair in range(rotary_dim // 2):
        angles[:, pair] = angle
        angle = angle * factor
    return angles
