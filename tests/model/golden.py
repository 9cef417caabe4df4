"""The golden data of the public PyTorch code, for the tests beside this file."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import model
from refquant.storage import read_tensors

FOLDER = Path(__file__).parent.parent / "data" / "llada"
VARIANTS = sorted(path.name for path in FOLDER.iterdir() if path.is_dir())
RICH = "base_mha_f32"


@cache
def settings(variant: str) -> dict[str, Any]:
    return json.loads((FOLDER / variant / "expected.json").read_text())


@cache
def expected(variant: str) -> dict[str, np.ndarray]:
    return read_tensors(FOLDER / variant / "expected.safetensors")


@cache
def loaded(variant: str, dtype: str) -> model.Transformer:
    return model.load(FOLDER / variant, dtype)


def named(tail: str) -> list[tuple[str, str]]:
    """(variant, prefix) of every golden tensor whose name is prefix + tail."""
    return [(variant, name.removesuffix(tail)) for variant in VARIANTS for name in expected(variant) if name.endswith(tail)]


class Replay:
    """Hands recorded draws out in order, insisting on shape and dtype."""

    def __init__(self, draws: list[np.ndarray]) -> None:
        self.left = list(draws)

    def random(self, size: Any, dtype: Any, /) -> np.ndarray:
        draw = self.left.pop(0)
        assert draw.shape == tuple(size)
        assert draw.dtype == dtype
        return draw
