"""A second LLaDA in plain Python floats and loops: slow, and sharing not one line with the package `model`.

Written from the description of the public class, so that config switches which no golden variant covers have something to be compared with.
"""

from __future__ import annotations

import math
from typing import Any

Vector = list[float]
Matrix = list[Vector]

DEFAULTS: dict[str, Any] = {
    "mlp_ratio": 4,
    "mlp_hidden_size": None,
    "n_kv_heads": None,
    "multi_query_attention": None,
    "embedding_size": None,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5,
    "layer_norm_with_affine": True,
    "bias_for_layer_norm": None,
    "attention_layer_norm": False,
    "attention_layer_norm_with_affine": True,
    "block_group_size": 1,
    "include_bias": False,
    "include_qkv_bias": False,
    "scale_logits": False,
    "input_emb_norm": False,
}


class SlowLLaDA:
    def __init__(self, config: dict[str, Any]) -> None:
        self.c = {**DEFAULTS, **config}
        c = self.c
        self.heads, self.width = c["n_heads"], c["d_model"]
        self.head = self.width // self.heads
        if c["n_kv_heads"] is not None:
            self.kv = c["n_kv_heads"]
        else:
            self.kv = 1 if c["multi_query_attention"] else self.heads
        self.mlp = c["mlp_hidden_size"] if c["mlp_hidden_size"] is not None else c["mlp_ratio"] * self.width
        self.rows = c["embedding_size"] if c["embedding_size"] is not None else c["vocab_size"]

    def prefix(self, i: int) -> str:
        g = self.c["block_group_size"]
        return f"model.transformer.blocks.{i}." if g == 1 else f"model.transformer.block_groups.{i // g}.{i % g}."

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """What the checkpoint must hold."""
        c, d, kv = self.c, self.width, self.kv * self.head
        out: dict[str, tuple[int, ...]] = {"model.transformer.wte.weight": (self.rows, d)}
        norm_bias = c["include_bias"] if c["bias_for_layer_norm"] is None else c["bias_for_layer_norm"]

        def norm(name: str, size: int, affine: bool) -> None:
            if affine:
                out[name + ".weight"] = (size,)
                if norm_bias:
                    out[name + ".bias"] = (size,)

        def linear(name: str, rows: int, columns: int, bias: bool) -> None:
            out[name + ".weight"] = (rows, columns)
            if bias:
                out[name + ".bias"] = (rows,)

        for i in range(c["n_layers"]):
            p = self.prefix(i)
            qkv_bias = c["include_bias"] or c["include_qkv_bias"]
            if c["block_type"] == "llama":
                linear(p + "q_proj", d, d, qkv_bias)
                linear(p + "k_proj", kv, d, qkv_bias)
                linear(p + "v_proj", kv, d, qkv_bias)
                linear(p + "up_proj", self.mlp, d, c["include_bias"])
            else:
                linear(p + "att_proj", d + kv + kv, d, qkv_bias)
            linear(p + "ff_proj", self.mlp, d, c["include_bias"])
            linear(p + "attn_out", d, d, c["include_bias"])
            halved = c["activation_type"] == "swiglu"
            linear(p + "ff_out", d, self.mlp // 2 if halved else self.mlp, c["include_bias"])
            norm(p + "attn_norm", d, c["layer_norm_with_affine"])
            norm(p + "ff_norm", d, c["layer_norm_with_affine"])
            if c["attention_layer_norm"]:
                norm(p + "q_norm", d, c["attention_layer_norm_with_affine"])
                norm(p + "k_norm", kv, c["attention_layer_norm_with_affine"])
        norm("model.transformer.ln_f", d, c["layer_norm_with_affine"])
        if not c["weight_tying"]:
            linear("model.transformer.ff_out", self.rows, d, c["include_bias"])
        return out

    def normalize(self, x: Vector, name: str, tensors: dict[str, Any]) -> Vector:
        kind, n = self.c["layer_norm_type"], len(x)
        if kind in ("rms", "gemma_rms"):
            root = math.sqrt(math.fsum(v * v for v in x) / n + self.c["rms_norm_eps"])
            y = [v / root for v in x]
        else:
            mean = math.fsum(x) / n
            root = math.sqrt(math.fsum((v - mean) ** 2 for v in x) / n + 1e-5)
            y = [(v - mean) / root for v in x]
        if name + ".weight" in tensors:
            extra = 1.0 if kind == "gemma_rms" else 0.0
            y = [v * (extra + w) for v, w in zip(y, tensors[name + ".weight"], strict=True)]
        if name + ".bias" in tensors:
            y = [v + b for v, b in zip(y, tensors[name + ".bias"], strict=True)]
        return y

    @staticmethod
    def linear(x: Vector, name: str, tensors: dict[str, Any]) -> Vector:
        y = [math.fsum(a * b for a, b in zip(row, x, strict=True)) for row in tensors[name + ".weight"]]
        if name + ".bias" in tensors:
            y = [v + b for v, b in zip(y, tensors[name + ".bias"], strict=True)]
        return y

    def turn(self, x: Vector, position: int) -> Vector:
        half, out = self.head // 2, list(x)
        for j in range(half):
            angle = position * self.c["rope_theta"] ** (-2 * j / self.head)
            a, b = x[j], x[j + half]
            out[j] = a * math.cos(angle) - b * math.sin(angle)
            out[j + half] = b * math.cos(angle) + a * math.sin(angle)
        return out

    def activate(self, x: Vector) -> Vector:
        kind = self.c["activation_type"]
        if kind == "swiglu":
            half = len(x) // 2
            return [v * g / (1 + math.exp(-g)) for v, g in zip(x[:half], x[half:], strict=True)]
        if kind == "silu":
            return [v / (1 + math.exp(-v)) for v in x]
        if kind == "gelu":
            return [v * (1 + math.erf(v / math.sqrt(2))) / 2 for v in x]
        return [v if v > 0 else 0.0 for v in x]

    def attend(self, xs: Matrix, p: str, tensors: dict[str, Any], mask: list[int]) -> Matrix:
        d, kv = self.width, self.kv * self.head
        qs, ks, vs = [], [], []
        for t, x in enumerate(xs):
            n = self.normalize(x, p + "attn_norm", tensors)
            if self.c["block_type"] == "llama":
                q, k, v = (self.linear(n, p + name, tensors) for name in ("q_proj", "k_proj", "v_proj"))
            else:
                fused = self.linear(n, p + "att_proj", tensors)
                q, k, v = fused[:d], fused[d : d + kv], fused[d + kv :]
            if self.c["attention_layer_norm"]:
                q, k = self.normalize(q, p + "q_norm", tensors), self.normalize(k, p + "k_norm", tensors)
            cut = range(0, d, self.head), range(0, kv, self.head)
            qs.append([self.turn(q[s : s + self.head], t) for s in cut[0]])
            ks.append([self.turn(k[s : s + self.head], t) for s in cut[1]])
            vs.append([v[s : s + self.head] for s in cut[1]])
        out = []
        for t in range(len(xs)):
            mixed: Vector = []
            for h in range(self.heads):
                g = h // (self.heads // self.kv)
                scores = [math.fsum(a * b for a, b in zip(qs[t][h], ks[s][g], strict=True)) / math.sqrt(self.head) for s in range(len(xs))]
                if any(mask):  # with no visible key at all the public code averages all of them
                    scores = [score if mask[s] else -math.inf for s, score in enumerate(scores)]
                else:
                    scores = [0.0] * len(xs)
                top = max(scores)
                weights = [math.exp(score - top) for score in scores]
                total = math.fsum(weights)
                mixed += [math.fsum(w * vs[s][g][j] for s, w in enumerate(weights)) / total for j in range(self.head)]
            out.append(self.linear(mixed, p + "attn_out", tensors))
        return out

    def feed(self, x: Vector, p: str, tensors: dict[str, Any]) -> Vector:
        n = self.normalize(x, p + "ff_norm", tensors)
        h = self.activate(self.linear(n, p + "ff_proj", tensors))
        if self.c["block_type"] == "llama":
            h = [a * b for a, b in zip(h, self.linear(n, p + "up_proj", tensors), strict=True)]
        return self.linear(h, p + "ff_out", tensors)

    def logits(self, tensors: dict[str, Any], ids: list[int], mask: list[int] | None = None) -> Matrix:
        """Logits of one sequence; `tensors` are nested lists of floats."""
        scale = math.sqrt(self.width) if self.c["input_emb_norm"] else 1.0
        xs = [[scale * v for v in tensors["model.transformer.wte.weight"][i]] for i in ids]
        for i in range(self.c["n_layers"]):
            added = self.attend(xs, self.prefix(i), tensors, mask or [1] * len(ids))
            xs = [[a + b for a, b in zip(x, y, strict=True)] for x, y in zip(xs, added, strict=True)]
            added = [self.feed(x, self.prefix(i), tensors) for x in xs]
            xs = [[a + b for a, b in zip(x, y, strict=True)] for x, y in zip(xs, added, strict=True)]
        head = "model.transformer.wte" if self.c["weight_tying"] else "model.transformer.ff_out"
        out = [self.linear(self.normalize(x, "model.transformer.ln_f", tensors), head, tensors) for x in xs]
        return [[v / math.sqrt(self.width) for v in row] for row in out] if self.c["scale_logits"] else out
