"""Runs of IST-DASLab/gptq 2d65066 on CPU (its own code, nothing of ours), as recorded in tests/data/quant/gptq_istdaslab.safetensors.

``W`` holds every kind of row (zeros, constant, one sign only, an outlier, tiny, halves); ``X`` has two dead, two equal and three huge
features, ``X_few`` fewer tokens than features. Their Hessian is 2 X^T X, one sequence. A run's name lists its parameters.
"""

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file

from refquant.core import QuantSpec, hessian, spec
from refquant.methods.compensate.gptq import GptqTrace, gptq_trace
from tests.methods.agreement import Run

PATH = Path(__file__).parents[1] / "data" / "quant" / "gptq_istdaslab.safetensors"
PARAMETERS = re.compile(r"(bits|sym|mse|groupsize|actorder|static_groups|blocksize|percdamp|perchannel|trits)([\d.]+)(?=_|$)")


@cache
def tensors() -> dict[str, NDArray]:
    return load_file(PATH)


@cache
def report() -> dict:
    with safe_open(PATH, "numpy") as file:
        return json.loads(file.metadata()["report"])


def weight() -> NDArray[np.float64]:
    return tensors()["W"].astype(np.float64)


@cache
def full_hessian() -> NDArray[np.float64]:
    return 2 * hessian(tensors()["X"])


@cache
def few_hessian() -> NDArray[np.float64]:
    return 2 * hessian(tensors()["X_few"])


def names(dtype: str) -> list[str]:
    """All runs on X in ``f32`` or ``f64``, without that of the ternary mode, which refquant does not offer."""
    found = {key.removeprefix("gptq.").rsplit(".", 2)[0] for key in _keys() if key.startswith("gptq.") and f".{dtype}." in key}
    runs = {re.sub(r"\.f(32|64)$", "", name) for name in found}
    return sorted(name for name in runs if "trits" not in name)


@cache
def _keys() -> tuple[str, ...]:
    with safe_open(PATH, "numpy") as file:
        return tuple(file.keys())


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """One recorded run: how to repeat it, and what came out."""

    spec: QuantSpec
    options: dict
    run: Run
    scale: NDArray
    zero: NDArray
    error: float
    fitted_while_sweeping: bool

    def repeated(self, h: NDArray[np.float64] | None = None) -> GptqTrace:
        return gptq_trace(weight(), full_hessian() if h is None else h, self.spec, compat="istdaslab", **self.options)


def recorded(name: str, dtype: str) -> Recorded:
    data, key = tensors(), f"gptq.{name}.{dtype}."
    parameters = dict(PARAMETERS.findall(name))
    group = int(parameters["groupsize"]) if "groupsize" in parameters else None
    scheme = "sym_gptq" if parameters["sym"] == "1" else "asym_incl0"
    granularity = "tensor" if parameters.get("perchannel") == "0" else "channel"
    how = spec(f"int{parameters['bits']}", group_size=group, granularity=granularity, scheme=scheme, mse=parameters.get("mse") == "1")
    static = parameters.get("static_groups") == "1"
    options = {
        "damping": float(parameters.get("percdamp", 0.01)),
        "block_size": int(parameters.get("blocksize", 128)),
        "act_order": data[key + "perm"].astype(int) if parameters.get("actorder") == "1" else False,
        "static_groups": static,
    }
    group_of = data.get(key + "g_idx", np.zeros(weight().shape[1], dtype=int))
    run = Run(
        codes=data[key + "codes"].astype(int),
        scale=data[key + "scale"].astype(np.float64)[:, group_of],
        zero=data[key + "zero"].astype(np.float64)[:, group_of],
        lo=how.format.lo,
        hi=how.format.hi,
    )
    return Recorded(
        spec=how,
        options=options,
        run=run,
        scale=data[key + "scale"],
        zero=data[key + "zero"],
        error=float(data[key + "error"][0]),
        fitted_while_sweeping=group is not None and not static,
    )
