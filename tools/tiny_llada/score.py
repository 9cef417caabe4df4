"""Score a checkpoint on its ``eval.jsonl``, with the NumPy model of this repository; no torch.

    python tools/tiny_llada/score.py model/tiny --texts 128 --items 250

Prints cross-entropy at fixed mask ratios, the likelihood bound, and the share of exact answers with greedy decoding, one token a step.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import tasks

import model
from model.likelihood import masked_copies, masked_losses


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def score_text(m: model.Transformer, texts: list[dict[str, Any]], rng: np.random.Generator) -> dict[str, float]:
    scores = {}
    ids = np.array([row["ids"] for row in texts])
    for ratio in (0.15, 0.3, 0.5, 0.75):
        masked = rng.random(ids.shape) < ratio
        total = 0.0
        for row, hidden in zip(ids, masked, strict=True):
            copies = np.where(hidden, m.config.mask_token_id, row)[None]
            total += float(masked_losses(m, copies, np.ones(copies.shape), row, 0)[0])
        scores[f"cross-entropy at {ratio}"] = total / np.count_nonzero(masked)
    bounds = []
    for row in ids:
        (copies,), (p_mask,) = masked_copies(m, [], row, mc_num=8, batch_size=8, rng=rng)
        bounds.append(masked_losses(m, copies, p_mask, row, 0).mean() / len(row))
    return {**scores, "bound, nats a token": float(np.mean(bounds))}


def score_task(m: model.Transformer, tokenizer: model.Tokenizer, name: str, items: list[dict[str, Any]]) -> float:
    by_length: dict[int, list[tuple[list[int], dict[str, Any]]]] = {}
    for row in items:
        prompt = [tokenizer.bos_id, *tokenizer.encode(row["prompt"])]
        by_length.setdefault(len(prompt), []).append((prompt, row))
    right = 0
    for length, group in by_length.items():
        count = group[0][1]["gen_length"]
        out = model.generate(m, [prompt for prompt, _ in group], gen_length=count, block_length=count, steps=count)
        for ids, (_, row) in zip(out[:, length:], group, strict=True):
            text = tokenizer.decode(ids).split("<|endoftext|>")[0]
            right += tasks.final_answer(name, text) == row["answer"]
    return right / len(items)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--eval", type=Path, help="default: eval.jsonl in the checkpoint")
    parser.add_argument("--texts", type=int, default=128, help="of each source")
    parser.add_argument("--items", type=int, default=250, help="of each task")
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args()
    m, tokenizer = model.load(given.checkpoint), model.Tokenizer.from_directory(given.checkpoint)
    rows = read_lines(given.eval or given.checkpoint / "eval.jsonl")
    for domain in ("kjv", "shakespeare"):
        texts = [row for row in rows if row["task"] == "text" and row["domain"] == domain][: given.texts]
        for name, value in score_text(m, texts, np.random.default_rng(given.seed)).items():
            print(f"{domain}, {name}: {value:.4f}", flush=True)
    for name in tasks.TASKS:
        items = [row for row in rows if row["task"] == name][: given.items]
        print(f"{name}: {score_task(m, tokenizer, name, items):.4f}", flush=True)


if __name__ == "__main__":
    main()
