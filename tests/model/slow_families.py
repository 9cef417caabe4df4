"""Dream, LLaDA-MoE and LLaDA2 once more, in plain Python floats and loops; not one line is shared with the package `model`.

A second opinion for config switches that no golden variant covers. Tensors are nested lists by checkpoint name.
"""

from __future__ import annotations

import math
from typing import Any

Vector = list[float]


def product(weight: list[Vector], x: Vector, bias: Vector | None = None) -> Vector:
    return [math.fsum(w * value for w, value in zip(row, x, strict=True)) + (bias[i] if bias else 0.0) for i, row in enumerate(weight)]


def rms(x: Vector, gain: Vector, eps: float) -> Vector:
    scale = math.sqrt(math.fsum(value * value for value in x) / len(x) + eps)
    return [value / scale * g for value, g in zip(x, gain, strict=True)]


def softmax(scores: Vector) -> Vector:
    top = max(scores)
    powers = [math.exp(score - top) for score in scores]
    return [power / math.fsum(powers) for power in powers]


ACTIVATIONS = {
    "silu": lambda z: z / (1 + math.exp(-z)) if z > -700 else 0.0,
    "gelu": lambda z: z * 0.5 * (1 + math.erf(z / math.sqrt(2))),
    "relu": lambda z: max(z, 0.0),
}


class Slow:
    def __init__(self, config: dict[str, Any]) -> None:
        self.c = c = config
        self.kind = c["model_type"]
        self.d, self.heads = c["hidden_size"], c["num_attention_heads"]
        self.kv = c["num_key_value_heads"] or self.heads
        self.head = c.get("head_dim") or self.d // self.heads
        self.turning = int(self.head * c.get("partial_rotary_factor", 1))

    # What a checkpoint holds.

    def shapes(self) -> dict[str, tuple[int, ...]]:
        c, d, out = self.c, self.d, {}
        qw, kw = self.heads * self.head, self.kv * self.head
        out["model.word_embeddings.weight" if self.kind == "llada2_moe" else "model.embed_tokens.weight"] = (c["vocab_size"], d)
        for i in range(c["num_hidden_layers"]):
            p = f"model.layers.{i}."
            out[p + "input_layernorm.weight"] = out[p + "post_attention_layernorm.weight"] = (d,)
            if self.kind == "llada2_moe":
                out[p + "attention.query_key_value.weight"] = (qw + 2 * kw, d)
                if c["use_qkv_bias"]:
                    out[p + "attention.query_key_value.bias"] = (qw + 2 * kw,)
                out[p + "attention.dense.weight"] = (d, qw)
                if c["use_bias"]:
                    out[p + "attention.dense.bias"] = (d,)
                if c["use_qk_norm"]:
                    out[p + "attention.query_layernorm.weight"] = out[p + "attention.key_layernorm.weight"] = (self.head,)
            else:
                biased = self.kind == "Dream" or c["attention_bias"]
                for name, rows in (("q", qw), ("k", kw), ("v", kw)):
                    out[f"{p}self_attn.{name}_proj.weight"] = (rows, d)
                    if biased:
                        out[f"{p}self_attn.{name}_proj.bias"] = (rows,)
                out[p + "self_attn.o_proj.weight"] = (d, qw)
                if self.kind != "Dream" and c["attention_bias"]:
                    out[p + "self_attn.o_proj.bias"] = (d,)
                if c.get("qk_layernorm"):
                    out[p + "self_attn.q_norm.weight"] = out[p + "self_attn.k_norm.weight"] = (self.head,)
            self.mlp_shapes(i, p, out)
        out["model.norm.weight"] = (d,)
        if not c["tie_word_embeddings"]:
            out["lm_head.weight"] = (c["vocab_size"], d)
        return out

    def mlp_shapes(self, i: int, p: str, out: dict[str, tuple[int, ...]]) -> None:
        c, d = self.c, self.d

        def mlp(prefix: str, width: int) -> None:
            out[prefix + "gate_proj.weight"] = out[prefix + "up_proj.weight"] = (width, d)
            out[prefix + "down_proj.weight"] = (d, width)

        if not self.mixed(i):
            mlp(p + "mlp.", c["dense_intermediate_size"] if self.kind == "lladamoe" else c["intermediate_size"])
            return
        out[p + "mlp.gate.weight"] = (c["num_experts"], d)
        for e in range(c["num_experts"]):
            mlp(f"{p}mlp.experts.{e}.", c["expert_intermediate_size"] if self.kind == "lladamoe" else c["moe_intermediate_size"])
        if self.kind == "lladamoe":
            if c["moe_router_enable_expert_bias"]:
                out[p + "mlp.expert_bias"] = (c["num_experts"],)
            if c["shared_expert_intermediate_size"]:
                mlp(p + "shared_expert.", c["shared_expert_intermediate_size"])
        else:
            out[p + "mlp.gate.expert_bias"] = (c["num_experts"],)
            if c["num_shared_experts"]:
                mlp(p + "mlp.shared_experts.", c["moe_intermediate_size"] * c["num_shared_experts"])

    def mixed(self, i: int) -> bool:
        if self.kind == "lladamoe":
            return self.c["moe_layer_freq"][i] == 1
        return self.kind == "llada2_moe" and self.c["num_experts"] is not None and i >= self.c["first_k_dense_replace"]

    # What it computes, for one sequence.

    def logits(self, t: dict[str, Any], ids: list[int], sees: list[list[int]] | None = None, positions: list[int] | None = None) -> Any:
        c = self.c
        table = t["model.word_embeddings.weight" if self.kind == "llada2_moe" else "model.embed_tokens.weight"]
        x = [list(table[i]) for i in ids]
        sees = sees or [[1] * len(ids) for _ in ids]
        positions = positions or list(range(len(ids)))
        for i in range(c["num_hidden_layers"]):
            p = f"model.layers.{i}."
            normed = [rms(row, t[p + "input_layernorm.weight"], c["rms_norm_eps"]) for row in x]
            x = [[a + b for a, b in zip(row, new)] for row, new in zip(x, self.attention(t, p, normed, sees, positions))]
            normed = [rms(row, t[p + "post_attention_layernorm.weight"], c["rms_norm_eps"]) for row in x]
            x = [[a + b for a, b in zip(row, self.feed(t, p, i, n))] for row, n in zip(x, normed)]
        head = table if c["tie_word_embeddings"] else t["lm_head.weight"]
        return [product(head, rms(row, t["model.norm.weight"], c["rms_norm_eps"])) for row in x]

    def qkv(self, t: dict[str, Any], p: str, x: Vector, position: int) -> tuple[list[Vector], list[Vector], list[Vector]]:
        c, h = self.c, self.head
        if self.kind == "llada2_moe":
            whole = product(t[p + "attention.query_key_value.weight"], x, t.get(p + "attention.query_key_value.bias"))
            heads = [whole[j * h : (j + 1) * h] for j in range(self.heads + 2 * self.kv)]
            q, k, v = heads[: self.heads], heads[self.heads : self.heads + self.kv], heads[self.heads + self.kv :]
            gains = t.get(p + "attention.query_layernorm.weight"), t.get(p + "attention.key_layernorm.weight")
        else:
            flat = [product(t[f"{p}self_attn.{n}_proj.weight"], x, t.get(f"{p}self_attn.{n}_proj.bias")) for n in "qkv"]
            q, k, v = ([row[j * h : (j + 1) * h] for j in range(len(row) // h)] for row in flat)
            gains = t.get(p + "self_attn.q_norm.weight"), t.get(p + "self_attn.k_norm.weight")
        if gains[0] is not None:
            q, k = ([rms(head, gain, c["rms_norm_eps"]) for head in heads] for heads, gain in zip((q, k), gains))
        if c.get("clip_qkv"):
            q, k, v = ([[min(max(z, -c["clip_qkv"]), c["clip_qkv"]) for z in head] for head in heads] for heads in (q, k, v))
        return [self.turn(head, position) for head in q], [self.turn(head, position) for head in k], v

    def turn(self, x: Vector, position: int) -> Vector:
        half, out = self.turning // 2, list(x)
        for j in range(half):
            angle = position * self.c["rope_theta"] ** (-2 * j / self.turning)
            a, b = x[j], x[j + half]
            out[j], out[j + half] = a * math.cos(angle) - b * math.sin(angle), b * math.cos(angle) + a * math.sin(angle)
        return out

    def attention(self, t: dict[str, Any], p: str, x: list[Vector], sees: list[list[int]], positions: list[int]) -> list[Vector]:
        parts = [self.qkv(t, p, row, position) for row, position in zip(x, positions)]
        out = []
        for row, (q, _, _) in enumerate(parts):
            keys = [j for j in range(len(x)) if sees[row][j]]
            mixed: Vector = []
            for head in range(self.heads):
                kv = head // (self.heads // self.kv)
                if not keys:
                    mixed += [0.0] * self.head
                    continue
                scores = [math.fsum(a * b for a, b in zip(q[head], parts[j][1][kv])) / math.sqrt(self.head) for j in keys]
                weights = softmax(scores)
                mixed += [math.fsum(w * parts[j][2][kv][f] for w, j in zip(weights, keys)) for f in range(self.head)]
            name = "attention.dense" if self.kind == "llada2_moe" else "self_attn.o_proj"
            out.append(product(t[p + name + ".weight"], mixed, t.get(p + name + ".bias")))
        return out

    def mlp(self, t: dict[str, Any], prefix: str, x: Vector) -> Vector:
        act = ACTIVATIONS[self.c["hidden_act"]]
        gate, up = product(t[prefix + "gate_proj.weight"], x), product(t[prefix + "up_proj.weight"], x)
        return product(t[prefix + "down_proj.weight"], [act(a) * b for a, b in zip(gate, up)])

    def feed(self, t: dict[str, Any], p: str, i: int, x: Vector) -> Vector:
        c = self.c
        if not self.mixed(i):
            return self.mlp(t, p + "mlp.", x)
        total = [0.0] * self.d
        for expert, weight in self.route(t, p, product(t[p + "mlp.gate.weight"], x)):
            total = [a + weight * b for a, b in zip(total, self.mlp(t, f"{p}mlp.experts.{expert}.", x))]
        shared = p + ("shared_expert." if self.kind == "lladamoe" else "mlp.shared_experts.")
        if c.get("shared_expert_intermediate_size") or c.get("num_shared_experts"):
            total = [a + b for a, b in zip(total, self.mlp(t, shared, x))]
        return total

    def route(self, t: dict[str, Any], p: str, z: Vector) -> list[tuple[int, float]]:
        c, k = self.c, self.c["num_experts_per_tok"]
        if self.kind == "lladamoe":
            scores = softmax(z)
            if c["moe_router_enable_expert_bias"]:
                scores = [s + b for s, b in zip(scores, t[p + "mlp.expert_bias"])]
            return [(e, scores[e]) for e in sorted(range(len(z)), key=lambda e: (-scores[e], e))[:k]]
        scores = [1 / (1 + math.exp(-value)) for value in z]
        ranked = [s + b for s, b in zip(scores, t[p + "mlp.gate.expert_bias"])]
        size = len(z) // c["n_group"]
        strength = [sum(sorted(ranked[g * size : (g + 1) * size])[-2:]) for g in range(c["n_group"])]
        kept = sorted(range(c["n_group"]), key=lambda g: (-strength[g], g))[: c["topk_group"]]
        best = sorted((e for e in range(len(z)) if e // size in kept), key=lambda e: (-ranked[e], e))[:k]
        total = math.fsum(scores[e] for e in best) + 1e-20 if k > 1 else 1.0
        return [(e, scores[e] / total * c["routed_scaling_factor"]) for e in best]
