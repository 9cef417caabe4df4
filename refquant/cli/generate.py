"""`refquant generate`: answer a prompt, and show how the masks fill in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import click
import numpy as np
from rich.console import Console
from rich.live import Live

from model import Step, Tokenizer, chat_prompt, denoise
from refquant.apply.checkpoint import load
from refquant.apply.evaluation.tasks import response_text
from refquant.apply.rollout import RawUniforms
from refquant.cli.evaluating import calm_blas, lane_option, source_folder
from refquant.cli.streams import talk_console
from refquant.errors import UsageError
from refquant.numerics import LANES
from refquant.report.filling import Piece, filling_line, pieces
from refquant.storage import open_checkpoint

EPILOG = """\b
Examples:
  refquant generate --prompt "In the beginning" --gen-length 16
  refquant generate --prompt "Q: reverse abc" --gen-length 8 --no-show
  refquant generate --prompt "And God said" --gen-length 16 --block-length 8 --steps 8 --temperature 0.5 --seed 1
  refquant quantize --recipe w8a8 --out w8a8-folder --no-compare --quick
  refquant generate w8a8-folder --prompt "In the beginning" --gen-length 16
"""


HEADER = "<|start_header_id|>"


class _Show(Protocol):
    def __call__(self, step: int, steps: int, found: list[Piece]) -> None: ...


@click.command(epilog=EPILOG)
@click.argument("directory", metavar="[DIR]", required=False, type=click.Path(path_type=Path))
@click.option("--prompt", required=True, help="Text to continue.")
@click.option("--gen-length", type=click.IntRange(min=1), default=64, show_default=True, help="Tokens to make.")
@click.option("--block-length", type=click.IntRange(min=1), help="Tokens a block, a divisor of the length; default: one block.")
@click.option("--steps", type=click.IntRange(min=1), help="Steps in all, a multiple of the number of blocks; default: one token a step.")
@click.option(
    "--temperature", type=click.FloatRange(min=0), default=0.0, show_default=True, help="Of the Gumbel noise; 0 takes the likeliest."
)
@click.option("--cfg-scale", type=click.FloatRange(min=0), default=0.0, show_default=True, help="Classifier-free guidance; 0 is off.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the noise.")
@click.option("--chat", is_flag=True, help="Put the prompt into the chat template of LLaDA-Instruct.")
@lane_option
@click.option("--show/--no-show", "shown", default=True, help="Show the tokens on stderr as they fill in.")
def command(
    directory: Path | None,
    prompt: str,
    gen_length: int,
    block_length: int | None,
    steps: int | None,
    temperature: float,
    cfg_scale: float,
    seed: int,
    chat: bool,
    lane: str,
    shown: bool,
) -> None:
    """Continue a prompt with DIR, a checkpoint or a quantized folder (default: the embedded model).

    The response goes to stdout, up to its end of text. On stderr, masks are shown as they fill in.
    """
    source = source_folder(directory)
    open_checkpoint(source)
    m, tokenizer = load(source, arithmetic=LANES[lane]), Tokenizer.from_directory(source)
    ids = _prompt_ids(prompt, chat, tokenizer)
    count = gen_length if steps is None else steps
    sampler = denoise(
        m,
        np.array([ids], dtype=np.int64),
        gen_length=gen_length,
        block_length=gen_length if block_length is None else block_length,
        steps=count,
        temperature=temperature,
        cfg_scale=cfg_scale,
        rng=RawUniforms(np.random.Generator(np.random.PCG64(seed))) if temperature else None,
    )
    response: list[int] = []
    console = talk_console()
    mask = "\u2591" if console.encoding.lower().startswith("utf") else "_"
    with calm_blas(m), _showing(console, shown) as tell:
        for step in sampler:
            response = step.after[0, len(ids) :].tolist()
            tell(step.step + 1, count, _pieces(step, len(ids), tokenizer, mask))
    click.echo(response_text(response, tokenizer))


def _prompt_ids(prompt: str, chat: bool, tokenizer: Tokenizer) -> list[int]:
    if chat:
        if len(tokenizer.encode(HEADER)) != 1:  # it would be spelled out, letter by letter, and mean nothing to the model
            raise UsageError(f"--chat: this tokenizer has no token {HEADER}; allowed with the tokenizer of a model trained to chat")
        return tokenizer.encode(chat_prompt([{"role": "user", "content": prompt}]))
    start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    return [*start, *tokenizer.encode(prompt)]


def _pieces(step: Step, start: int, tokenizer: Tokenizer, mask: str) -> list[Piece]:
    return pieces(step.after[0, start:].tolist(), step.committed[0, start:].tolist(), tokenizer, mask)


@contextmanager
def _showing(console: Console, shown: bool) -> Iterator[_Show]:
    """A view that changes in place on a terminal, a line a step elsewhere, nothing with ``--no-show``."""
    if not shown:
        yield lambda step, steps, found: None
        return
    if not console.is_terminal:
        yield lambda step, steps, found: console.print(filling_line(step, steps, found))
        return
    with Live(console=console, transient=True, auto_refresh=False) as live:
        yield lambda step, steps, found: live.update(filling_line(step, steps, found), refresh=True)
