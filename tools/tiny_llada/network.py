"""The tiny model in torch, for training: parameter names are LLaDA's without the leading ``model.``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

SHAPE: dict[str, Any] = {
    "model_type": "llada",
    "architectures": ["LLaDAModelLM"],
    "d_model": 256,
    "n_layers": 4,
    "n_heads": 4,
    "n_kv_heads": 4,
    "mlp_hidden_size": 768,
    "mlp_ratio": 3,
    "vocab_size": 1024,
    "embedding_size": 1024,
    "max_sequence_length": 256,
    "rope": True,
    "rope_theta": 10000.0,
    "rope_full_precision": True,
    "alibi": False,
    "layer_norm_type": "rms",
    "rms_norm_eps": 1e-05,
    "layer_norm_with_affine": True,
    "bias_for_layer_norm": False,
    "attention_layer_norm": False,
    "attention_layer_norm_with_affine": True,
    "activation_type": "silu",
    "block_type": "llama",
    "block_group_size": 1,
    "include_bias": False,
    "include_qkv_bias": False,
    "weight_tying": False,
    "scale_logits": False,
    "input_emb_norm": False,
    "attention_dropout": 0.0,
    "residual_dropout": 0.0,
    "embedding_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
    "mask_token_id": 3,
    "torch_dtype": "bfloat16",
    "use_cache": False,
}


class RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


class Block(nn.Module):
    def __init__(self, c: dict[str, Any], index: int) -> None:
        super().__init__()
        d, m, self.heads = c["d_model"], c["mlp_hidden_size"], c["n_heads"]

        def linear(columns: int, rows: int, variance: float) -> nn.Linear:
            layer = nn.Linear(columns, rows, bias=False)
            nn.init.trunc_normal_(layer.weight, std=variance**-0.5, a=-3 * variance**-0.5, b=3 * variance**-0.5)
            return layer

        # LLaDA's init_fn "mitchell": what writes into the residual stream starts smaller the deeper it stands.
        self.attn_norm, self.ff_norm = RMSNorm(d, c["rms_norm_eps"]), RMSNorm(d, c["rms_norm_eps"])
        self.q_proj, self.k_proj, self.v_proj = (linear(d, d, d) for _ in range(3))
        self.attn_out = linear(d, d, 2 * d * (index + 1))
        self.ff_proj, self.up_proj = linear(d, m, d), linear(d, m, d)
        self.ff_out = linear(m, d, 2 * m * (index + 1))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, width = x.shape
        h = self.attn_norm(x)
        projections = self.q_proj(h), self.k_proj(h), self.v_proj(h)
        q, k, v = (p.view(batch, length, self.heads, -1).transpose(1, 2) for p in projections)
        q, k = rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype)
        # Written out: torch's fused attention is slower than this in the backward pass on a CPU at these sizes.
        weights = ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).float().softmax(-1).to(v.dtype)
        x = x + self.attn_out((weights @ v).transpose(1, 2).reshape(batch, length, width))
        h = self.ff_norm(x)
        return x + self.ff_out(nn.functional.silu(self.ff_proj(h)) * self.up_proj(h))


class LLaDA(nn.Module):
    def __init__(self, c: dict[str, Any]) -> None:
        super().__init__()
        d, rows = c["d_model"], c["embedding_size"]
        head_dim = d // c["n_heads"]
        self.transformer = nn.ModuleDict({"wte": nn.Embedding(rows, d)})
        self.transformer["blocks"] = nn.ModuleList(Block(c, i) for i in range(c["n_layers"]))
        self.transformer["ln_f"] = RMSNorm(d, c["rms_norm_eps"])
        self.transformer["ff_out"] = nn.Linear(d, rows, bias=False)
        for name in ("wte", "ff_out"):
            nn.init.trunc_normal_(self.transformer[name].weight, std=d**-0.5, a=-3 * d**-0.5, b=3 * d**-0.5)
        frequencies = 1.0 / (c["rope_theta"] ** (torch.arange(0, head_dim, 2).float() / head_dim))
        angles = torch.outer(torch.arange(c["max_sequence_length"]).float(), frequencies)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def hidden(self, ids: Tensor) -> Tensor:
        x = self.transformer["wte"](ids)
        for block in self.transformer["blocks"]:
            x = block(x, self.cos[: ids.shape[1]], self.sin[: ids.shape[1]])
        return self.transformer["ln_f"](x)

    def forward(self, ids: Tensor) -> Tensor:
        return self.transformer["ff_out"](self.hidden(ids))


def load(folder: Path) -> LLaDA:
    """The model of a checkpoint folder, upcast to float32."""
    network = LLaDA(json.loads((folder / "config.json").read_text()))
    stored = load_file(folder / "model.safetensors")
    network.load_state_dict({name.removeprefix("model."): tensor.float() for name, tensor in stored.items()})
    return network.eval()


def save(network: LLaDA, config: dict[str, Any], folder: Path) -> None:
    """Write ``config.json`` and the weights, in bfloat16."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {"model." + k: v.detach().bfloat16().contiguous().clone() for k, v in network.state_dict().items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
