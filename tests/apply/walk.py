"""Quantizing a llama-style model by hand: its own forward pass, one sequence at a time, one group after the other.

It shares the single-tensor methods (``rq.rtn``, ``rq.gptq``, ``ia_aq``) with the package, and nothing that walks a model.
"""

from __future__ import annotations

import numpy as np

import refquant as rq
from refquant.core import Tiling
from refquant.methods.diffusion.ia_aq import AttentionSample, ia_aq

GROUPS = (("q_proj", "k_proj", "v_proj"), ("attn_out",), ("ff_proj", "up_proj"), ("ff_out",))


def rms(x, gain):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * gain


def rope(x):
    """``[heads, T, h]``, first half against second half."""
    h = x.shape[-1]
    angle = np.arange(x.shape[1])[:, None] * 10000.0 ** (-np.arange(0, h, 2) / h)
    a, b = x[..., : h // 2], x[..., h // 2 :]
    return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], axis=-1)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def per_token(x, bits):
    """``sym_full`` with scale 1 for an all-zero row."""
    top = np.abs(x).max(-1, keepdims=True)
    s = np.where(top > 0, top, 2.0 ** (bits - 1) - 1) / (2 ** (bits - 1) - 1)
    return s * np.clip(np.rint(x / s), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def asymmetric(x, lo, hi, bits):
    """``asym_incl0`` on a fixed range, the scale kept in float32."""
    lo, hi = np.minimum(lo, 0), np.maximum(hi, 0)
    s = ((hi - lo) / (2**bits - 1)).astype(np.float32).astype(np.float64)
    z = np.rint(-lo / s)
    return s * (np.clip(np.rint(x / s) + z, 0, 2**bits - 1) - z)


def static(x, top, bits):
    """``sym_full`` on a fixed maximum."""
    s = top / (2 ** (bits - 1) - 1)
    return s * np.clip(np.rint(x / s), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


class Block:
    """One block's weights as they stand: float64 matrices, an input quantizer a linear, and quantizers of A and V."""

    def __init__(self, m, index):
        p = f"model.transformer.blocks.{index}."
        self.heads, self.kv = m.config.n_heads, m.config.kv_heads
        self.w = {n: m.parameters[p + n + ".weight"].astype(np.float64) for g in GROUPS for n in g}
        self.b = {n: m.parameters.get(p + n + ".bias", 0.0) for g in GROUPS for n in g}
        self.attn_norm, self.ff_norm = m.parameters[p + "attn_norm.weight"], m.parameters[p + "ff_norm.weight"]
        self.original = dict(self.w)
        self.on_input = {}
        self.on_a = self.on_v = lambda x: x

    def linear(self, name, x):
        return self.on_input.get(name, lambda x: x)(x) @ self.w[name].T + self.b[name]

    def run(self, x):
        """Output ``[T, d]``, and the input of every linear, A and V."""
        seen = {}
        seen["q_proj"] = seen["k_proj"] = seen["v_proj"] = h = rms(x, self.attn_norm)
        q, k, v = (
            self.linear(n, h).reshape(len(x), heads, -1).transpose(1, 0, 2)
            for n, heads in (("q_proj", self.heads), ("k_proj", self.kv), ("v_proj", self.kv))
        )
        k = np.repeat(rope(k), self.heads // self.kv, axis=0)
        seen["A"] = a = softmax(rope(q) @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1]))
        seen["V"] = v
        mixed = self.on_a(a) @ np.repeat(self.on_v(v), self.heads // self.kv, axis=0)
        seen["attn_out"] = mixed.transpose(1, 0, 2).reshape(len(x), -1)
        x = x + self.linear("attn_out", seen["attn_out"])
        seen["ff_proj"] = seen["up_proj"] = h = rms(x, self.ff_norm)
        gate = self.linear("ff_proj", h)
        seen["ff_out"] = gate / (1 + np.exp(-gate)) * self.linear("up_proj", h)
        return x + self.linear("ff_out", seen["ff_out"]), seen


class Walk:
    """The whole pass. Options are plain words, not recipes."""

    def __init__(self, m, states, **options):
        self.m, self.states = m, states
        self.o = {
            "bits": 4, "method": "gptq", "acts": 0, "act_kind": "per_token", "v_bits": 0, "v_method": "minmax", "p_bits": 0,
            "token_weights": None, "propagate": "quantized", "hessian": "float", "early_v": False, "skip": (), "causal": True,
            "per": "head", "gram": "exact", "masked_rows": False, "gptq": {},
        } | options  # fmt: skip
        self.weights, self.v_grids, self.alphas, self.tops = {}, {}, {}, {}
        self.spec = rq.spec(f"int{self.o['bits']}", group_size=10, scheme="asym_incl0", scale_format="float16")

    def quantizer(self, name, xs):
        if not self.o["acts"] or name in self.o["skip"]:
            return None
        if self.o["act_kind"] == "per_token":
            return lambda x: per_token(x, self.o["acts"])
        top = max(np.abs(x).max() for x in xs)
        self.tops[name] = top
        return lambda x: static(x, top, self.o["acts"])

    def values(self, block, index, xs):
        if not self.o["v_bits"]:
            return
        seen = [block.run(x)[1] for x in xs]
        steps = 2 ** self.o["p_bits"] - 1
        if self.o["p_bits"]:
            block.on_a = lambda a: np.rint(a / (1 / steps)) * (1 / steps)
        spec = rq.spec(f"int{self.o['v_bits']}", tiling=Tiling((1, None, None)), scale_format="float32")
        rows = [s.masked if self.o["masked_rows"] else None for s in self.states]
        samples = [AttentionSample(probabilities=block.on_a(s["A"]), values=s["V"], query_rows=r) for s, r in zip(seen, rows, strict=True)]
        alphas = tuple(i / 100 for i in range(100, 79, -1)) if self.o["v_method"] == "ia_aq" else (1.0,)
        choice = ia_aq(samples, spec, alphas=alphas, per=self.o["per"], gram=self.o["gram"])
        axes = (1, 2) if self.o["per"] == "head" else 1
        lo = np.min([s["V"].min(axis=axes, keepdims=True) for s in seen], axis=0)
        hi = np.max([s["V"].max(axis=axes, keepdims=True) for s in seen], axis=0)
        alpha = np.array([alphas[i] for i in choice.chosen.ravel()]).reshape(lo.shape)
        lo, hi = np.minimum(lo, 0), np.maximum(hi, 0)
        zero = np.rint(-lo / ((hi - lo) / (2 ** self.o["v_bits"] - 1)).astype(np.float32).astype(np.float64))
        s = ((hi * alpha - lo * alpha) / (2 ** self.o["v_bits"] - 1)).astype(np.float32).astype(np.float64)
        block.on_v = lambda v: s * (np.clip(np.rint(v / s) + zero, 0, 2 ** self.o["v_bits"] - 1) - zero)
        self.v_grids[index], self.alphas[index] = (s, zero), tuple(alpha.ravel())

    def group(self, block, prefix, names, xs):
        names = [n for n in names if n not in self.o["skip"]]
        if not names:
            return
        source = block if self.o["causal"] else self.untouched
        inputs = [source.run(x)[1][names[0]] for x in xs]
        quantizer = self.quantizer(names[0], inputs)
        if self.o["hessian"] == "quantized" and quantizer:
            inputs = [quantizer(x) for x in inputs]
        weights = self.o["token_weights"]
        hessian = rq.hessian(np.concatenate(inputs), None if weights is None else np.concatenate(weights))
        for name in names:
            w = block.original[name]
            q = rq.rtn(w, self.spec) if self.o["method"] == "rtn" else rq.gptq(w, hessian, self.spec, **self.o["gptq"])
            self.weights[prefix + name] = q
            block.w[name] = q.dequantize(np.dtype(np.float64))
            if quantizer:
                block.on_input[name] = quantizer

    def run(self):
        embedding = self.m.parameters["model.transformer.wte.weight"].astype(np.float64)
        xs = [embedding[s.ids] for s in self.states]
        for index in range(self.m.config.n_layers):
            block, self.untouched = Block(self.m, index), Block(self.m, index)
            if self.o["early_v"]:
                self.values(block, index, xs)
            for position, names in enumerate(GROUPS):
                self.group(block, f"model.transformer.blocks.{index}.", names, xs)
                if position == 0 and not self.o["early_v"]:
                    self.values(block, index, xs)
            mover = block if self.o["propagate"] == "quantized" else self.untouched
            xs = [mover.run(x)[0] for x in xs]
        self.final = xs
        return self
