"""Train the tiny model on what corpus.py wrote. Needs torch.

    python tools/tiny_llada/train.py --data DATA --out CHECKPOINT --steps 11600

Loss: t uniform in (0, 1), spread evenly over the batch; each maskable token is masked with probability
p = (1 - 1e-3) t + 1e-3; cross-entropy of the masked tokens divided by p, averaged over maskable tokens and sequences.
The number of steps fixes the schedule and every batch is seeded, so a run repeats on one machine and torch release.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import numpy as np
import tasks
import torch
from network import SHAPE, LLaDA, save
from tokenizers import Tokenizer
from torch import Tensor

LEAST_RATIO = 1e-3
# Share of the batches, and length of their sequences.
MIX = {"text": (0.45, 128), "word": (0.2, 88), "arithmetic": (0.13, 32), "drill": (0.12, 96), "order": (0.1, 32)}
NAMES = {"word": ["word"], "arithmetic": ["add", "sub"], "order": ["sort", "reverse"]}

Batch = tuple[np.ndarray, np.ndarray, np.ndarray]  # ids, may be masked, counts in the loss: each [B, T]


class Batches:
    """A mixture of texts and tasks; every batch is of one kind and one length."""

    def __init__(self, folder: Path, tokenizer: Tokenizer, tokens: int, seed: int) -> None:
        stored = np.load(folder / "train.npz")
        self.streams = [stored[name].astype(np.int64) for name in ("shakespeare", "kjv")]
        self.tokenizer, self.tokens, self.r = tokenizer, tokens, random.Random(seed)

    def draw(self) -> tuple[str, Batch]:
        kind = self.r.choices(list(MIX), [share for share, _ in MIX.values()])[0]
        length = MIX[kind][1]
        if kind == "text" and self.r.random() < 0.15:
            length = 64
        rows = self.tokens // length
        if kind in NAMES:
            return kind, self.items(NAMES[kind], rows, length)
        ids = self.text(rows, length) if kind == "text" else self.drill(rows, length)
        return kind, (ids, np.ones(ids.shape, bool), np.ones(ids.shape, bool))

    def text(self, rows: int, length: int) -> np.ndarray:
        chosen = [self.streams[i % 2] for i in range(rows)]
        starts = [self.r.randrange(len(stream) - length) for stream in chosen]
        return np.stack([stream[start : start + length] for stream, start in zip(chosen, starts, strict=True)])

    def drill(self, rows: int, length: int) -> np.ndarray:
        lines = [tasks.drill(self.r, length // 6) for _ in range(rows)]
        encoded = self.tokenizer.encode_batch(lines, add_special_tokens=False)
        return np.array([([SHAPE["bos_token_id"], *line.ids])[:length] for line in encoded])

    def items(self, names: list[str], rows: int, length: int) -> Batch:
        ids = np.full((rows, length), SHAPE["eos_token_id"])
        maskable, scored = np.ones((rows, length), bool), np.ones((rows, length), bool)
        for row in range(rows):
            prompt, response, _ = tasks.sample(self.r.choice(names), self.r)
            before = [SHAPE["bos_token_id"], *self.tokenizer.encode(prompt, add_special_tokens=False).ids]
            both = before + self.tokenizer.encode(response, add_special_tokens=False).ids
            ids[row, : len(both)] = both
            if self.r.random() < 0.75:  # as in supervised fine-tuning: the prompt stays visible
                maskable[row, : len(before)] = False
            # The padding belongs to the response and is masked like the rest, or its length would leak; being easy, it seldom counts.
            scored[row] = maskable[row]
            if self.r.random() > 0.1:
                scored[row, len(both) + 2 :] = False
        return ids, maskable, scored


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalized by five Newton-Schulz steps, for matrices."""

    def __init__(self, params: list[torch.nn.Parameter], lr: float, decay: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "decay": decay, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                average = self.state[p].setdefault("average", torch.zeros_like(p))
                average.lerp_(p.grad, 1 - group["momentum"])
                x = torch.lerp(p.grad, average, group["momentum"])
                tall = x.shape[0] > x.shape[1]
                x = (x.T if tall else x).bfloat16()
                x = x / (x.norm() + 1e-7)
                for _ in range(5):
                    y = x @ x.T
                    x = 3.4445 * x + (-4.7750 * y + 2.0315 * (y @ y)) @ x
                x = (x.T if tall else x).float()
                p.mul_(1 - group["lr"] * group["decay"]).add_(x, alpha=-group["lr"] * 0.2 * max(p.shape) ** 0.5)


def loss_of(network: LLaDA, batch: Batch, generator: torch.Generator) -> Tensor:
    ids, maskable, scored = (torch.from_numpy(array) for array in batch)
    rows = ids.shape[0]
    t = (torch.rand(1, generator=generator) + torch.arange(rows) / rows) % 1.0
    p = ((1 - LEAST_RATIO) * t + LEAST_RATIO)[torch.randperm(rows, generator=generator)][:, None]
    masked = (torch.rand(ids.shape, generator=generator) < p) & maskable
    hidden = network.hidden(torch.where(masked, SHAPE["mask_token_id"], ids))
    chosen = (masked & scored).view(-1).nonzero()[:, 0]
    logits = network.transformer["ff_out"](hidden.reshape(-1, hidden.shape[-1])[chosen]).float()
    losses = torch.nn.functional.cross_entropy(logits, ids.view(-1)[chosen], reduction="none")
    weights = scored / scored.sum(1, keepdim=True).clamp_min(1) / rows / p
    return (losses * weights.view(-1)[chosen]).sum()


def optimizers(network: LLaDA, lr: float, decay: float) -> list[torch.optim.Optimizer]:
    matrices = [p for p in network.transformer["blocks"].parameters() if p.dim() == 2]
    tables = [network.transformer[name].weight for name in ("wte", "ff_out")]
    gains = [p for p in network.parameters() if p.dim() == 1]
    groups = [{"params": tables, "weight_decay": decay}, {"params": gains, "weight_decay": 0.0}]
    return [Muon(matrices, lr, decay), torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--steps", type=int, default=11600)
    parser.add_argument("--tokens", type=int, default=8192, help="tokens a step")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--warmup", type=int, default=200, help="steps")
    parser.add_argument("--falling", type=float, default=0.8, help="share of the run over which the learning rate falls to 0")
    parser.add_argument("--task-weight", type=float, default=3.0, help="factor on the loss of every kind but text")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()

    torch.manual_seed(given.seed)
    generator = torch.Generator().manual_seed(given.seed)
    tokenizer = Tokenizer.from_file(str(given.data / "tokenizer.json"))
    batches = Batches(given.data, tokenizer, given.tokens, given.seed)
    network = LLaDA(SHAPE)
    both = optimizers(network, given.lr, 0.1)
    began, smooth = time.monotonic(), {}
    for step in range(given.steps):
        left = 1 - step / given.steps
        lr = given.lr * min(1.0, (step + 1) / given.warmup) * min(1.0, left / given.falling)
        for group in (group for optimizer in both for group in optimizer.param_groups):
            group["lr"] = lr
        kind, batch = batches.draw()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(network, batch, generator)
        (loss if kind == "text" else loss * given.task_weight).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for optimizer in both:
            optimizer.step()
            optimizer.zero_grad()
        smooth[kind] = 0.96 * smooth.get(kind, loss.item()) + 0.04 * loss.item()
        if (step + 1) % 100 == 0 or step + 1 == given.steps:
            shown = "  ".join(f"{name} {value:.3f}" for name, value in sorted(smooth.items()))
            print(f"step {step + 1}  {shown}  lr {lr:.1e}  {(time.monotonic() - began) / 60:.1f} min", flush=True)
    save(network, SHAPE, given.out)
    tokenizer.save(str(given.out / "tokenizer.json"))


if __name__ == "__main__":
    main()
