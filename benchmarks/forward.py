"""The forward pass beside the same network in plain torch operations, float32, on the CPU.

OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 python -m benchmarks.forward [--quick]

The peer is LLaDA written down as torch's users write it: linear layers, a norm, the rotary embedding by halves, softmax of a product. Its
logits are compared first. A second row of the same network with torch's fused attention has no limit: it is another algorithm, which never
holds the scores, and is there to be known.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from benchmarks import measure
from model import Config, Transformer, build
from refquant.errors import NumericalError

TITLE = "Forward pass in float32 / the same network in plain torch operations"
NEEDS = ("torch",)

TOLERANCE = 1e-5
"""Largest difference of logits, relative to the largest logit, at which two float32 networks count as the same."""


@dataclass(frozen=True, slots=True)
class Size:
    """A network and a batch."""

    width: int
    layers: int
    batch: int
    tokens: int
    limit: float
    vocabulary: int = 1024

    @property
    def config(self) -> Config:
        return Config(
            rope=True,
            block_type="llama",
            activation_type="silu",
            layer_norm_type="rms",
            d_model=self.width,
            n_layers=self.layers,
            n_heads=self.width // self.head,
            mlp_hidden_size=3 * self.width,
            vocab_size=self.vocabulary,
            embedding_size=None,
            weight_tying=False,
            mask_token_id=3,
            eos_token_id=1,
            pad_token_id=1,
        )

    @property
    def head(self) -> int:
        """Width of a head: LLaDA-8B's 128, or 64 in narrow networks."""
        return 128 if self.width >= 4096 else 64

    @property
    def name(self) -> str:
        return f"d {self.width} x {self.layers} layers, {self.batch} x {self.tokens} tokens"

    @property
    def flops(self) -> float:
        """Of the matrix products: four square linears and three of the MLP a block, scores and mixing, the head."""
        linears = self.layers * 13 * self.width**2 + self.vocabulary * self.width
        return 2.0 * self.batch * self.tokens * (linears + 2 * self.layers * self.tokens * self.width)


SIZES = (Size(512, 8, 4, 256, 1.1), Size(4096, 2, 1, 512, 1.0))
QUICK = (Size(128, 2, 2, 64, 1.1), Size(512, 2, 1, 128, 1.0))
ROWS = tuple(f"forward, {size.name}" for size in SIZES)


def tensors(config: Config, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Random parameters under which activations keep their size."""
    found = {}
    for name, shape in config.architecture().tensor_shapes().items():
        if len(shape) == 1:
            found[name] = (1 + 0.1 * rng.standard_normal(shape)).astype(np.float32)
        else:
            found[name] = rng.standard_normal(shape, dtype=np.float32)
            found[name] *= 1 / math.sqrt(shape[-1])
    return found


class TorchNetwork:
    """The peer. Parameters are torch's own contiguous copies, [out, in] as torch keeps them."""

    def __init__(self, config: Config, parameters: dict[str, np.ndarray], fused: bool = False) -> None:
        torch = importlib.import_module("torch")
        self.torch, self.config, self.fused = torch, config, fused
        self.parameters = {name: torch.from_numpy(array).clone() for name, array in parameters.items()}

    def __call__(self, ids: np.ndarray) -> Any:
        torch, at = self.torch, self.parameters
        linear, silu = torch.nn.functional.linear, torch.nn.functional.silu
        with torch.inference_mode():
            x = torch.nn.functional.embedding(torch.from_numpy(ids), at["model.transformer.wte.weight"])
            cos, sin = self.rotary_tables(ids.shape[1])
            for index in range(self.config.n_layers):
                block = f"model.transformer.blocks.{index}."
                normed = self.norm(x, at[block + "attn_norm.weight"])
                q, k, v = (self.heads(linear(normed, at[block + name + "_proj.weight"])) for name in "qkv")
                mixed = self.attention(self.rotated(q, cos, sin), self.rotated(k, cos, sin), v)
                x = x + linear(mixed.transpose(1, 2).reshape(x.shape), at[block + "attn_out.weight"])
                normed = self.norm(x, at[block + "ff_norm.weight"])
                gated = silu(linear(normed, at[block + "ff_proj.weight"])) * linear(normed, at[block + "up_proj.weight"])
                x = x + linear(gated, at[block + "ff_out.weight"])
            return linear(self.norm(x, at["model.transformer.ln_f.weight"]), at["model.transformer.ff_out.weight"])

    def rotary_tables(self, tokens: int) -> tuple[Any, Any]:
        torch, width = self.torch, self.config.head_dim
        frequencies = 1.0 / self.config.rope_theta ** (torch.arange(0, width, 2, dtype=torch.float32) / width)
        angles = torch.outer(torch.arange(tokens, dtype=torch.float32), frequencies)
        angles = torch.cat([angles, angles], dim=-1)
        return angles.cos(), angles.sin()

    def norm(self, x: Any, gain: Any) -> Any:
        return gain * (x * self.torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.config.norm_eps))

    def heads(self, x: Any) -> Any:
        return x.view(*x.shape[:2], self.config.n_heads, self.config.head_dim).transpose(1, 2)

    def rotated(self, x: Any, cos: Any, sin: Any) -> Any:
        first, second = x.chunk(2, dim=-1)
        return x * cos + self.torch.cat([-second, first], dim=-1) * sin

    def attention(self, q: Any, k: Any, v: Any) -> Any:
        if self.fused:
            return self.torch.nn.functional.scaled_dot_product_attention(q, k, v)
        scores = q @ k.transpose(-1, -2) / math.sqrt(self.config.head_dim)
        return self.torch.softmax(scores, dim=-1) @ v


def check(ours: Transformer, peer: TorchNetwork, ids: np.ndarray) -> float:
    """Largest difference of logits relative to the largest logit; NumericalError beyond :data:`TOLERANCE`."""
    expected = peer(ids).numpy()
    distance = float(np.max(np.abs(ours.logits(ids) - expected)) / np.max(np.abs(expected)))
    if not distance <= TOLERANCE:
        raise NumericalError(
            f"logits differ from torch's by {distance:.2g} of the largest; allowed before times are compared: {TOLERANCE:g}"
        )
    return distance


def run(quick: bool) -> Iterator[measure.Result]:
    for size in QUICK if quick else SIZES:
        rng = np.random.Generator(np.random.PCG64(0))
        parameters = tensors(size.config, rng)
        ids = rng.integers(0, size.vocabulary, (size.batch, size.tokens))
        ours = build(size.config, parameters)
        plain, fused = (TorchNetwork(size.config, parameters, fused) for fused in (False, True))
        fused.parameters = plain.parameters
        del parameters
        distance = check(ours, plain, ids)
        yield row(
            f"forward, {size.name}", size, partial(ours.logits, ids), partial(plain, ids), size.limit, f"logits equal to {distance:.1e}"
        )
        if size.tokens < 512 or quick:  # beyond that its rounds would take longer than they teach
            check(ours, fused, ids)
            yield row(f"  with torch's fused attention, d {size.width}", size, partial(ours.logits, ids), partial(fused, ids), None, "")


def row(name: str, size: Size, ours: Callable[[], Any], peer: Callable[[], Any], limit: float | None, note: str) -> measure.Result:
    timed = measure.alternate(name, ours, peer)
    share = measure.roofline().share(timed.seconds, flops=size.flops)
    return measure.Result(name=name, comparison=timed, limit=limit, note=note, share=share)


def main() -> None:
    measure.script(TITLE, NEEDS, ROWS, run)


if __name__ == "__main__":
    main()
