"""What torch computes with a checkpoint, for the tests of the NumPy model. Needs torch.

    python tools/tiny_llada/reference.py model/tiny tests/data/tiny

writes ``reference.npz``: partly masked ids [4, 64], their logits, and the block outputs of the first sequence. The test data of this
repository was made by an earlier form of this script, with the same arithmetic.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from network import SHAPE, load


@torch.no_grad()
def main() -> None:
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    network = load(folder)
    rows = [json.loads(line) for line in (folder / "eval.jsonl").read_text(encoding="utf-8").splitlines()]
    texts = [row["ids"][:64] for row in rows if row["task"] == "text"]
    ids = torch.tensor([texts[i] for i in (0, 1, 130, 200)])
    ratios = torch.tensor([0.1, 0.3, 0.6, 0.9])[:, None]
    chance = torch.rand(ids.shape, generator=torch.Generator().manual_seed(5))
    masked = torch.where(chance < ratios, SHAPE["mask_token_id"], ids)
    outputs: list[np.ndarray] = []
    for block in network.transformer["blocks"]:
        block.register_forward_hook(lambda _module, _inputs, output: outputs.append(output[0].numpy().copy()))
    logits = network(masked).numpy()
    out.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        out / "reference.npz",
        ids=masked.numpy().astype(np.int32),
        target=ids.numpy().astype(np.int32),
        logits=logits,
        layer_out=np.stack(outputs),
    )


if __name__ == "__main__":
    main()
