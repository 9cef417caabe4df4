"""Make a checkpoint in the shape of LLaDA-8B that takes 2 GB of disk: what is computed with is random, the rest are holes in sparse files.

    python tools/make_llada8b_shape.py FOLDER [--layers 32]

Random are the output head, blocks 0 and 1, and the embedding rows of the first 1024 tokens and of the mask; all other numbers are zeros
that no file system stores. Beside it lie a tokenizer (the embedded model's) and eight stored calibration states of 128 tokens whose rows
are random, half of them masked.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np

import model
from model.names import tensor_shapes
from refquant.storage import open_checkpoint, plan_shards, write_index, write_text
from refquant.storage.streaming import TensorSource
from refquant.storage.tensors import prepared

BF16 = np.dtype(ml_dtypes.bfloat16)
USED, MASK = 1024, 126336
CONFIG = {
    "model_type": "llada",
    "d_model": 4096,
    "n_heads": 32,
    "n_kv_heads": 32,
    "n_layers": 32,
    "mlp_hidden_size": 12288,
    "vocab_size": 126464,
    "embedding_size": 126464,
    "max_sequence_length": 4096,
    "rope": True,
    "rope_theta": 500000.0,
    "layer_norm_type": "rms",
    "rms_norm_eps": 1e-5,
    "activation_type": "silu",
    "block_type": "llama",
    "include_bias": False,
    "include_qkv_bias": False,
    "bias_for_layer_norm": False,
    "weight_tying": False,
    "mask_token_id": MASK,
    "eos_token_id": 126081,
    "pad_token_id": 126081,
}


def main() -> None:
    """Read the command line and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=32)
    arguments = parser.parse_args()
    arguments.folder.mkdir()
    make(arguments.folder, arguments.layers)
    print(f"{arguments.folder}: {sum(file.stat().st_size for file in open_checkpoint(arguments.folder).files) / 1e9:.1f} GB, mostly holes")


def make(folder: Path, layers: int) -> None:
    """Fill an empty folder."""
    config = CONFIG | {"n_layers": layers}
    write_text(folder / "config.json", json.dumps(config, indent=1))
    shutil.copyfile(model.embedded_directory() / "tokenizer.json", folder / "tokenizer.json")
    rng = np.random.default_rng(0)
    write_text(folder / "calib.jsonl", "".join(json.dumps(stored_state(rng)) + "\n" for _ in range(8)))
    tensors = {name: TensorSource(dtype=BF16, shape=shape, pieces=lambda: iter(())) for name, shape in shapes(config).items()}
    names = list(tensors)
    homes = {}
    for shard in plan_shards([tensors[name].nbytes for name in names]):
        inside = {names[group]: tensors[names[group]] for group in shard.groups}
        homes |= dict.fromkeys(inside, shard.file)
        write_sparse(folder / shard.file, inside, rng)
    if len(set(homes.values())) > 1:
        write_index(folder, homes, sum(one.nbytes for one in tensors.values()))


def stored_state(rng: np.random.Generator) -> dict[str, list[int]]:
    """A line of a calibration file: 128 ids and the positions of 64 masks."""
    return {"ids": rng.integers(4, USED, 128).tolist(), "masked": sorted(rng.permutation(128)[:64].tolist())}


def shapes(config: dict[str, object]) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of the checkpoint."""
    return dict(tensor_shapes(model.Config.from_dict(config, "config")))


def write_sparse(path: Path, tensors: dict[str, TensorSource], rng: np.random.Generator) -> None:
    """Write a safetensors file whose zeros are holes."""
    order, prefix = prepared(tensors, {"format": "pt"})
    with open(path, "xb") as file:
        file.write(prefix)
        start = len(prefix)
        for name in order:
            for row, count in random_rows(name, tensors[name].shape):
                width = int(np.prod(tensors[name].shape[1:], dtype=int))
                file.seek(start + row * width * 2)
                file.write(numbers(name, count * width, rng).view(np.uint8).data)
            start += tensors[name].nbytes
        file.truncate(start)


def random_rows(name: str, shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Runs of rows that are not zero: first row and number, small enough to be made at once."""
    if name.endswith("wte.weight"):
        return [(0, USED), (MASK, 1)]
    if ".blocks." in name and ".blocks.0." not in name and ".blocks.1." not in name:
        return []
    return [(row, min(1024, shape[0] - row)) for row in range(0, shape[0], 1024)]


def numbers(name: str, count: int, rng: np.random.Generator) -> np.ndarray:
    """Norms around 1, everything else uniform with the deviation of a trained model's."""
    drawn = rng.random(count, dtype=np.float32) - np.float32(0.5)
    scaled = 1 + drawn * np.float32(0.2) if "norm" in name or "ln_f" in name else drawn * np.float32(0.07)
    return scaled.astype(BF16)


if __name__ == "__main__":
    main()
