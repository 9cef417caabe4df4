"""Elementary functions as one writes them in an afternoon, each with one fault."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from refquant.conformance.mutants.mutant import Mutant
from refquant.conformance.operation import Arrays, Parameters
from refquant.numerics import FAST
from refquant.numerics.arrays import Array

FAULTS: dict[str, dict[str, tuple[str, str]]] = {
    "exp": {
        "series": ("large-argument", "a Taylor series of twenty terms without range reduction"),
        "flushed": ("subnormal-result", "subnormal results become 0"),
        "half": ("ordinary", "the exponent is computed in float16"),
    },
    "log": {
        "flushed": ("subnormal-result", "subnormal arguments are taken for 0"),
        "common": ("ordinary", "the decimal logarithm is returned"),
    },
    "power": {
        "exp_log": ("rounded-intermediate", "exp(y log x), with the product rounded"),
        "zero_to_zero": ("not-finite", "0 to the power of 0 is NaN"),
    },
    "sin": {"one_constant": ("large-argument", "whole turns of a rounded 2 pi are taken away"), "degrees": ("ordinary", "x is in degrees")},
    "cos": {
        "one_constant": ("large-argument", "whole turns of a rounded 2 pi are taken away"),
        "as_sine": ("large-argument", "sin(x + pi / 2)"),
    },
    "erf": {"tanh": ("ordinary", "the tanh fit"), "of_complement": ("rounded-intermediate", "1 - erfc(x), which loses small arguments")},
}
"""``name: (flag that must catch it, what is wrong)`` by function."""


def elementary(inputs: Arrays, parameters: Parameters, *, name: str, fault: str = "") -> Mapping[str, Array]:
    """One function in the dtype of x; wrong in one way if a fault is named."""
    x = np.asarray(inputs["x"])
    with np.errstate(all="ignore"):
        found = _WRONG[name, fault](x, inputs) if fault else _right(name, x, inputs)
    return {"y": np.asarray(found, dtype=x.dtype)}


def _right(name: str, x: Array, inputs: Arrays) -> Any:
    return FAST.power(x, inputs["exponent"]) if name == "power" else getattr(FAST, name)(x)


def _series(x: Array) -> Array:
    total = term = np.ones_like(x)
    for n in range(1, 21):
        term = term * x / x.dtype.type(n)
        total = total + term
    return np.asarray(total)


def _flushed(x: Array) -> Array:
    return np.where(np.abs(x) < np.finfo(x.dtype).tiny, x.dtype.type(0), x)


def _turned(x: Array) -> Array:
    turn = x.dtype.type(2 * np.pi)
    return np.asarray(x - np.rint(x / turn) * turn)


def _half(x: Array) -> Array:
    return x.astype(np.float16).astype(x.dtype)


def _tanh_fit(x: Array) -> Array:
    z = 2 / np.sqrt(np.pi) * (x + 0.089 * x * x * x)
    return np.asarray(1 - 2 / (FAST.exp(2 * z) + 1))


_WRONG: dict[tuple[str, str], Any] = {
    ("exp", "series"): lambda x, given: _series(x),
    ("exp", "flushed"): lambda x, given: _flushed(FAST.exp(x)),
    ("exp", "half"): lambda x, given: FAST.exp(_half(x)),
    ("log", "flushed"): lambda x, given: FAST.log(_flushed(x)),
    ("log", "common"): lambda x, given: FAST.log(x) / FAST.log(np.full_like(x, 10)),
    ("power", "exp_log"): lambda x, given: FAST.exp(given["exponent"] * FAST.log(x)),
    ("power", "zero_to_zero"): lambda x, given: np.where((x == 0) & (given["exponent"] == 0), np.nan, FAST.power(x, given["exponent"])),
    ("sin", "one_constant"): lambda x, given: FAST.sin(_turned(x)),
    ("sin", "degrees"): lambda x, given: FAST.sin(x * x.dtype.type(np.pi / 180)),
    ("cos", "one_constant"): lambda x, given: FAST.cos(_turned(x)),
    ("cos", "as_sine"): lambda x, given: FAST.sin(x + x.dtype.type(np.pi / 2)),
    ("erf", "tanh"): lambda x, given: _tanh_fit(x),
    ("erf", "of_complement"): lambda x, given: 1 - (1 - FAST.erf(x)),
}

MUTANTS = tuple(
    Mutant(name=f"{name}-{fault}", operation=f"elementary.{name}", flag=flag, what=what, run=partial(elementary, name=name, fault=fault))
    for name, faults in FAULTS.items()
    for fault, (flag, what) in faults.items()
)
RIGHT = {f"elementary.{name}": partial(elementary, name=name) for name in FAULTS}
