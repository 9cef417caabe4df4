"""The arithmetic of quantizing language models, written down in plain NumPy.

>>> import numpy as np
>>> import refquant as rq
>>> weight = np.array([[-1.0, 0.1, 0.9, 2.0]])
>>> rq.rtn(weight, rq.spec("int4", scheme="asym_incl0")).dequantize()
array([[-1. ,  0. ,  0.8,  2. ]])
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from refquant.core import QTensor, QuantSpec, Stats, Tiling, hessian
    from refquant.core.spec import spec
    from refquant.formats import Codebook, FloatFormat, IntFormat, decode, encode, find_format
    from refquant.methods.compensate.gptq import gptq, gptq_trace
    from refquant.methods.diffusion.cgq import certainty_weights
    from refquant.methods.diffusion.ia_aq import ia_aq
    from refquant.methods.diffusion.tmas import tmas
    from refquant.methods.grid.rtn import rtn
    from refquant.methods.rotate.duquant import duquant
    from refquant.methods.rotate.quarot import quarot
    from refquant.methods.scale.awq import awq
    from refquant.methods.scale.smoothquant import smoothquant
    from refquant.numerics import FAST, ORDERED, Arithmetic

__version__ = "0.1.0"

# Resolved on first use: `import refquant` alone costs next to nothing.
_HOME = {
    "FAST": "refquant.numerics",
    "ORDERED": "refquant.numerics",
    "Arithmetic": "refquant.numerics",
    "Codebook": "refquant.formats",
    "FloatFormat": "refquant.formats",
    "IntFormat": "refquant.formats",
    "QTensor": "refquant.core",
    "QuantSpec": "refquant.core",
    "Stats": "refquant.core",
    "Tiling": "refquant.core",
    "awq": "refquant.methods.scale.awq",
    "certainty_weights": "refquant.methods.diffusion.cgq",
    "decode": "refquant.formats",
    "duquant": "refquant.methods.rotate.duquant",
    "encode": "refquant.formats",
    "find_format": "refquant.formats",
    "gptq": "refquant.methods.compensate.gptq",
    "gptq_trace": "refquant.methods.compensate.gptq",
    "hessian": "refquant.core",
    "ia_aq": "refquant.methods.diffusion.ia_aq",
    "quarot": "refquant.methods.rotate.quarot",
    "rtn": "refquant.methods.grid.rtn",
    "smoothquant": "refquant.methods.scale.smoothquant",
    "spec": "refquant.core",
    "tmas": "refquant.methods.diffusion.tmas",
}

__all__ = [
    "FAST",
    "ORDERED",
    "Arithmetic",
    "Codebook",
    "FloatFormat",
    "IntFormat",
    "QTensor",
    "QuantSpec",
    "Stats",
    "Tiling",
    "awq",
    "certainty_weights",
    "decode",
    "duquant",
    "encode",
    "find_format",
    "gptq",
    "gptq_trace",
    "hessian",
    "ia_aq",
    "quarot",
    "rtn",
    "smoothquant",
    "spec",
    "tmas",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'refquant' has no attribute {name!r}")
    found = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
