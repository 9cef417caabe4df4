"""Write a copy of a checkpoint that has outlier channels and exactly the same logits. No torch.

    python tools/tiny_llada/inject_outliers.py model/tiny OUT --scale 32 --channels 4

Scaling some entries of a norm's gain (or rows of ``up_proj``) by a power of two and the matching columns of the next linears by its inverse
changes no product, so the logits keep every bit while the activations in between gain outlier channels. They are synthetic, and must be
called so; their use is a test with a known answer: the best scale that SmoothQuant can find is the one put in here.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from pathlib import Path

import numpy as np

from refquant.numerics.draws import sample_without_replacement
from refquant.storage import read_json, read_tensors, write_tensors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--scale", type=float, default=32.0, help="a power of two")
    parser.add_argument("--channels", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.scale <= 0 or math.frexp(given.scale)[0] != 0.5:
        parser.error(f"--scale is {given.scale}; allowed: a power of two")

    tensors = read_tensors(given.checkpoint / "model.safetensors")
    config = read_json(given.checkpoint / "config.json")
    rng = np.random.default_rng(given.seed)
    scale = tensors["model.transformer.ln_f.weight"].dtype.type(given.scale)
    # The same channels of the residual stream in every block, as seen in large models.
    channels = sample_without_replacement(rng, config["d_model"], given.channels)
    record = {"scale": given.scale, "norm_channels": channels.tolist(), "up_channels": {}}
    for index in range(config["n_layers"]):
        prefix = f"model.transformer.blocks.{index}."
        for norm, users in (("attn_norm", ("q_proj", "k_proj", "v_proj")), ("ff_norm", ("ff_proj", "up_proj"))):
            tensors[prefix + norm + ".weight"][channels] *= scale
            for user in users:
                tensors[prefix + user + ".weight"][:, channels] /= scale
        rows = sample_without_replacement(rng, config["mlp_hidden_size"], given.channels)
        tensors[prefix + "up_proj.weight"][rows] *= scale
        tensors[prefix + "ff_out.weight"][:, rows] /= scale
        record["up_channels"][str(index)] = rows.tolist()

    given.out.mkdir(parents=True, exist_ok=True)
    write_tensors(given.out / "model.safetensors", tensors, {"format": "pt"})
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "eval.jsonl", "calib.jsonl"):
        if (given.checkpoint / name).exists():
            shutil.copy(given.checkpoint / name, given.out / name)
    (given.out / "outliers.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
